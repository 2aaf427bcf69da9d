"""The channels payers pay us through: kept in memory, true in the database.

A voucher is admitted by what memory says and charged by a guarded UPDATE, so a
stale memory can refuse a call but never charge one wrongly. `busy` serializes the
requests of a channel inside the process, finance.selling.turns those of several.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, Row, text

from finance.errors import ChannelBusy, RpcUnavailable, StoreConflict
from finance.ledger import Account, charge_key, entry
from finance.models import ChannelState
from finance.selling.admission import ChannelBooks
from finance.selling.long_answers import broken_streams, stream_broken
from finance.selling.mirror import Mirror, OnchainState, config_of
from finance.selling.turns import await_turn, end_turn
from finance.store import Batch, Locks, Store, Write
from finance.x402.values import ChannelConfig, VoucherState
from finance.x402.values import ChannelState as WireState

MAX_IN_MEMORY = 100_000
# How often it is asked whether the payer of a long answer takes its price back, and how long it
# may take then: the shortest delay of a withdrawal is 900 s (x402 batch-settlement).
LOOK_SECONDS = 5.0
LEAVE_SECONDS = 60.0
# How long a request waits for what one before it has still to write.
ENDING_SECONDS = 5.0

_CHARGED = (
    "UPDATE seller_channel SET charged_atoms = :charged, signed_atoms = :signed,"
    " voucher_signature = :signature, last_request_at = :at"
)
_AS_DECIDED_ON = (
    " WHERE channel_id = :channel_id AND charged_atoms = :seen AND streaming_atoms = 0"
    " AND state IN ('opening', 'open') AND balance_atoms >= :signed"
)
CHARGE = text(_CHARGED + _AS_DECIDED_ON)
CHARGE_STREAM = text(
    _CHARGED + ", streaming_atoms = :streaming, streaming_owner = :owner" + _AS_DECIDED_ON
)
OPEN_CHANNEL = text(
    "INSERT INTO seller_channel (channel_id, chain_id, payer, payer_authorizer, receiver,"
    " receiver_authorizer, token, withdraw_delay, salt, state, balance_atoms,"
    " total_claimed_atoms, withdraw_requested_at, withdraw_amount_atoms, refund_nonce,"
    " synced_at, synced_block, charged_atoms, streaming_atoms, streaming_owner, signed_atoms,"
    " voucher_signature, last_request_at)"
    " VALUES (:channel_id, :chain_id, :payer, :payer_authorizer, :receiver,"
    " :receiver_authorizer, :token, :withdraw_delay, :salt, :state, 0, 0, 0, 0, 0, 0,"
    " 0, 0, 0, 0, 0, '0x', :at) ON CONFLICT (channel_id) DO NOTHING"
)


class Channel:
    """One channel in memory. Amounts in atoms; `id` 32 bytes, `key` its 0x hex."""

    __slots__ = (
        "balance",
        "busy",
        "charged",
        "checked_for",
        "config",
        "ending",
        "id",
        "key",
        "payer",
        "refund_nonce",
        "settling",
        "signature",
        "signed",
        "state",
        "streaming",
        "synced_at",
        "total_claimed",
        "turn",
        "withdraw_amount",
        "withdraw_requested_at",
    )

    def __init__(self, channel_id: bytes, config: ChannelConfig) -> None:
        self.id = channel_id
        self.key = "0x" + channel_id.hex()
        self.config = config
        self.payer = "0x" + config.payer.hex()
        self.busy = False
        self.turn = 0  # counts the requests that held it
        self.ending: asyncio.Event | None = None  # of an answer that was given whole
        self.settling = False  # a deposit or refund is on its way: nothing else goes
        self.checked_for: object = None  # the terms its configuration was found to fit
        self.state = str(ChannelState.OPENING)
        self.balance = self.total_claimed = self.withdraw_amount = 0
        self.withdraw_requested_at = self.refund_nonce = self.synced_at = 0
        self.charged = self.streaming = self.signed = 0
        self.signature = b""

    @property
    def at_risk(self) -> int:
        """Charged for delivered calls and not yet claimed on-chain (law 8)."""
        return self.charged - self.streaming - self.total_claimed

    def books(self) -> ChannelBooks:
        """What admission decides on."""
        withdrawing = self.withdraw_amount if self.withdraw_requested_at else 0
        return ChannelBooks(
            self.charged, self.signed, self.signature, self.balance, self.total_claimed, withdrawing
        )

    def wire_state(self) -> WireState:
        """As told to clients."""
        return WireState(
            self.id,
            self.balance,
            self.total_claimed,
            self.withdraw_requested_at,
            self.refund_nonce,
            self.charged,
        )

    def voucher_state(self) -> VoucherState | None:
        """The best voucher held, for a corrective 402."""
        return VoucherState(self.signed, self.signature) if self.signature else None

    def take_row(self, row: Row[Any]) -> None:
        """Become what the database says; `busy` is ours."""
        self.state = row.state
        self.balance, self.total_claimed = row.balance_atoms, row.total_claimed_atoms
        self.withdraw_requested_at = row.withdraw_requested_at
        self.withdraw_amount, self.refund_nonce = row.withdraw_amount_atoms, row.refund_nonce
        self.synced_at = row.synced_at
        self.charged, self.streaming = row.charged_atoms, row.streaming_atoms
        self.signed, self.signature = row.signed_atoms, bytes.fromhex(row.voucher_signature[2:])


class SellerChannels:
    """All channels this process has seen, loaded on first use."""

    def __init__(self, store: Store, mirror: Mirror, locks: Locks | None = None) -> None:
        """`locks` where other processes sell from the same books."""
        self._store, self._mirror, self._locks = store, mirror, locks
        self._channels: dict[str, Channel] = {}
        mirror.subscribe(self.apply_onchain)

    def known(self, channel_id: bytes) -> Channel | None:
        """The channel if it is in memory."""
        return self._channels.get("0x" + channel_id.hex())

    async def get(self, channel_id: bytes | str) -> Channel | None:
        """The channel, from memory or the database; None if neither knows it."""
        key = channel_id if isinstance(channel_id, str) else "0x" + channel_id.hex()
        channel = self._channels.get(key)
        if channel is not None:
            return channel
        loaded = await self._load(key)
        if loaded is None:
            return None
        self._make_room()
        # Another request may have loaded it meanwhile; there is only ever one object.
        return self._channels.setdefault(key, loaded)

    async def find(self, config: ChannelConfig, channel_id: bytes) -> Channel | None:
        """Like `get`, but asks the chain for a channel that the books do not know.

        `config` must be the one that `channel_id` is the hash of. Raises RpcUnavailable.
        """
        channel = await self.get(channel_id)
        if channel is not None:
            return channel
        if await self._mirror.adopt(config) is None:
            return None
        return await self.get(channel_id)

    async def refresh(self, channel: Channel) -> None:
        """Read the channel from the chain again; `apply_onchain` takes it over. Its other books
        are left alone: it may be serving a call. Raises RpcUnavailable."""
        await self._mirror.sync([channel.key])

    def note_claimed(self, channel_id: str, total_claimed: int) -> None:
        """After the commit of a claim: memory follows. The channel may be serving a call, so
        its other books are left alone."""
        channel = self._channels.get(channel_id)
        if channel is not None:
            channel.total_claimed = max(channel.total_claimed, total_claimed)

    async def reload(self, channel_id: str) -> None:
        """Make memory equal to the database, after somebody else has written there.

        Only for whoever holds the channel (reserved, settling, or closed to vouchers): a
        charge made while the row is read would be forgotten.
        """
        channel = self._channels.get(channel_id)
        if channel is None:
            return
        loaded = await self._load(channel_id)
        if loaded is None:
            self._channels.pop(channel_id, None)
            return
        for name in Channel.__slots__:
            if name not in ("busy", "turn", "ending", "checked_for"):
                setattr(channel, name, getattr(loaded, name))

    async def _load(self, key: str) -> Channel | None:
        return await asyncio.to_thread(_load, self._store.engine, self._mirror.chain_id, key)

    def is_fresh(self, channel: Channel, now: int) -> bool:
        """Whether a withdrawal started unseen could not be over yet: three looks per delay."""
        return abs(now - channel.synced_at) <= channel.config.withdraw_delay // 3

    async def payer_leaves(self, channel: Channel) -> None:
        """Returns once what is being given on this channel must end: its payer takes its price
        back, and no call can be claimed before its end."""
        while channel.charged <= channel.books().backing:
            await asyncio.sleep(LOOK_SECONDS)
            if not self.is_fresh(channel, int(time.time())):
                with suppress(RpcUnavailable):
                    await self.refresh(channel)
        await asyncio.sleep(LEAVE_SECONDS)

    @property
    def shared(self) -> bool:
        """Whether memory may be behind the database: other processes sell from it."""
        return self._locks is not None

    async def take(self, channel: Channel) -> int:
        """`reserve`, against other processes too; memory is what the database says then. Waits,
        not for long, while a long answer's end is being written: whoever has it may ask again at
        once. Raises ChannelBusy."""
        if channel.ending is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(channel.ending.wait(), ENDING_SECONDS)
        turn = self.reserve(channel)
        if self._locks is None:
            return turn
        try:
            await await_turn(self._locks, channel.id)
            await self.reload(channel.key)
            if channel.settling:
                raise ChannelBusy("A deposit or refund of this channel is on its way.")
        except BaseException:
            self.release(channel, turn)
            raise
        return turn

    def reserve(self, channel: Channel) -> int:
        """Take the channel for one request of this process; its turn. Raises ChannelBusy while
        another request holds it, or a deposit is on its way to the chain."""
        if channel.busy or channel.settling:
            raise ChannelBusy("Another request of this channel is in flight.")
        channel.busy = True
        channel.turn += 1
        return channel.turn

    def release(self, channel: Channel, turn: int | None = None) -> None:
        """Give the channel back. With `turn`, only if it is still that request's: one that
        gave it back before its answer left must not take it from the next."""
        if channel.busy and (turn is None or turn == channel.turn):
            channel.busy = False
            if channel.ending is not None:
                channel.ending.set()
                channel.ending = None
            if self._locks is not None:
                end_turn(self._locks, channel.id)

    def apply_onchain(self, channel_id: str, state: OnchainState) -> None:
        """Take over what the chain says; the mirror has written the row."""
        channel = self._channels.get(channel_id)
        if channel is None:
            return
        channel.balance, channel.total_claimed = state.balance, state.total_claimed
        channel.withdraw_requested_at = state.withdraw_requested_at
        channel.withdraw_amount, channel.refund_nonce = state.withdraw_amount, state.refund_nonce
        channel.synced_at = int(time.time())
        if channel.charged < state.total_claimed:
            # Our books are older than the chain (a restored backup): see the mirror's rebase.
            channel.charged = channel.signed = state.total_claimed
            channel.signature = b""

    def in_memory(self) -> Iterable[Channel]:
        """All channels in memory."""
        return self._channels.values()

    async def reverse_broken_streams(self, departed: Callable[[Set[int]], Set[int]]) -> int:
        """Take back charges whose answer was being streamed when their process died; how many.

        `departed` tells (blocking) which of these processes are gone. Memory is left alone: a call
        that is being made was decided on it, and whoever takes the channel next reads the row.
        """
        found = await asyncio.to_thread(broken_streams, self._store.engine, departed)
        now, taken_back = int(time.time()), 0
        for each in found:
            # Another process may have noticed as well.
            with suppress(StoreConflict):
                await self._store.commit(Batch(stream_broken(each, now)))
                taken_back += 1
        return taken_back

    def _make_room(self) -> None:
        if len(self._channels) < MAX_IN_MEMORY:
            return
        idle = next((k for k, c in self._channels.items() if not (c.busy or c.settling)), None)
        if idle is not None:
            del self._channels[idle]


def charge_writes(
    channel: Channel,
    amount: int,
    signed: int,
    signature: bytes,
    call_id: str,
    at: int,
) -> list[Write]:
    """Charge `amount` against the voucher over `signed`; refused if the books have moved."""
    charge = {
        "channel_id": channel.key,
        "seen": channel.charged,
        "charged": channel.charged + amount,
        "signed": signed,
        "signature": "0x" + signature.hex(),
        "at": at,
    }
    key = charge_key(call_id)
    booked = entry(key, Account.CHARGED, amount, at, channel_id=channel.key, call_id=call_id)
    return [Write(CHARGE, charge), booked]


def stream_writes(charge: list[Write], amount: int, owner: int) -> list[Write]:
    """The same charge for an answer that is yet to be streamed, by process `owner`."""
    row, booked = charge
    params = {**row.params, "streaming": amount, "owner": owner}
    return [Write(CHARGE_STREAM, params), booked]


def note_charge(channel: Channel, amount: int, signed: int, signature: bytes) -> None:
    """After the commit of `charge_writes`: memory follows."""
    channel.charged += amount
    channel.signed, channel.signature = signed, signature


def open_channel(channel_id: bytes, config: ChannelConfig, chain_id: int, at: int) -> Write:
    """A row for a channel whose first deposit is on its way; none if there is one."""
    return Write(
        OPEN_CHANNEL,
        {
            "channel_id": "0x" + channel_id.hex(),
            "chain_id": chain_id,
            "payer": "0x" + config.payer.hex(),
            "payer_authorizer": "0x" + config.payer_authorizer.hex(),
            "receiver": "0x" + config.receiver.hex(),
            "receiver_authorizer": "0x" + config.receiver_authorizer.hex(),
            "token": "0x" + config.token.hex(),
            "withdraw_delay": config.withdraw_delay,
            "salt": "0x" + config.salt.hex(),
            "state": str(ChannelState.OPENING),
            "at": at,
        },
        rows=None,
    )


_BY_ID = text("SELECT * FROM seller_channel WHERE channel_id = :id AND chain_id = :chain")
_SETTLING = text(
    "SELECT 1 FROM onchain_payment WHERE channel_id = :id AND kind = 'deposit'"
    " AND state IN ('owed', 'sent') LIMIT 1"
)


def _load(engine: Engine, chain_id: int, key: str) -> Channel | None:
    with engine.connect() as connection:
        row = connection.execute(_BY_ID, {"id": key, "chain": chain_id}).one_or_none()
        if row is None:
            return None
        channel = Channel(bytes.fromhex(key[2:]), config_of(row))
        channel.take_row(row)
        pending = connection.execute(_SETTLING, {"id": key}).first() is not None
        channel.settling = pending or row.state == ChannelState.REFUNDING
        return channel
