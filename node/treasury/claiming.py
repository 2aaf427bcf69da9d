"""Claims and refunds by hand, on the selling side."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Coroutine
from typing import Any

from finance.errors import ChannelNotClosable, FinanceError, SettlementUnknown
from finance.money import Usdc
from finance.selling.channels import SellerChannels
from finance.selling.claim_policy import Reason
from finance.selling.claims import Claims
from finance.selling.refunds import Refunds
from finance.store import Batch, Store, Write
from node.accounts.audit import Actor, audit_write
from node.treasury.claim_lines import book_claim
from node.treasury.errors import NotPossible, TreasuryUnknown
from node.usage.events import event

_log = logging.getLogger(__name__)


class SellingDesk:
    """Asks for claims and refunds without waiting for them: their transactions show how far
    they are, the event log how they ended."""

    def __init__(
        self, store: Store, claims: Claims, channels: SellerChannels, refunds: Refunds
    ) -> None:
        self._store, self._claims = store, claims
        self._channels, self._refunds = channels, refunds
        self._claiming: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """What was sent is followed by the sender, and at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def claiming(self) -> bool:
        """Whether a claim asked for by hand is under way."""
        return self._claiming is not None and not self._claiming.done()

    async def claim(self, channel_ids: Collection[str] | None, actor: Actor, now: int) -> None:
        """Claim these channels (None: all that owe something) and sweep. Raises NotPossible
        while a claim by hand is under way."""
        if self.claiming:
            raise NotPossible("A claim is under way already. It is listed below.", "claiming")
        what = ", ".join(sorted(channel_ids)) if channel_ids else "all"
        # From here to the task there is no await: two requests cannot both pass.
        self._claiming = self._spawn(self._claim(channel_ids))
        trail = audit_write(actor, "channel.claim", what, now)
        await self._store.commit(Batch([trail]))

    async def _claim(self, channel_ids: Collection[str] | None) -> None:
        report = await self._claims.claim(Reason.REQUESTED, channel_ids)
        if not await book_claim(self._store, report):
            nothing = _line("claimed", "Nothing is owed that can be claimed.")
            await self._store.commit(Batch([nothing]))

    async def refund(self, channel_id: str, actor: Actor, now: int) -> None:
        """Claim what a channel owes and give its payer the rest.

        Raises TreasuryUnknown, ChannelNotClosable, ChannelBusy.
        """
        channel = await self._channels.get(channel_id)
        if channel is None:
            raise TreasuryUnknown("There is no such channel.")
        if channel.balance <= max(channel.charged, channel.total_claimed):
            raise ChannelNotClosable("Nothing unspent is left in this channel.")
        self._channels.reserve(channel)
        self._spawn(self._refund(channel))
        trail = audit_write(actor, "channel.refund", channel_id, now)
        await self._store.commit(Batch([trail]))

    async def _refund(self, channel: Any) -> None:
        try:
            refunded = await self._refunds.refund(channel, None)
        except SettlementUnknown:
            sentence = f"The refund of channel {channel.key} is sent, but not confirmed yet."
        else:
            amount = Usdc(refunded.amount)
            sentence = f"Gave {amount} USDC of channel {channel.key} back to its payer."
        finally:
            try:
                await self._channels.reload(channel.key)
            finally:
                self._channels.release(channel)
        await self._store.commit(Batch([_line("refunded", sentence)]))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._report(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _report(self, work: Coroutine[Any, Any, None]) -> None:
        """A failure ends in the event log, not in nothing."""
        try:
            await work
        except FinanceError as error:
            _log.warning("asked for by hand: %s", error)
            line = event("claim_failed", "warning", f"It was not done: {error}", int(time.time()))
            await self._store.commit(Batch([line]))


def _line(type_: str, sentence: str) -> Write:
    return event(type_, "info", sentence, int(time.time()))
