"""What the chain holds for our payers' channels, mirrored in `seller_channel`.

A voucher is admitted on mirrored state, so the mirror must never go back in time: readings
older than the newest one seen are refused, whichever endpoint they come from, and a row takes
none that is older than its own, whichever process writes it. An endpoint that once named a block
which is not there yet is believed for NEWEST_SECONDS.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from sqlalchemy import Row, bindparam, case, func, insert, select, text, update

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS, MULTICALL3_ADDRESS
from finance.chain.rpc import Rpc
from finance.errors import RpcUnavailable, StoreConflict
from finance.ledger import Account, entry
from finance.models import ChannelState, SellerChannel
from finance.networks import Network
from finance.store import Batch, Store, Write
from finance.x402.abi import calldata
from finance.x402.digest import channel_id as channel_id_of
from finance.x402.text import to_hex
from finance.x402.values import ChannelConfig

# Multicall3 takes any number; ours on the development chain takes 128 calls.
CHANNELS_PER_CALL = 40
MAX_AGE_SECONDS = 300
NEWEST_SECONDS = 600
_TOO_MANY = 2**63  # of blocks, atoms or nonces: no chain has them, no column takes them

_CHANNEL = SellerChannel.__table__  # type: ignore[attr-defined]
_UPDATE = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        (_CHANNEL.c.synced_block <= bindparam("block"))
        | (func.abs(bindparam("now") - _CHANNEL.c.synced_at) > NEWEST_SECONDS),
    )
    .values(
        balance_atoms=bindparam("balance"),
        total_claimed_atoms=bindparam("claimed"),
        withdraw_requested_at=bindparam("withdraw_at"),
        withdraw_amount_atoms=bindparam("withdraw_amount"),
        refund_nonce=bindparam("nonce"),
        synced_at=bindparam("now"),
        synced_block=bindparam("block"),
        state=case(
            (
                # Its payer may have filled it without us, also one whose first deposit we
                # never sent.
                (
                    (_CHANNEL.c.state == ChannelState.CLOSED.value)
                    | (_CHANNEL.c.state == ChannelState.OPENING.value)
                )
                & (_CHANNEL.c.charged_atoms < bindparam("balance")),
                ChannelState.OPEN.value,
            ),
            else_=_CHANNEL.c.state,
        ),
    )
)
# Books older than the chain (a restored backup): what was claimed had been charged. The
# voucher in the row is then an older one and proves nothing any more.
_BOOK_REBASE = text(
    "INSERT INTO ledger_entry (key, account, amount, channel_id, at)"
    " SELECT :key, 'charged', :claimed - charged_atoms, channel_id, :now FROM seller_channel"
    " WHERE channel_id = :id AND charged_atoms < :claimed"
)
_REBASE = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.charged_atoms < bindparam("claimed"),
    )
    .values(
        charged_atoms=bindparam("claimed"),
        signed_atoms=bindparam("claimed"),
        voucher_signature="0x",
    )
)
_ANY_BLOCK = (
    update(_CHANNEL).where(_CHANNEL.c.chain_id == bindparam("chain")).values(synced_block=0)
)
_INSERT = insert(_CHANNEL)


@dataclass(frozen=True, slots=True)
class OnchainState:
    """One channel in BatchSettlement as of `block_number`; atoms, `withdraw_requested_at`
    in Unix seconds (0: no withdrawal pending)."""

    balance: int
    total_claimed: int
    withdraw_requested_at: int = 0
    withdraw_amount: int = 0
    refund_nonce: int = 0
    block_number: int = 0


Listener = Callable[[str, OnchainState], None]


class Mirror:
    """Reads channels from the chain, many at once, and keeps the rows and listeners equal."""

    def __init__(self, store: Store, rpc: Rpc, network: Network) -> None:
        self._store = store
        self._rpc = rpc
        self._network = network
        self._listeners: list[Listener] = []
        self._newest_block, self._newest_at = 0, 0.0
        self._turn = asyncio.Lock()
        self._telling = asyncio.Lock()

    @property
    def chain_id(self) -> int:
        """Of the network whose channels these are; those of a former one wait for it."""
        return self._network.chain_id

    def subscribe(self, listener: Listener) -> None:
        """Call `listener(channel_id, state)` after each change of a row, on the event loop."""
        self._listeners.append(listener)

    async def announce(self, channel_ids: Collection[str]) -> dict[str, OnchainState]:
        """Tell the listeners what the rows hold after a commit; those that exist."""
        async with self._telling:  # or what was read first may be told last
            states = await asyncio.to_thread(self._rows, channel_ids)
            for channel_id, state in states.items():
                for listener in self._listeners:
                    listener(channel_id, state)
        return states

    async def reorganised(self) -> None:
        """The chain went back: older blocks are the newest ones again. A look under way, which may
        have seen the blocks that are gone, ends first."""
        any_block = Write(_ANY_BLOCK, {"chain": self._network.chain_id}, None)
        async with self._turn:
            self._newest_block = 0
            await self._store.commit(Batch([any_block]))

    async def read(self, channel_ids: Sequence[str], min_block: int = 0) -> dict[str, OnchainState]:
        """State by channel id, of CHANNELS_PER_CALL at the most. Raises RpcUnavailable, also when
        no endpoint has reached `min_block` or the newest block ever read here."""
        calls = [_BLOCK_NUMBER, *(call for each in channel_ids for call in state_calls(each))]
        block, *results = await self._rpc.multicall(calls)
        number = self._require_new(_word(block), min_block)
        return {
            channel_id: read_state(results[3 * index : 3 * index + 3], number)
            for index, channel_id in enumerate(channel_ids)
        }

    def _require_new(self, block_number: int, min_block: int) -> int:
        counts = time.monotonic() - self._newest_at <= NEWEST_SECONDS
        if block_number < max(min_block, self._newest_block if counts else 0):
            raise RpcUnavailable(f"the endpoint lags behind: it is at block {block_number}")
        self._newest_block, self._newest_at = block_number, time.monotonic()
        return block_number

    async def sync(self, channel_ids: Iterable[str], min_block: int = 0) -> dict[str, OnchainState]:
        """Read channels, write their rows (those that exist), tell the listeners. What the rows
        hold then, or the chain where there is none."""
        wanted = sorted(set(channel_ids))
        states: dict[str, OnchainState] = {}
        async with self._turn:
            for start in range(0, len(wanted), CHANNELS_PER_CALL):
                part = await self.read(wanted[start : start + CHANNELS_PER_CALL], min_block)
                now = int(time.time())
                rows = [mirror_writes(each, state, now) for each, state in part.items()]
                await self._store.commit(Batch(list(chain.from_iterable(rows))))
                states |= part | await self.announce(part)
        return states

    async def adopt(self, config: ChannelConfig) -> OnchainState | None:
        """Take up a channel that the chain knows and we do not; None if neither does.

        Its books begin at what was claimed (x402 batch-settlement, "Server State Loss").
        An existing row is only brought up to date.
        """
        channel_id = to_hex(channel_id_of(config, self._network.chain_id))
        state = (await self.read([channel_id]))[channel_id]
        if not state.balance:
            return None
        try:
            await self._store.commit(_adoption(channel_id, config, state, self._network))
        except StoreConflict:
            return (await self.sync([channel_id]))[channel_id]
        await self.announce([channel_id])
        return state

    async def refresh(self, now: int, max_age_seconds: int = MAX_AGE_SECONDS) -> int:
        """Bring channels up to date that were not looked at for a while; their number.

        A payer's withdrawal ends no sooner than `withdraw_delay` after it was started:
        three looks in that time see it even if two fail.
        """
        stale = await asyncio.to_thread(self._stale, now, max_age_seconds)
        await self.sync(stale)
        return len(stale)

    def _stale(self, now: int, max_age_seconds: int) -> list[str]:
        age = func.abs(now - _CHANNEL.c.synced_at)  # or a clock that was wrong hides it
        query = select(_CHANNEL.c.channel_id).where(
            (age >= max_age_seconds) | (3 * age >= _CHANNEL.c.withdraw_delay),
            _CHANNEL.c.chain_id == self._network.chain_id,
            _CHANNEL.c.state.not_in([ChannelState.OPENING, ChannelState.CLOSED]),
        )
        with self._store.engine.connect() as connection:
            return list(connection.scalars(query))

    def _rows(self, channel_ids: Collection[str]) -> dict[str, OnchainState]:
        query = select(_CHANNEL).where(_CHANNEL.c.channel_id.in_(channel_ids))
        with self._store.engine.connect() as connection:
            return {row.channel_id: state_of(row) for row in connection.execute(query)}


def state_calls(channel_id: str) -> list[tuple[str, bytes]]:
    """The three views that make up an OnchainState."""
    key = bytes.fromhex(channel_id[2:])
    views = ("channels", "pendingWithdrawals", "refundNonce")
    return [(BATCH_SETTLEMENT_ADDRESS, calldata(view, ("bytes32",), key)) for view in views]


def read_state(results: Sequence[tuple[bool, bytes]], block_number: int) -> OnchainState:
    """Decode the answers of `state_calls`; raise RpcUnavailable for anything odd."""
    try:
        if not all(succeeded for succeeded, _ in results):
            raise ValueError("a view failed")
        balance, claimed = decode(("uint128", "uint128"), results[0][1])
        amount, since = decode(("uint128", "uint40"), results[1][1])
        (nonce,) = decode(("uint256",), results[2][1])
        if max(balance, claimed, amount, nonce) >= _TOO_MANY:
            raise ValueError("more than there is")
    except (ValueError, DecodingError) as error:
        raise RpcUnavailable("BatchSettlement answered nonsense") from error
    return OnchainState(balance, claimed, since, amount, nonce, block_number)


def mirror_writes(channel_id: str, state: OnchainState, now: int) -> list[Write]:
    """The row's mirror set to `state`; for a row that may not exist."""
    values = {
        "id": channel_id,
        "balance": state.balance,
        "claimed": state.total_claimed,
        "withdraw_at": state.withdraw_requested_at,
        "withdraw_amount": state.withdraw_amount,
        "nonce": state.refund_nonce,
        "block": state.block_number,
        "now": now,
    }
    rebase = {"id": channel_id, "claimed": state.total_claimed}
    booked = {**rebase, "key": f"rebase:{channel_id}:{state.total_claimed}", "now": now}
    return [
        Write(_UPDATE, values, None),
        Write(_BOOK_REBASE, booked, None),
        Write(_REBASE, rebase, None),
    ]


