"""`/.farebox/plans`: what a listing offers by the month, and how it is subscribed to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from catalog.listings import PricedListing
from finance.errors import PaymentRefused
from finance.x402.text import parse_address, to_hex
from finance.x402.values import ExactPayment
from finance.x402.wire import decode_payment
from node.gateway.desk import Refused
from node.gateway.forward import Made
from node.gateway.match import Sale
from node.gateway.own import Resource, made_json
from node.gateway.plan_documents import (
    Wish,
    plans_document,
    read_body,
    subscription_document,
)
from node.gateway.request import Call
from node.plans.free import free_message, signed_by
from node.plans.gate import SubscriberGate
from node.plans.invoices import invoices_of
from node.plans.models import InvoiceSide
from node.plans.orders import free_holder, leave_free, subscribe
from node.plans.requests import read_requests
from node.plans.subscribers import (
    Offered,
    Ordered,
    Subscriber,
    read_plan,
    read_plans,
    subscribers_in,
)
from node.plans.terms import Kind, Period, Stretch, first_stretch
from node.usage.quotas import used_by
from node.usage.rates import RateLimited

# Of one listing: each is a row that nobody has paid for.
FREE_A_MINUTE = 10

_BOUGHT = text(
    "SELECT charge_atoms FROM onchain_payment WHERE chain_id = :chain_id AND token = :token"
    " AND payer = :payer AND nonce = :nonce AND listing_id = :listing_id AND route = :route"
    " AND state NOT IN ('reserved', 'released')"
)
_TAKEN = text(
    "SELECT s.id FROM subscription s WHERE (s.key_hash = :key_hash OR s.free_for = :free_for)"
    " AND EXISTS (SELECT 1 FROM subscription_period p"
    " LEFT JOIN onchain_payment o ON o.id = p.payment_id"
    " WHERE p.subscription_id = s.id AND (p.payment_id IS NULL OR o.state <> 'failed'))"
)


@dataclass(frozen=True, slots=True)
class Counter:
    """What is sold over, by both shelves."""

    sale: Sale
    gate: SubscriberGate
    engine: Engine

    def check_pace(self, subject: str, a_minute: int, now: int) -> None:
        """Raises Refused (429)."""
        try:
            self.gate.limiter.check(subject, a_minute, now)
        except RateLimited as limited:
            raise Refused("rate_limited", limited.headers(), str(limited)) from None

    async def bought(self, call: Call, listing: PricedListing, path: str) -> Resource | None:
        """What the payment of this request has bought before, at the price of that time: prices
        change with the days, and a payment sent again must find its answer, not another price."""
        payment = _exact_payment(call)
        if payment is None:
            return None
        key = {
            "chain_id": self.sale.chain_id,
            "token": to_hex(self.sale.asset),
            "payer": to_hex(payment.authorization.from_address),
            "nonce": to_hex(payment.authorization.nonce),
            "listing_id": listing.id,
            "route": f"{call.method} {path}",
        }
        charged = await asyncio.to_thread(_read_charged, self.engine, key)
        return None if charged is None else Resource(path, _made_before, charged)

    async def document(self, subscriber: Subscriber, now: int) -> dict[str, Any]:
        """A subscription as its customer sees it."""
        read = asyncio.to_thread(_read_all, self.engine, subscriber, now)
        plans, invoices, requests, used = await read
        per_minute = self.gate.limiter.in_last_minute(subscriber.subject, now)
        return subscription_document(subscriber, plans, used, per_minute, invoices, requests, now)


class PlanShelf:
    """The plans of a listing: shown for free, subscribed to by `exact`."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    async def find(self, call: Call, listing: PricedListing, segments: tuple[str, ...]) -> Resource:
        """Raises Refused."""
        match call.method, segments:
            case (("GET" | "HEAD"), ()):
                return Resource("/.farebox/plans", self._shown(listing))
            case "POST", (plan_id,):
                return await self._offered(call, listing, plan_id)
            case _:
                raise Refused("no_such_resource")

    def _shown(self, listing: PricedListing) -> Any:
        async def make(call: Call) -> Made:
            plans = await asyncio.to_thread(read_plans, self._counter.engine, listing.id)
            return made_json(plans_document(plans, call.at))

        return make

    async def _offered(self, call: Call, listing: PricedListing, plan_id: str) -> Resource:
        path = f"/.farebox/plans/{plan_id}"
        before = await self._counter.bought(call, listing, path)
        if before is not None:
            return before
        plan = await asyncio.to_thread(read_plan, self._counter.engine, plan_id)
        if plan is None or plan.listing_id != listing.id or plan.retired_at is not None:
            raise Refused("no_such_plan")
        stretch = first_stretch(plan.deal, call.at)

        async def make(call: Call) -> Made:
            return await self._subscribe(call, listing, path, plan, stretch)

        description = f"{plan.name}, until the end of this month"
        return Resource(path, make, stretch.price_atoms, description=description)

    async def _subscribe(
        self, call: Call, listing: PricedListing, path: str, plan: Offered, stretch: Stretch
    ) -> Made:
        wish = await read_body(call, Wish)
        payer = self._payer(call, listing, path, plan, wish)
        payment_id = None if plan.deal.free else call.id
        if payment_id is None and (made := await self._taken_before(plan, wish, payer, call.at)):
            return made
        left = await self._find_left(listing, wish, payer if payment_id is None else "", call.at)
        new = Subscriber(
            id=secrets.token_hex(10),
            listing_id=listing.id,
            key_hash=wish.key_hash,
            payer=payer,
            name=" ".join(wish.name.split()),
            email=wish.email.strip(),
            next_plan_id=None,
            next_plan_after=0,
            created_at=call.at,
            cancelled_at=None,
            orders=(_first(plan, stretch, payment_id, call.at),),
        )
        writes = [leave_free(each, call.at) for each in left]
        writes += subscribe(
            new.id, plan, stretch, payer, new.key_hash, new.name, new.email, payment_id, call.at
        )
        document = {"subscription": await self._counter.document(new, call.at)}
        if payment_id is None:
            return made_json(document, 200, writes, lambda: self._counter.gate.refresh([new.id]))
        self._counter.gate.expect(payment_id, new.id)
        return made_json(document, 200, writes)

    def _payer(
        self, call: Call, listing: PricedListing, path: str, plan: Offered, wish: Wish
    ) -> str:
        """Who pays, or has signed for what costs nothing. Raises Refused."""
        if not plan.deal.free:
            payment = _exact_payment(call)
            assert payment is not None  # the offer takes no other
            return to_hex(payment.authorization.from_address)
        self._counter.check_pace(f"free:{listing.id}", FREE_A_MINUTE, call.at)
        url = self._counter.sale.address(listing, path)
        message = free_message(wish.key_hash, url, wish.payer)
        if not signed_by(message, wish.payer, wish.signature):
            raise Refused("signature_invalid", detail=f"Sign (EIP-191) the words: {message}")
        return to_hex(parse_address(wish.payer))

    async def _taken_before(self, plan: Offered, wish: Wish, payer: str, now: int) -> Made | None:
        """The free subscription of the same wish, whose answer may have been lost on its way."""
        await self._counter.gate.look()
        held = self._counter.gate.known(wish.key_hash, plan.listing_id)
        if held is None or not _is_this(held.subscriber, plan, payer):
            return None
        return made_json({"subscription": await self._counter.document(held.subscriber, now)})

    async def _find_left(
        self, listing: PricedListing, wish: Wish, free_payer: str, now: int
    ) -> list[Subscriber]:
        """Those that kept this payer from another free one and are over: upgraded once, and not
        renewed. Raises Refused where the key is known, or a free plan held."""
        holder = free_holder(listing.id, free_payer) if free_payer else ""
        keys = {"key_hash": wish.key_hash, "free_for": holder}
        found = await asyncio.to_thread(_find_taken, self._counter.engine, keys)
        if any(each.key_hash == wish.key_hash or each.standing(now).served for each in found):
            raise Refused("subscription_exists")
        return found


