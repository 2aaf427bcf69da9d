"""Subscriptions of this node, as pages, endpoints, commands and jobs hold them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Row

from node.accounts.audit import Actor
from node.alerts.rules import Alarm, Rule
from node.plans.buying.changing import Changing, Wanted
from node.plans.buying.errors import NotPossibleNow, SellerSaysNo
from node.plans.buying.giving_up import wish
from node.plans.buying.models import OrderState
from node.plans.buying.offers import Offers
from node.plans.buying.ordering import Agreed, Ordering
from node.plans.buying.orders import Orders, Outcome
from node.plans.buying.ports import Asked, Line, Reload, Vault
from node.plans.buying.read import SubscriptionView, read_subscription
from node.plans.buying.rows import place_of, read_live
from node.plans.buying.shapes import Plan
from node.plans.buying.sync import PATH, Looked, Sync
from node.plans.terms import Beyond


@dataclass(frozen=True, slots=True)
class UpgradeQuote:
    """What changing to a dearer plan costs now, as its seller says. Atoms."""

    plan: Plan
    price_atoms: int


class Subscriptions:
    """One per process. `reload`: the proxy takes over what changed."""

    def __init__(
        self,
        engine: Engine,
        line: Line,
        vault: Vault,
        alarm: Alarm,
        chain_id: int,
        reload: Reload,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine, self.line, self.alarm, self._clock = engine, line, alarm, clock
        self._vault, self._reload = vault, reload
        self.offers = Offers(engine, line, clock)
        self.ordering = Ordering(engine, vault)
        self.orders = Orders(engine, line, vault.unseal, clock)
        self.sync = Sync(engine, line, vault.unseal, alarm, chain_id, clock)
        self.changing = Changing(engine, line, vault, self.sync, clock)

    @property
    def now(self) -> int:
        return int(self._clock())

    async def read(self, subscription_id: str) -> SubscriptionView:
        """Raises SubscriptionUnknown."""
        return await asyncio.to_thread(read_subscription, self.engine, subscription_id, self.now)

    # What costs money. None of these raises for an order that did not get through: the
    # outcome says it.

    async def order(
        self, actor: Actor, listing_id: str, plan_id: str, agreed: Agreed
    ) -> tuple[str, str]:
        """Write down that a plan is bought: ids of subscription and order. The running node
        carries it out. Raises SubscriptionError."""
        offer = await self.offers.ask(listing_id)
        plan = offer.plan(plan_id)
        write = self.ordering.subscription
        return await asyncio.to_thread(write, actor, offer, plan, agreed, self.now)

    async def subscribe(
        self, actor: Actor, listing_id: str, plan_id: str, agreed: Agreed
    ) -> tuple[str, Outcome]:
        """Buy a plan for the rest of the month. Raises SubscriptionError."""
        subscription_id, order_id = await self.order(actor, listing_id, plan_id, agreed)
        return subscription_id, await self.carry_out(order_id)

    async def renew(
        self, actor: Actor, subscription_id: str, most_atoms: int, month: int | None = None
    ) -> Outcome:
        """Pay the next month, or the present one if what was paid is over; `month` is its
        begin, where somebody was shown it. Raises SubscriptionError."""
        now, ordering = self.now, self.ordering
        if month is None:
            month = await asyncio.to_thread(ordering.month, subscription_id, now)
        args = actor, subscription_id, most_atoms, now, month
        outcome = await self.carry_out(await asyncio.to_thread(ordering.renewal, *args))
        if outcome.state is OrderState.DONE:
            await self.resolve(subscription_id)
        return outcome

    async def upgrade(
        self, actor: Actor, subscription_id: str, plan_id: str, most_atoms: int
    ) -> Outcome:
        """Change to a dearer plan for the rest of the month. Raises SubscriptionError."""
        write = self.ordering.upgrade
        args = actor, subscription_id, plan_id, most_atoms, self.now
        return await self.carry_out(await asyncio.to_thread(write, *args))

    async def carry_out(self, order_id: str, patient: bool = False) -> Outcome:
        """Go on with an order; the proxy knows at once what came of it."""
        outcome = await self.orders.carry_out(order_id, patient)
        if outcome.state is OrderState.DONE:
            await self._reload()
        return outcome

    async def resolve(self, subscription_id: str) -> None:
        """What was told of its next payment is over."""
        await self.alarm.resolve(Rule.RENEWAL_FAILED, subscription_id)
        await self.alarm.resolve(Rule.RENEWAL_SOON, subscription_id)

    async def give_up(self, actor: Actor, subscription_id: str) -> Outcome:
        """Give up the order that is under way. While what was signed for it may be charged, the
        outcome says until when, and the node ends it then. Raises SubscriptionError."""
        order_id = await asyncio.to_thread(wish, self.engine, actor, subscription_id, self.now)
        return await self.end_given_up(subscription_id, order_id)

    async def end_given_up(self, subscription_id: str, order_id: str) -> Outcome:
        """The end of an order that is to be given up, once that is safe."""
        outcome = await self.orders.give_up(order_id)
        if outcome.state is OrderState.GIVEN_UP:
            await self.alarm.resolve(Rule.RENEWAL_FAILED, subscription_id)
        return outcome

    async def quote_upgrade(self, subscription_id: str, plan_id: str) -> UpgradeQuote:
        """What the seller asks for the rest of the month. Raises SubscriptionError."""
        row = await asyncio.to_thread(self._live, subscription_id)
        plan = (await self.offers.ask(row.listing_id)).plan(plan_id)
        secret = await asyncio.to_thread(self._vault.unseal, row.secret_sealed)
        path = f"{PATH}/{row.seller_id}/upgrade/{plan_id}"
        told = await self.line.ask_seller(Asked(place_of(row), "POST", path, secret, b"{}"))
        if told.price_atoms is not None:
            return UpgradeQuote(plan, told.price_atoms)
        if told.good:
            raise NotPossibleNow("The seller changed the plan without a payment. Look again.")
        raise SellerSaysNo(told.detail or f"The seller answered {told.status}.", told.code)

    # What costs nothing

    async def choose_plan(self, actor: Actor, subscription_id: str, plan_id: str | None) -> None:
        """The plan that the next renewal buys. Raises SubscriptionError."""
        await self.changing.choose_plan(actor, subscription_id, plan_id)

    async def cancel(self, actor: Actor, subscription_id: str) -> None:
        """Raises SubscriptionError; nothing more is paid in any case, also not for an order that
        is under way."""
        with suppress(NotPossibleNow):
            await self.give_up(actor, subscription_id)
        await self.changing.cancel(actor, subscription_id)
        await self._reload()

    async def choose(
        self,
        actor: Actor,
        subscription_id: str,
        renews: bool,
        agreed_atoms: int,
        beyond: Beyond,
    ) -> None:
        """Raises SubscriptionError; for less than what an order under way may cost, too."""
        await self.changing.choose(actor, subscription_id, renews, agreed_atoms, beyond)
        await self._reload()

    async def rotate(self, actor: Actor, subscription_id: str) -> None:
        """A new key. Raises SubscriptionError."""
        await self.changing.rotate(actor, subscription_id)
        await self._reload()

    async def ask(self, actor: Actor, subscription_id: str, wanted: Wanted) -> bool:
        """Whether the seller has it now, not later. Raises SubscriptionError."""
        return await self.changing.ask(actor, subscription_id, wanted)

    async def look(self, subscription_id: str) -> Looked:
        """Ask the seller how it stands. Raises SubscriptionUnknown."""
        looked = await self.sync.look(subscription_id)
        await self._reload()
        return looked

    def _live(self, subscription_id: str) -> Row[Any]:
        with self.engine.connect() as connection:
            return read_live(connection, subscription_id, self.now)
