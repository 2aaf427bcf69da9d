"""What the watcher sees of our payers' channels, and what is done about it at once.

Many events of one moment become one look at the chain. What is missed here (the
process dies, no endpoint answers for long) the refresh and claim jobs find again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from finance.chain.events import SeenEvent
from finance.errors import FinanceError
from finance.selling.claim_policy import Reason
from finance.selling.claims import Claims
from finance.selling.mirror import Mirror
from finance.selling.refunds import Refunds
from finance.selling.settlement import Settlement

WINDOW_SECONDS = 0.05
_PAUSE_SECONDS = 1.0

_LOG = logging.getLogger(__name__)


class ChannelWatch:
    """The watcher's handlers for the selling side."""

    def __init__(
        self, mirror: Mirror, claims: Claims, settlement: Settlement, refunds: Refunds
    ) -> None:
        self._mirror = mirror
        self._claims = claims
        self._settlement = settlement
        self._refunds = refunds
        self._changed: set[str] = set()
        self._leaving: set[str] = set()
        self._block = 0
        self._task: asyncio.Task[None] | None = None

    async def handle(self, event: SeenEvent) -> None:
        """An event of any channel; those that are not ours change no row. Does not wait."""
        if event.channel_id is None:
            return
        self._changed.add(event.channel_id)
        if event.name == "WithdrawInitiated":
            self._leaving.add(event.channel_id)
        self._block = max(self._block, event.block_number)
        self._start()

    async def reorganised(self, gone: Sequence[SeenEvent]) -> None:
        """These events' blocks are gone: look again, and carry their payments again. Refunds
        first: what a look finds back in their channels is about to leave once more."""
        back = {each.channel_id for each in gone if each.name == "Refunded" and each.channel_id}
        await self._refunds.reorganised(back)
        await self._mirror.reorganised()
        self._block = 0
        self._changed.update(event.channel_id for event in gone if event.channel_id)
        await self._settlement.reorganised({event.tx_hash for event in gone})
        self._start()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        await asyncio.sleep(WINDOW_SECONDS)
        while self._changed or self._leaving:
            try:
                await self._sync()
                await self._answer_withdrawals()
            except FinanceError as error:
                _LOG.warning("channels changed on-chain and could not be looked at: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _sync(self) -> None:
        changed = set(self._changed)
        await self._mirror.sync(changed, self._block)
        self._changed -= changed

    async def _answer_withdrawals(self) -> None:
        leaving = set(self._leaving)
        if leaving:
            await self._claims.claim(Reason.WITHDRAWAL, leaving)
            self._leaving -= leaving
