"""`/.farebox/subscriptions`: what a customer sees and changes of its own, by its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Engine, text

from catalog.listings import PricedListing
from finance.store import Write
from node.gateway.desk import Refused
from node.gateway.forward import Made
from node.gateway.own import Make, Resource, made_json
from node.gateway.plan_documents import Asked, Choice, NewKey, Nothing, read_body
from node.gateway.plans import Counter
from node.gateway.request import Call
from node.plans.errors import OrderRefused
from node.plans.orders import ask, cancel, choose, order, rotate
from node.plans.requests import MOST_OPEN, count_open
from node.plans.subscribers import (
    Offered,
    Ordered,
    Subscriber,
    read_plan,
    read_subscribers,
)
from node.plans.terms import Kind, Period, Stretch, renewal_stretch, upgrade_now
from node.usage.overrides import LONGEST_SECONDS

# Of one subscription; each is a look into the database.
ASKED_A_MINUTE = 60

_LAST_NUMBER = text("SELECT max(number) FROM subscription_period WHERE subscription_id = :id")
_T = TypeVar("_T")


class SubscriptionShelf:
    """One subscription, to whoever has its key: state, renewal, upgrade, other plan, other key,
    cancelling, requests."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    async def find(self, call: Call, listing: PricedListing, segments: tuple[str, ...]) -> Resource:
        """Raises Refused."""
        if not segments:
            raise Refused("no_such_resource")
        path = "/".join(("/.farebox/subscriptions", *segments))
        if call.method == "POST":
            # Before the key is asked for: what was paid is answered after a rotation too.
            before = await self._counter.bought(call, listing, path)
            if before is not None:
                return before
        last, subscriber = await self._subscriber(call, listing, segments[0])
        match call.method, segments[1:]:
            case (("GET" | "HEAD"), ()):
                return Resource(path, self._show(subscriber))
            case "POST", ("renewal",):
                return await self._renewal(call, path, subscriber, last)
            case "POST", ("upgrade", plan_id):
                return await self._upgrade(call, path, subscriber, last, plan_id)
            case "PUT", ("plan",):
                return Resource(path, self._choose(subscriber))
            case "PUT", ("key",):
                return Resource(path, self._rotate(subscriber))
            case "DELETE", ():
                return Resource(path, self._cancel(subscriber))
            case "POST", ("requests",):
                return Resource(path, self._ask(subscriber))
            case _:
                raise Refused("no_such_resource")

    async def _subscriber(
        self, call: Call, listing: PricedListing, wanted: str
    ) -> tuple[int, Subscriber]:
        """The subscription as it is now, of whoever has its key, and the number of its last
        order, also of one that failed. Raises Refused (401)."""
        gate = self._counter.gate
        held = await gate.find_soon(call.key, listing.id) if call.key else None
        if held is None or held.subscriber.id != wanted:
            raise Refused("subscription_key_invalid")
        self._counter.check_pace("ask:" + wanted, ASKED_A_MINUTE, call.at)
        # The number first: an order between the two has taken the number after it.
        last, found = await asyncio.to_thread(_read, self._counter.engine, wanted)
        if not found or found[0].key_hash != held.subscriber.key_hash:
            raise Refused("subscription_key_invalid")
        return last, found[0]

    def _show(self, subscriber: Subscriber) -> Make:
        async def make(call: Call) -> Made:
            return made_json(await self._counter.document(subscriber, call.at))

        return make

    # -- what is paid

    async def _renewal(self, call: Call, path: str, subscriber: Subscriber, last: int) -> Resource:
        plan = await self._plan(subscriber, subscriber.goes_on_with)
        stretch = _decide(
            renewal_stretch, subscriber.periods, subscriber.cancelled_at, plan.deal, call.at
        )
        return self._order(path, subscriber, last + 1, Kind.RENEWAL, plan, stretch)

    async def _upgrade(
        self, call: Call, path: str, subscriber: Subscriber, last: int, plan_id: str
    ) -> Resource:
        plan = await self._plan(subscriber, plan_id)
        if plan.retired_at is not None:
            raise Refused("no_such_plan")
        stretch = _decide(
            upgrade_now, subscriber.periods, subscriber.cancelled_at, plan.deal, call.at
        )
        return self._order(path, subscriber, last + 1, Kind.UPGRADE, plan, stretch)

    def _order(
        self,
        path: str,
        subscriber: Subscriber,
        number: int,
        kind: Kind,
        plan: Offered,
        stretch: Stretch,
    ) -> Resource:
        """Of orders that were decided on at once, one gets the number."""

        async def make(call: Call) -> Made:
            await read_body(call, Nothing)
            payment_id = call.id if stretch.price_atoms else None
            writes = order(subscriber, kind, plan, stretch, payment_id, call.at, number)
            period = Period(plan.id, plan.deal, stretch)
            made = Ordered(number, kind, plan.name, period, payment_id, None, call.at)
            return await self._answer(call, _with(subscriber, made), writes, payment_id)

        return Resource(path, make, stretch.price_atoms, description=f"{plan.name}: {kind.value}")

    # -- what is free

    def _choose(self, subscriber: Subscriber) -> Make:
        async def make(call: Call) -> Made:
            wish = await read_body(call, Choice)
            _refuse_cancelled(subscriber)
            standing = subscriber.standing(call.at)
            if standing.deal.free and standing.served:
                raise Refused("renews_itself", detail="Upgrade from a free plan at once.")
            if wish.plan_id is not None:
                plan = await self._plan(subscriber, wish.plan_id)
                if plan.retired_at is not None:
                    raise Refused("no_such_plan")
            chosen = choose(subscriber, wish.plan_id, call.at)
            return await self._changed(call, subscriber, chosen)

        return make

    def _rotate(self, subscriber: Subscriber) -> Make:
        async def make(call: Call) -> Made:
            wish = await read_body(call, NewKey)
            rotated = rotate(subscriber, wish.key_hash, call.at)
            return await self._changed(call, subscriber, rotated)

        return make

    def _cancel(self, subscriber: Subscriber) -> Make:
        async def make(call: Call) -> Made:
            _refuse_cancelled(subscriber)
            return await self._changed(call, subscriber, cancel(subscriber, call.at))

        return make

    def _ask(self, subscriber: Subscriber) -> Make:
        async def make(call: Call) -> Made:
            asked = await read_body(call, Asked)
            _check_asked(asked, call.at)
            waiting = await asyncio.to_thread(count_open, self._counter.engine, subscriber.id)
            if waiting >= MOST_OPEN:
                raise Refused("requests_full", detail=f"At most {MOST_OPEN} wait for an answer.")
            words = asked.text.strip()
            wrote = ask(
                subscriber.id, asked.kind, asked.meter, asked.cap, asked.until, words, call.at
            )
            return await self._changed(call, subscriber, wrote)

        return make

    # --

    async def _plan(self, subscriber: Subscriber, plan_id: str) -> Offered:
        plan = await asyncio.to_thread(read_plan, self._counter.engine, plan_id)
        if plan is None or plan.listing_id != subscriber.listing_id:
            raise Refused("no_such_plan")
        return plan

    async def _answer(
        self, call: Call, after: Subscriber, writes: list[Write], payment_id: str | None
    ) -> Made:
        document = {"subscription": await self._counter.document(after, call.at)}
        if payment_id is None:
            return made_json(document, 200, writes, lambda: self._refresh(after.id))
        self._counter.gate.expect(payment_id, after.id)
        return made_json(document, 200, writes)

    async def _changed(self, call: Call, subscriber: Subscriber, write: Write) -> Made:
        """The change, and the subscription as it is with it."""

        async def shown() -> bytes:
            found = await asyncio.to_thread(read_subscribers, self._counter.engine, [subscriber.id])
            document = await self._counter.document(found[0], call.at)
            await self._refresh(subscriber.id)
            return made_json({"subscription": document}).head

        return made_json({}, 200, [write], shown)

    async def _refresh(self, subscription_id: str) -> None:
        await self._counter.gate.refresh([subscription_id])


