"""Tells at once whose money has arrived, before the answer that was paid for leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from finance.selling.settlement import Settled, Settlement


class TellingSettlement:
    """A settlement that tells of each payment it has settled for somebody who waits."""

    def __init__(self, settlement: Settlement, tell: Callable[[str], Awaitable[None]]) -> None:
        self._settlement, self._tell = settlement, tell

    async def settle(self, payment_id: str, timeout: float) -> Settled:
        """As `finance.selling.settlement` has it."""
        settled = await self._settlement.settle(payment_id, timeout)
        await self._tell(payment_id)
        return settled

    async def take_over(self, owners: Collection[int]) -> int:
        """What nobody waits for: the gate looks for it by itself."""
        return await self._settlement.take_over(owners)
