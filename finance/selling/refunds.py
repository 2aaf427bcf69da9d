"""Gives a payer's unspent money back when it asks: claim what is ours, refund the rest.

The channel is closed to vouchers in the database before anything is sent, and opened
again only when the chain has answered; a crash in between is finished at the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine, Row, and_, bindparam, exists, select, update
from sqlalchemy.exc import SQLAlchemyError

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.sender import TxOutcome
from finance.chain.transactions import find_tx, unix_now
from finance.errors import (
    CallReverted,
    ChannelBusy,
    FinanceError,
    PaymentRefused,
    SettlementFailed,
    SettlementUnknown,
    StoreConflict,
)
from finance.models import ChainTx, ChannelState, SellerChannel, TxState
from finance.selling.claimable import claim_call, load_claimable, next_reference
from finance.selling.mirror import OnchainState, config_of, mirror_writes, state_of
from finance.selling.settlement_events import BATCH_SETTLEMENT, REFUNDED
from finance.selling.tools import SellerTools
from finance.store import Batch, Write
from finance.x402 import codes, vouchers

REFUND = "refund"
TIMEOUT_SECONDS = 60.0
REFUND_FAILED = "invalid_batch_settlement_evm_refund_transaction_failed"

_FOLLOW_SECONDS = 5.0
_PAUSE_SECONDS = 1.0
_LOG = logging.getLogger(__name__)
_CHANNEL = SellerChannel.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_CLOSE_TO_VOUCHERS = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.state == ChannelState.OPEN.value,
        _CHANNEL.c.charged_atoms == bindparam("charged"),
        _CHANNEL.c.streaming_atoms == 0,
    )
    .values(state=ChannelState.REFUNDING.value)
)
# Committed with the signed refund: a process that starts opens what nobody seems to refund.
_STILL_CLOSED = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.state == ChannelState.REFUNDING.value,
        _CHANNEL.c.charged_atoms == bindparam("charged"),
    )
    .values(state=ChannelState.REFUNDING.value)
)
_CLOSE_AGAIN = (
    update(_CHANNEL)
    .where(_CHANNEL.c.channel_id == bindparam("id"))
    .values(state=ChannelState.REFUNDING.value, refund_nonce=bindparam("nonce"))
)
# Two processes may follow one refund: the slower one ends none that was signed after it.
_LEFT = and_(_TX.c.state != TxState.INTENDED.value, _TX.c.state != TxState.REJECTED.value)
_END = (
    update(_CHANNEL)
    .where(
        _CHANNEL.c.channel_id == bindparam("id"),
        _CHANNEL.c.state == ChannelState.REFUNDING.value,
        ~exists().where(
            _TX.c.purpose == REFUND,
            _TX.c.ref.startswith(_CHANNEL.c.channel_id + ":"),
            _TX.c.id > bindparam("newest"),
            _LEFT,
        ),
    )
    .values(state=bindparam("next"))
)


class Refundable(Protocol):
    """A reserved channel (finance.selling.channels.Channel); `key` is its id in hex."""

    @property
    def key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Refunded:
    """The payer has `amount` atoms back; `state` is the channel afterwards."""

    tx_hash: str
    amount: int
    state: OnchainState


class Refunds:
    """Cooperative refunds, one channel each."""

    def __init__(self, tools: SellerTools) -> None:
        self._store, self._sender, self._rpc = tools.store, tools.sender, tools.rpc
        self._receiver, self._network = tools.receiver, tools.network
        self._channels, self._mirror = tools.channels, tools.mirror
        self._tasks: dict[asyncio.Task[Refunded], str] = {}  # and their channels
        self._seen: set[tuple[str, int]] = set()
        # The watcher may not have read the block before it was replaced.
        self._sender.when_taken_back(self._taken_back)

    async def start(self) -> None:
        """Finish refunds that a former run began. Start the sender first."""
        for channel_id, nonce in await asyncio.to_thread(self._refunding):
            self._spawn(channel_id, self._finish(channel_id, nonce))

    async def finish_abandoned(self) -> None:
        """Finish what another process is refunding since the look before this one: it may be
        gone. If it is not, whichever is first writes how it ended."""
        refunding = set(await asyncio.to_thread(self._refunding))
        for channel_id, nonce in refunding & self._seen:
            if channel_id not in self._tasks.values():
                self._spawn(channel_id, self._finish(channel_id, nonce))
        self._seen = refunding

    async def reorganised(self, channel_ids: Collection[str]) -> None:
        """The blocks of these channels' refunds are gone: they are on their way again, and what
        they take out backs no voucher meanwhile."""
        for channel_id in channel_ids:
            nonce = await asyncio.to_thread(self._newest_nonce, channel_id)
            if nonce is not None:
                again = {"id": channel_id, "nonce": nonce}
                await self._store.commit(Batch([Write(_CLOSE_AGAIN, again, None)]))
                await self._channels.reload(channel_id)
                if channel_id not in self._tasks.values():
                    self._spawn(channel_id, self._finish(channel_id, nonce))

    async def _taken_back(self, tx_hash: str) -> None:
        await self.reorganised(await asyncio.to_thread(self._refunded_in, tx_hash))

    async def stop(self) -> None:
        """Stop following; the rows say where to go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def refund(
        self, channel: Refundable, amount: int | None, timeout: float = TIMEOUT_SECONDS
    ) -> Refunded:
        """Give back `amount` atoms (None: all that is unspent). The caller has the channel
        reserved; no voucher is admitted until the chain has answered.

        Raises PaymentRefused, ChannelBusy, SettlementFailed (nothing was given back),
        SettlementUnknown (it is followed on), RpcUnavailable (nothing was sent).
        """
        channel_id = channel.key
        state = (await self._mirror.sync([channel_id]))[channel_id]
        row = await asyncio.to_thread(_row, self._store.engine, channel_id)
        atoms = refundable(state, row.charged_atoms, amount)
        try:
            seen = {"id": channel_id, "charged": row.charged_atoms}
            await self._store.commit(Batch([Write(_CLOSE_TO_VOUCHERS, seen)]))
        except StoreConflict:
            raise ChannelBusy("The channel is in use, or being refunded already.") from None
        task = self._spawn(channel_id, self._send_and_finish(row, atoms, state.refund_nonce))
        await self._channels.reload(channel_id)
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise SettlementUnknown("the refund is not confirmed yet") from None

    async def _send_and_finish(self, row: Row[Any], atoms: int, nonce: int) -> Refunded:
        try:
            await self._send(row, atoms, nonce)
        except (FinanceError, SQLAlchemyError) as error:
            # The transaction's row says whether anything has left.
            _LOG.warning("refund of %s: %s", row.channel_id, error)
        return await self._finish(row.channel_id, nonce)

    async def _send(self, row: Row[Any], atoms: int, nonce: int) -> None:
        ref = await self._reference(row.channel_id, nonce)
        data = vouchers.multicall_calldata(await self._calls(row, atoms, nonce))
        closed = Write(_STILL_CLOSED, {"id": row.channel_id, "charged": row.charged_atoms})
        await self._sender.send(
            REFUND, ref, BATCH_SETTLEMENT_ADDRESS, data, before_broadcast=lambda _: [closed]
        )

    async def _calls(self, row: Row[Any], atoms: int, nonce: int) -> list[bytes]:
        """Claim what is owed before the rest goes back, all in one transaction or nothing."""
        config, chain_id = config_of(row), self._network.chain_id
        engine = self._store.engine
        owed = await asyncio.to_thread(load_claimable, engine, self._network, [row.channel_id])
        calls = []
        if owed:
            calls.append(claim_call(owed, self._receiver, chain_id))
            calls.append(vouchers.settle_calldata(config.receiver, config.token))
        key = bytes.fromhex(row.channel_id[2:])
        signature = vouchers.sign_refund(self._receiver.private, key, nonce, atoms, chain_id)
        return [*calls, vouchers.refund_calldata(config, atoms, nonce, signature)]

    async def _finish(self, channel_id: str, nonce: int) -> Refunded:
        """Follow the channel's refund of this nonce to its end, however long it takes."""
        while True:
            try:
                return await self._try_finish(channel_id, nonce)
            except SettlementFailed:
                raise
            except (FinanceError, SQLAlchemyError) as error:
                _LOG.warning("refund of %s: %s; it is followed on", channel_id, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _try_finish(self, channel_id: str, nonce: int) -> Refunded:
        newest = await asyncio.to_thread(self._newest, f"{channel_id}:") or 0
        tx_id = await asyncio.to_thread(self._newest, f"{channel_id}:{nonce}:")
        if tx_id is None:
            await self._reopen(channel_id, newest)
            raise SettlementFailed("the refund was not sent", REFUND_FAILED)
        outcome = await self._sender.outcome(tx_id, _FOLLOW_SECONDS)
        state = (await self._mirror.read([channel_id], outcome.block_number or 0))[channel_id]
        if state.refund_nonce <= nonce:
            await self._send_again(channel_id, nonce, outcome)
        await self._end(channel_id, state, tx_id)
        if outcome.state not in (TxState.MINED, TxState.FINAL):
            raise SettlementFailed("the chain refused the refund", REFUND_FAILED)
        amount = _refunded(channel_id, outcome)
        if not amount:
            raise SettlementFailed("nothing was left to refund", codes.REFUND_NO_BALANCE)
        return Refunded(outcome.tx_hash or "", amount, state)

    async def _send_again(self, channel_id: str, nonce: int, outcome: TxOutcome) -> None:
        """Its nonce is free, so anybody who has seen the signature may still send the refund: it
        goes without the claims before it, which have failed. Returns when the chain refuses it
        like that too; else raises SettlementUnknown, and what sending raises."""
        if outcome.state is not TxState.REVERTED:
            raise SettlementUnknown("a reorg took the refund back")
        tx = await asyncio.to_thread(find_tx, self._store.engine, outcome.tx_id)
        assert tx is not None
        calls = vouchers.calls_of_multicall(tx.data)
        if len(calls) == 1:
            return
        ref = await self._reference(channel_id, nonce)
        alone = vouchers.multicall_calldata(calls[-1:])
        with suppress(CallReverted):
            await self._sender.send(REFUND, ref, BATCH_SETTLEMENT_ADDRESS, alone)
            raise SettlementUnknown("the refund is sent without the claims before it")

    async def _reference(self, channel_id: str, nonce: int) -> str:
        base, wallet = f"{channel_id}:{nonce}", self._sender.address
        return await asyncio.to_thread(next_reference, self._store.engine, REFUND, base, wallet)

    async def _reopen(self, channel_id: str, newest: int) -> None:
        """As the mirror has it: it may know a refund already that a former run did not end."""
        state = state_of(await asyncio.to_thread(_row, self._store.engine, channel_id))
        await self._store.commit(Batch([Write(_END, _ended(channel_id, state, newest), None)]))
        await self._channels.reload(channel_id)

    async def _end(self, channel_id: str, state: OnchainState, newest: int) -> None:
        writes = [
            Write(_END, _ended(channel_id, state, newest), None),
            *mirror_writes(channel_id, state, unix_now()),
        ]
        await self._store.commit(Batch(writes))
        await self._channels.reload(channel_id)

    def _spawn(
        self, channel_id: str, work: Coroutine[Any, Any, Refunded]
    ) -> asyncio.Task[Refunded]:
        task = asyncio.create_task(work)
        self._tasks[task] = channel_id
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Refunded]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.warning("a refund ended with: %s", error)

    def _refunding(self) -> list[tuple[str, int]]:
        query = select(_CHANNEL.c.channel_id, _CHANNEL.c.refund_nonce).where(
            _CHANNEL.c.chain_id == self._network.chain_id,
            _CHANNEL.c.state == ChannelState.REFUNDING,
        )
        with self._store.engine.connect() as connection:
            return [(row.channel_id, row.refund_nonce) for row in connection.execute(query)]

    def _refunded_in(self, tx_hash: str) -> list[str]:
        query = select(_TX.c.ref).where(_TX.c.purpose == REFUND, _TX.c.tx_hash == tx_hash)
        with self._store.engine.connect() as connection:
            return [ref.split(":")[0] for ref in connection.scalars(query)]

    def _newest(self, reference: str) -> int | None:
        """The last transaction that has left, or may have."""
        found = self._sent(_TX.c.id, reference)
        return None if found is None else int(found)

    def _newest_nonce(self, channel_id: str) -> int | None:
        ref = self._sent(_TX.c.ref, f"{channel_id}:")
        return None if ref is None else int(ref.split(":")[1])

    def _sent(self, column: Any, reference: str) -> Any:
        query = (
            select(column)
            .where(
                _TX.c.purpose == REFUND,
                _TX.c.ref.startswith(reference, autoescape=True),
                _LEFT,
            )
            .order_by(_TX.c.id.desc())
            .limit(1)
        )
        with self._store.engine.connect() as connection:
            return connection.scalar(query)