def _is_this(subscriber: Subscriber, plan: Offered, payer: str) -> bool:
    """Whether it is what is wished for, and still holds."""
    held = subscriber.settled[-1].period.plan_id == plan.id
    return held and subscriber.payer == payer and subscriber.cancelled_at is None


def _first(plan: Offered, stretch: Stretch, payment_id: str | None, at: int) -> Ordered:
    """As it will be once it is paid: the answer leaves only then."""
    period = Period(plan.id, plan.deal, stretch)
    return Ordered(1, Kind.FIRST, plan.name, period, payment_id, None, at)


def _exact_payment(call: Call) -> ExactPayment | None:
    """The payment of the request, where it can be read and is one transfer."""
    if call.payment is None or call.payments != 1:
        return None
    try:
        payload = decode_payment(call.payment).payload
    except PaymentRefused:
        return None
    return payload if isinstance(payload, ExactPayment) else None


async def _made_before(_call: Call) -> Made:
    """Its answer is stored; only a payment that was released since would come here."""
    raise Refused("payment_in_flight")


def _read_charged(engine: Engine, key: Mapping[str, Any]) -> int | None:
    with engine.connect() as connection:
        found = connection.scalar(_BOUGHT, dict(key))
    return None if found is None else int(found)


def _find_taken(engine: Engine, keys: Mapping[str, Any]) -> list[Subscriber]:
    with engine.connect() as connection:
        return subscribers_in(connection, connection.scalars(_TAKEN, dict(keys)))


def _read_all(
    engine: Engine, subscriber: Subscriber, now: int
) -> tuple[dict[str, Offered], Any, Any, dict[str, int]]:
    plans = read_plans(engine, subscriber.listing_id, retired=True)
    invoices = invoices_of(engine, subscriber.id, InvoiceSide.SOLD)
    requests, used = read_requests(engine, subscriber.id), used_by(engine, subscriber.subject, now)
    return {plan.id: plan for plan in plans}, invoices, requests, used
