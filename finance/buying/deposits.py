"""How much goes into a channel, and what the chain says became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from sqlalchemy import Engine, text

from finance.buying.channels import Channel
from finance.buying.limits import EVERY, Ask, Limits, Spending
from finance.buying.lost import ProvedLate
from finance.buying.onchain import ChainView, OnchainChannel
from finance.buying.proofs import adopt, adoption, none_charged
from finance.buying.purchase import channel_synced, deposited
from finance.buying.stored import read_again
from finance.buying.terms import Terms
from finance.errors import RpcUnavailable, StoreConflict
from finance.ledger import Account, entry
from finance.models import ChannelState
from finance.store import Batch, Increment, Store, Write

_BOOKED = text(
    "SELECT COALESCE(SUM(amount), 0) FROM ledger_entry"
    " WHERE account = 'deposited' AND channel_id = :channel_id"
)


def deposit_size(terms: Terms, channel: Channel, missing: int, calls: int, most: int) -> int:
    """Atoms to deposit: enough for `calls` calls, at least what the channel ever held and
    what the seller suggests (few insist, and they refuse less without harm); not above
    `most` unless the call itself needs it (the limits then refuse it)."""
    wish = max(missing, terms.min_deposit_atoms, terms.amount_atoms * calls, channel.balance)
    return max(missing, min(wish, most))


def most_to_deposit(limits: Limits, spending: Spending, ask: Ask, now: float) -> int:
    """What the limits leave for a deposit into this channel today."""
    channel_room = limits.of("deposit", ask.listing_id, ask.key_id) - ask.channel_atoms
    day_room = limits.of_counter("deposits", EVERY) - spending.spent("deposits", EVERY, now)
    return min(channel_room, day_room)


def state_seen(
    before: ChannelState, charged: int, onchain: OnchainChannel, deposit_pending: bool
) -> ChannelState:
    """What becomes of a channel by what the chain says of it, `charged` atoms in all.

    Who stopped a channel or has it refunded decides itself when that is over. While a
    withdrawal is pending the seller backs no voucher with that money: the channel is set
    aside, and taken up again afterwards if something is left in it.
    """
    match before:
        case ChannelState.STOPPED | ChannelState.REFUNDING:
            return before
        case _ if onchain.withdraw_requested_at:
            return ChannelState.WITHDRAWING
        case ChannelState.OPENING | ChannelState.OPEN:
            return ChannelState.OPEN if onchain.balance and not deposit_pending else before
        case ChannelState.WITHDRAWING | ChannelState.CLOSED:
            return ChannelState.OPEN if onchain.balance > charged else ChannelState.CLOSED


def booked_deposits(engine: Engine, channel_id_hex: str) -> int:
    """Atoms that went into a channel and did not come back, by the ledger; blocks."""
    with engine.connect() as connection:
        return int(connection.execute(_BOOKED, {"channel_id": channel_id_hex}).scalar_one())


class Deposits:
    """Keeps a channel's memory and row equal to the chain where it matters."""

    def __init__(
        self, store: Store, view: ChainView, spending: Spending, proved_late: ProvedLate
    ) -> None:
        self._store = store
        self._proved_late = proved_late
        self._view = view
        self._spending = spending

    async def sync(self, channel: Channel) -> None:
        """Read the channel from the chain and book what happened to its pending deposit.

        Raises RpcUnavailable or StoreUnavailable; nothing has changed then. On StoreConflict the
        channel says what its row says.
        """
        try:
            await self._sync(channel)
        except StoreConflict:
            await read_again(self._store.engine, channel)
            raise

    async def _sync(self, channel: Channel) -> None:
        onchain, used, expired = await self._look(channel)
        now = int(time.time())
        pending = channel.deposit is not None and not used and not expired
        charged = max(channel.charged, onchain.total_claimed)
        state = state_seen(ChannelState(channel.state), charged, onchain, pending)
        writes: list[Write] = []
        increments: Sequence[Increment] = ()
        if channel.deposit and used:
            writes.append(deposited(channel, channel.deposit, now))
        if channel.stored and not (channel.verified or pending):
            paid_in = channel.deposit.amount_atoms if channel.deposit and used else 0
            writes += await self._found(channel, onchain.balance - paid_in, now)
        if channel.stored and charged > channel.charged:
            # Only our own voucher can be claimed: we signed more than we remember.
            late = self._proved_late
            proof = await adoption(channel, charged, f"claimed:{charged}", now, late)
            writes, increments = [*writes, *proof.writes], proof.increments
        if channel.stored:
            writes.append(channel_synced(channel, charged, onchain, state, now))
            if channel.deposit_reservation and expired:
                writes += self._spending.release(channel.deposit_reservation)
            if state == ChannelState.CLOSED:
                writes += none_charged(channel, charged, self._spending, now)
            await self._store.commit(Batch(writes, increments))
        if charged > channel.charged:
            adopt(channel, charged)
        if state == ChannelState.CLOSED:
            channel.unresolved.clear()
        channel.balance, channel.total_claimed, _ = onchain
        channel.state, channel.stale = state, pending
        if not pending:
            # As long as a deposit may be mined between two looks, it is not known what is whose.
            channel.verified = True
            channel.deposit = channel.deposit_reservation = None

    async def _found(self, channel: Channel, balance: int, now: int) -> list[Write]:
        """The ledger row for what a channel held before our books knew of it, if any."""
        booked = await asyncio.to_thread(booked_deposits, self._store.engine, channel.id_hex)
        if balance <= booked:
            return []
        key = f"deposit:{channel.id_hex}:found:{balance}"
        atoms = balance - booked
        return [entry(key, Account.DEPOSITED, atoms, now, channel_id=channel.id_hex)]

    async def _look(self, channel: Channel) -> tuple[OnchainChannel, bool, bool]:
        """The channel; whether its pending deposit, if there is one, was used, or never will be."""
        deposit, payer = channel.deposit, channel.config.payer
        if deposit is None:
            return await self._view.channel(channel.id), False, False
        onchain, found = await self._view.deposit(channel.id, payer, deposit.nonce)
        return onchain, found.used, found.expired(deposit.valid_before)

    async def confirm(self, channel: Channel) -> bool:
        """Whether the chain shows the pending deposit; RPC trouble leaves it for later."""
        try:
            await self.sync(channel)
        except RpcUnavailable:
            channel.stale = True
        return not channel.stale