def config_of(row: SellerChannel | Row[Any]) -> ChannelConfig:
    """The channel's terms with bytes inside, from any row that has its columns."""
    return ChannelConfig(
        bytes.fromhex(row.payer[2:]),
        bytes.fromhex(row.payer_authorizer[2:]),
        bytes.fromhex(row.receiver[2:]),
        bytes.fromhex(row.receiver_authorizer[2:]),
        bytes.fromhex(row.token[2:]),
        row.withdraw_delay,
        bytes.fromhex(row.salt[2:]),
    )


def state_of(row: SellerChannel | Row[Any]) -> OnchainState:
    """The mirror as a row holds it."""
    return OnchainState(
        row.balance_atoms,
        row.total_claimed_atoms,
        row.withdraw_requested_at,
        row.withdraw_amount_atoms,
        row.refund_nonce,
        row.synced_block,
    )


def _adoption(
    channel_id: str, config: ChannelConfig, state: OnchainState, network: Network
) -> Batch:
    now, claimed = int(time.time()), state.total_claimed
    values = {
        "channel_id": channel_id,
        "chain_id": network.chain_id,
        "payer": to_hex(config.payer),
        "payer_authorizer": to_hex(config.payer_authorizer),
        "receiver": to_hex(config.receiver),
        "receiver_authorizer": to_hex(config.receiver_authorizer),
        "token": to_hex(config.token),
        "withdraw_delay": config.withdraw_delay,
        "salt": to_hex(config.salt),
        "state": ChannelState.OPEN.value,
        "balance_atoms": state.balance,
        "total_claimed_atoms": claimed,
        "withdraw_requested_at": state.withdraw_requested_at,
        "withdraw_amount_atoms": state.withdraw_amount,
        "refund_nonce": state.refund_nonce,
        "synced_at": now,
        "synced_block": state.block_number,
        "charged_atoms": claimed,
        "streaming_atoms": 0,
        "streaming_owner": 0,
        "signed_atoms": claimed,
        "voucher_signature": "0x",
        "last_request_at": now,
    }
    writes = [Write(_INSERT, values)]
    if claimed:
        key = f"baseline:{channel_id}"
        writes.append(entry(key, Account.CHARGED, claimed, now, channel_id=channel_id))
    return Batch(writes)


def _word(result: tuple[bool, bytes]) -> int:
    succeeded, data = result
    number = int.from_bytes(data, "big")
    if not succeeded or len(data) != 32 or number >= _TOO_MANY:
        raise RpcUnavailable("Multicall3 answered nonsense")
    return number


_BLOCK_NUMBER = (MULTICALL3_ADDRESS, calldata("getBlockNumber", ()))