def _decide(rule: Callable[..., _T], *values: Any) -> _T:
    """Raises Refused with the rule's own words."""
    try:
        return rule(*values)
    except OrderRefused as refused:
        raise Refused(refused.code, detail=str(refused)) from None


def _refuse_cancelled(subscriber: Subscriber) -> None:
    if subscriber.cancelled_at is not None:
        raise Refused("subscription_cancelled", detail="It was cancelled; subscribe anew.")


def _check_asked(asked: Asked, now: int) -> None:
    if not asked.text.strip():
        raise Refused("request_invalid", detail="`text` says nothing.")
    if asked.kind == "support":
        return
    if asked.meter is None:
        raise Refused("request_invalid", detail="`meter` is calls or stream_seconds.")
    if asked.until is None or not now < asked.until <= now + LONGEST_SECONDS:
        raise Refused("request_invalid", detail="`until` is a time within a year from now.")


def _with(subscriber: Subscriber, made: Ordered) -> Subscriber:
    """As it will be once the order is paid."""
    return replace(subscriber, orders=(*subscriber.orders, made))


def _read(engine: Engine, subscription_id: str) -> tuple[int, list[Subscriber]]:
    with engine.connect() as connection:
        last = int(connection.scalar(_LAST_NUMBER, {"id": subscription_id}) or 0)
    return last, read_subscribers(engine, [subscription_id])
