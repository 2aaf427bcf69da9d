"""What sellers offer, asked for when somebody looks, and kept for a few minutes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine

from node.plans.buying.errors import SellerSaysNo, SubscriptionUnknown
from node.plans.buying.ports import Asked, Line, Place
from node.plans.buying.rows import find_place
from node.plans.buying.shapes import Plan, read_plans

PATH: Final = "/.farebox/plans"
KEPT_SECONDS: Final = 300
KEPT_LISTINGS: Final = 1000
LOOK_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A listing's plans; `problem` says why they could not be asked for. A listing that knows
    no plans has neither."""

    place: Place
    name: str
    demo: bool
    plans: tuple[Plan, ...] = ()
    problem: str = ""

    def plan(self, plan_id: str) -> Plan:
        """Raises SubscriptionUnknown."""
        found = next((plan for plan in self.plans if plan.id == plan_id), None)
        if found is None:
            raise SubscriptionUnknown("The seller does not offer this plan (any more).")
        return found


class Offers:
    """One per process."""

    def __init__(self, engine: Engine, line: Line, clock: Callable[[], float]) -> None:
        self._engine, self._line, self._clock = engine, line, clock
        self._kept: dict[str, tuple[float, Offer]] = {}
        self._asking: dict[str, asyncio.Task[Offer]] = {}

    async def look(self, listing_id: str) -> Offer:
        """For a page: what is known, or comes within two seconds; later it is there for the
        next look. Raises SubscriptionUnknown."""
        found = await asyncio.to_thread(self._find, listing_id)
        kept = self._kept.get(listing_id)
        fresh = kept is not None and self._clock() - kept[0] < KEPT_SECONDS
        if kept is not None and fresh and (kept[1].place, kept[1].name, kept[1].demo) == found:
            return kept[1]
        task = self._asking.get(listing_id)
        if task is None:
            task = asyncio.create_task(self._ask(*found))
            self._asking[listing_id] = task
            task.add_done_callback(lambda _: self._asking.pop(listing_id, None))
        try:
            return await asyncio.wait_for(asyncio.shield(task), LOOK_SECONDS)
        except TimeoutError:
            return Offer(*found, problem="The seller has not answered yet; load again soon.")

    async def ask(self, listing_id: str) -> Offer:
        """As it is now, before something is bought. Raises SubscriptionUnknown, SellerSaysNo."""
        found = await asyncio.to_thread(self._find, listing_id)
        offer = await self._ask(*found)
        if offer.problem:
            raise SellerSaysNo(offer.problem)
        return offer

    def _find(self, listing_id: str) -> tuple[Place, str, bool]:
        with self._engine.connect() as connection:
            return find_place(connection, listing_id)

    async def _ask(self, place: Place, name: str, demo: bool) -> Offer:
        told = await self._line.ask_seller(Asked(place, "GET", PATH))
        offer = Offer(place, name, demo)
        if told.good:
            with contextlib.suppress(SellerSaysNo):  # whatever answers there has no plans
                offer = Offer(place, name, demo, read_plans(told.body))
        elif not told.answered:
            offer = Offer(place, name, demo, problem=told.detail or told.code)
        if len(self._kept) >= KEPT_LISTINGS:
            del self._kept[next(iter(self._kept))]
        self._kept[place.listing_id] = (self._clock(), offer)
        return offer