def refundable(state: OnchainState, charged: int, amount: int | None) -> int:
    """Atoms to give back: `amount`, or all that is neither charged nor claimed.

    Raises PaymentRefused when there is not so much, or nothing.
    """
    unspent = state.balance - max(charged, state.total_claimed)
    if unspent <= 0:
        raise PaymentRefused("Nothing is left to refund.", codes.REFUND_NO_BALANCE)
    if amount is None:
        return unspent
    if not 0 < amount <= unspent:
        message = f"The channel has {unspent} atoms left to refund."
        raise PaymentRefused(message, codes.REFUND_AMOUNT_INVALID)
    return amount


def _ended(channel_id: str, state: OnchainState, newest: int) -> dict[str, str | int]:
    """An empty channel is closed; its row stays, a new deposit opens it again."""
    empty = state.balance <= state.total_claimed
    following = ChannelState.CLOSED if empty else ChannelState.OPEN
    return {"id": channel_id, "next": following.value, "newest": newest}


def _row(engine: Engine, channel_id: str) -> Row[Any]:
    query = select(_CHANNEL).where(_CHANNEL.c.channel_id == channel_id)
    with engine.connect() as connection:
        row: Row[Any] = connection.execute(query).one()
        return row


def _refunded(channel_id: str, outcome: TxOutcome) -> int:
    return sum(
        int.from_bytes(log.data[:32], "big")
        for log in outcome.logs
        if log.address == BATCH_SETTLEMENT and log.topics[:2] == (REFUNDED, channel_id)
    )
