"""Closing a channel we paid through: its unspent money comes back to the wallet.

First the seller is asked for a refund. Is it gone, or does it not give it, the money is
taken out through the contract: a withdrawal is announced, the channel's delay passes (in
which the seller claims what it is owed), then it is finalized. Each step is stored before
it is taken (finance.operations.ClosingStep) and each asks the chain first, so that a
restart goes on where it was. No voucher is signed on the channel meanwhile: its state is
`refunding`, in memory and in the row that every signature is guarded by.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from finance.buying.answers import check_correction
from finance.buying.buyer import Buyer
from finance.buying.channels import Channel
from finance.buying.closing_rows import (
    ClosingRow,
    begin_writes,
    end_writes,
    open_closings,
    read_closing,
    step_write,
)
from finance.buying.proofs import adopt, adoption, none_charged
from finance.buying.purchase import channel_charged
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.errors import (
    CallReverted,
    ChannelNotClosable,
    FinanceError,
    SellerUntrustworthy,
    SettlementUnknown,
    StoreConflict,
)
from finance.models import ChannelState, TxState
from finance.operations import ClosingStep
from finance.store import Batch, Write
from finance.x402 import values
from finance.x402.abi import calldata
from finance.x402.settlement_calls import finalize_withdraw_calldata, initiate_withdraw_calldata
from finance.x402.vouchers import sign_voucher

LEAVE, TAKE = "channel_leave", "channel_take"
_CLOSABLE = (ChannelState.OPEN, ChannelState.STOPPED, ChannelState.WITHDRAWING)
_BUSY_SECONDS = 5.0
_BUSY_LOOKS = 100
_OUTCOME_SECONDS = 30.0
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
# How long the chain is given to show a refund the seller says it made.
_SHOW_SECONDS = 30.0
_OTHERS = "closings of other processes"

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the seller said to the wish for a refund: `why` it did not, empty if it says it
    did; `correction` is what it offers as proof that another amount was charged."""

    why: str = ""
    correction: tuple[values.ChannelState, values.VoucherState] | None = None


class AskRefund(Protocol):
    """Brings a wish for a refund to the seller (node.treasury.refund_request)."""

    async def __call__(self, channel_id: str, refund: values.RefundPayment) -> Answer:
        """Never raises for what the seller or the network does."""
        ...


Announce = Callable[[str], Write]
"""A sentence to a line of the event log."""


class Closings:
    """All closings of one node. Start them after the buyer's channels are restored."""

    def __init__(
        self, buyer: Buyer, sender: Sender, rpc: Rpc, ask: AskRefund, announce: Announce
    ) -> None:
        self._buyer, self._sender, self._rpc = buyer, sender, rpc
        self._ask, self._announce = ask, announce
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Go on with what a former run left, and with what other processes leave from now on."""
        await self._take_up()
        if self._buyer.pools.shared:
            self._tasks[_OTHERS] = asyncio.create_task(self._look_for_left(), name=_OTHERS)

    async def _take_up(self) -> None:
        for channel_id in await asyncio.to_thread(open_closings, self._buyer.store.engine):
            if channel_id not in self._tasks:
                self._follow(channel_id)

    async def _look_for_left(self) -> None:
        while True:
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
            try:
                await self._take_up()
            except SQLAlchemyError as error:
                _LOG.warning("closings cannot be read now: %s", type(error).__name__)

    async def stop(self) -> None:
        """Stop following; the rows say where to go on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def close(self, channel_id: str, also: Sequence[Write] = ()) -> None:
        """Begin to close a channel; does not wait for its end. `also` is stored with it.

        Raises ChannelNotClosable, or ChainError when the chain cannot be asked.
        """
        channel = await self._reserve(channel_id)
        before = channel.state
        try:
            await self._buyer.deposits.sync(channel)
            unspent = channel.balance - channel.charged
            if unspent <= 0:
                raise ChannelNotClosable("Nothing unspent is left in this channel.")
            now = int(time.time())
            try:
                writes = begin_writes(channel, ChannelState(channel.state), unspent, now)
                await self._buyer.store.commit(Batch([*writes, *also]))
            except StoreConflict:
                raise ChannelNotClosable(
                    "The channel changed at this moment. Look at it and try again."
                ) from None
            channel.state = ChannelState.REFUNDING
        finally:
            self._buyer.pools.release(channel)
        _LOG.info("closing channel %s, which was %s", channel_id, before)
        self._follow(channel_id)

    async def _reserve(self, channel_id: str) -> Channel:
        """The channel, taken from the calls that use it."""
        channel = await self._buyer.pools.take_up(channel_id)
        if channel is None or channel.state == ChannelState.CLOSED:
            elsewhere = ", or another process's" if self._buyer.pools.shared else ""
            raise ChannelNotClosable(f"This channel is closed, or not one of ours{elsewhere}.")
        for _ in range(_BUSY_LOOKS):
            if not channel.busy:
                break
            await asyncio.sleep(_BUSY_SECONDS / _BUSY_LOOKS)
        if channel.busy:
            raise ChannelNotClosable("A call is using the channel. Try again in a moment.")
        if channel.state not in _CLOSABLE:
            what = "is being closed already" if channel.state == "refunding" else "is opening still"
            raise ChannelNotClosable(f"This channel {what}.")
        channel.busy = True
        return channel

    # To the end

    def _follow(self, channel_id: str) -> None:
        task = asyncio.create_task(self._run(channel_id), name=f"closing {channel_id}")
        self._tasks[channel_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(channel_id, None))

    async def _run(self, channel_id: str) -> None:
        """Step after step; what cannot be done now is tried again, however long it takes."""
        pause, trouble = _PAUSE_SECONDS, ""
        while True:
            try:
                if await self._advance(channel_id):
                    return
                pause, trouble = _PAUSE_SECONDS, ""
            except FinanceError as error:
                _LOG.warning("closing %s: %s; it is tried again", channel_id, error)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if error.code != trouble:
                    trouble = error.code
                    await self._tell(f"Closing channel {channel_id} waits: {error}")
            except Exception:
                # What follows money must outlive a fault of ours.
                _LOG.exception("closing %s", channel_id)
                pause = _LONGEST_PAUSE_SECONDS
            await asyncio.sleep(pause)

    async def _tell(self, sentence: str) -> None:
        with suppress(FinanceError):  # the database may be what is missing
            await self._buyer.store.commit(Batch([self._announce(sentence)]))

    async def _advance(self, channel_id: str) -> bool:
        """One step; whether it was the last."""
        row = await asyncio.to_thread(read_closing, self._buyer.store.engine, channel_id)
        if row is None or row.step in (ClosingStep.CLOSED, ClosingStep.FAILED):
            return True
        channel = await self._buyer.pools.take_up(channel_id)
        if channel is None:
            if not self._buyer.pools.shared:
                _LOG.error("closing %s: the channel is not known any more", channel_id)
                return True
            await asyncio.sleep(_LONGEST_PAUSE_SECONDS)  # the process that has it closes it
            return False
        match row.step:
            case ClosingStep.ASKING:
                return await self._ask_seller(row, channel)
            case ClosingStep.LEAVING:
                return await self._leave(row, channel)
            case ClosingStep.WAITING:
                return await self._take(row, channel)

    async def _ask_seller(self, row: ClosingRow, channel: Channel) -> bool:
        await self._buyer.deposits.sync(channel)
        if channel.balance <= channel.charged:
            return await self._closed(row, channel, "The seller refunded what was left.")
        amount, _ = await self._pending(channel)
        if amount:
            await self._step(row, ClosingStep.LEAVING, "A withdrawal was under way already.")
            return False
        answer = await self._ask(channel.id_hex, self._refund(channel))
        if answer.correction and await self._corrected(channel, answer.correction):
            answer = await self._ask(channel.id_hex, self._refund(channel))
        if not answer.why and await self._refund_shows(channel):
            return await self._closed(row, channel, "The seller refunded what was left.")
        why = answer.why or "The seller says it made a refund, but the chain shows none."
        await self._step(row, ClosingStep.LEAVING, why)
        return False

    def _refund(self, channel: Channel) -> values.RefundPayment:
        """The wish: a voucher over what was charged, which is never more than was signed."""
        chain_id = self._buyer.network.chain_id
        private = self._buyer.keys.voucher.private
        signature = sign_voucher(private, channel.id, channel.charged, chain_id)
        return values.RefundPayment(channel.config, channel.id, channel.charged, signature)

    async def _corrected(
        self, channel: Channel, proof: tuple[values.ChannelState, values.VoucherState]
    ) -> bool:
        """Take over what the seller proves it charged, with a voucher of ours."""
        chain_id = self._buyer.network.chain_id
        try:
            charged = check_correction(
                *proof, channel.config, channel.id, chain_id, channel.total_claimed
            )
        except SellerUntrustworthy as error:
            _LOG.warning("closing %s: %s", channel.id_hex, error)
            return False
        if not channel.charged < charged <= channel.signed:
            return False
        now = int(time.time())
        late = self._buyer.proved_late
        adopted = await adoption(channel, charged, f"closing:{charged}", now, late)
        writes = [*adopted.writes, channel_charged(channel, charged, now)]
        await self._buyer.store.commit(Batch(writes, adopted.increments))
        adopt(channel, charged)
        return True

    async def _refund_shows(self, channel: Channel) -> bool:
        deadline = time.monotonic() + _SHOW_SECONDS
        while True:
            await self._buyer.deposits.sync(channel)
            if channel.balance <= channel.charged:
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_PAUSE_SECONDS / 2)

    async def _leave(self, row: ClosingRow, channel: Channel) -> bool:
        """Announce the withdrawal of what is ours: what we owe stays for the seller."""
        amount, since = await self._pending(channel)
        if amount:
            after = since + channel.config.withdraw_delay
            await self._step(row, ClosingStep.WAITING, row.note, after)
            return False
        await self._buyer.deposits.sync(channel)
        unspent = channel.balance - channel.charged
        if unspent <= 0:
            return await self._closed(row, channel, "Nothing unspent was left.")
        data = initiate_withdraw_calldata(channel.config, unspent)
        try:
            why = await self._send(LEAVE, row, data)
        except CallReverted as error:
            why = str(error)
        if why and not (await self._pending(channel))[0]:
            return await self._failed(row, channel, f"The withdrawal could not be announced: {why}")
        return False

    async def _take(self, row: ClosingRow, channel: Channel) -> bool:
        """After the delay: the money to the wallet. Before, a chain without the withdrawal has
        not finished it: a reorg took it out for a while, or an endpoint lags behind. What it would
        not do now it may do later: an endpoint may be behind the one that told the time, and the
        token may move for nobody for a while."""
        now = (await self._rpc.head()).timestamp
        if (left := row.finalize_after - now) > 0:
            await asyncio.sleep(min(left, _LONGEST_PAUSE_SECONDS))  # each look may cost money
            return False
        amount, since = await self._pending(channel)
        if not amount:
            await self._buyer.deposits.sync(channel)
            if channel.balance > channel.charged:
                return await self._failed(row, channel, "The chain has lost the withdrawal.")
            return await self._closed(row, channel, "Withdrawn through the contract.")
        if now < since + channel.config.withdraw_delay:
            return False
        why = await self._send(TAKE, row, finalize_withdraw_calldata(channel.config))
        if why and (await self._pending(channel))[0]:
            return await self._failed(row, channel, f"The withdrawal could not be finished: {why}")
        return False

    async def _send(self, purpose: str, row: ClosingRow, data: bytes) -> str:
        """Once per attempt; why it did not work, empty when it did or is on its way. Raises
        ChainError when nothing was sent, CallReverted if the chain would refuse it now."""
        ref = f"{row.channel_id}:{row.attempt}"
        try:
            tx_id = await self._sender.send(purpose, ref, BATCH_SETTLEMENT_ADDRESS, data)
            outcome = await self._sender.outcome(tx_id, _OUTCOME_SECONDS)
        except SettlementUnknown:
            return ""
        if outcome.state in (TxState.MINED, TxState.FINAL):
            return ""
        return outcome.error or "the chain refused it"

    async def _pending(self, channel: Channel) -> tuple[int, int]:
        """(atoms, Unix seconds it was announced at) of the withdrawal on the chain; zeros."""
        data = calldata("pendingWithdrawals", ("bytes32",), channel.id)
        answer = await self._rpc.eth_call(BATCH_SETTLEMENT_ADDRESS, data)
        return int.from_bytes(answer[:32], "big"), int.from_bytes(answer[32:64], "big")

    # What is stored

    async def _step(
        self, row: ClosingRow, step: ClosingStep, note: str, finalize_after: int = 0
    ) -> None:
        write = step_write(row, step, note, finalize_after, int(time.time()))
        await self._buyer.store.commit(Batch([write]))

    async def _closed(self, row: ClosingRow, channel: Channel, note: str) -> bool:
        sentence = f"Channel {row.channel_id} is closed. {note}"
        await self._end(row, channel, ClosingStep.CLOSED, ChannelState.CLOSED, note, sentence)
        return True

    async def _failed(self, row: ClosingRow, channel: Channel, note: str) -> bool:
        sentence = f"Channel {row.channel_id} could not be closed. {note}"
        before = ChannelState(row.before)
        await self._end(row, channel, ClosingStep.FAILED, before, note, sentence)
        # What the chain says of it now decides whether it may be used again.
        channel.stale = True
        return True

    async def _end(
        self,
        row: ClosingRow,
        channel: Channel,
        step: ClosingStep,
        state: ChannelState,
        note: str,
        sentence: str,
    ) -> None:
        now = int(time.time())
        writes = end_writes(row, step, state, note, now)
        if state == ChannelState.CLOSED:
            writes += none_charged(channel, channel.charged, self._buyer.spending, now)
        await self._buyer.store.commit(Batch([*writes, self._announce(sentence)]))
        channel.state = state
        if state == ChannelState.CLOSED:
            channel.unresolved.clear()
