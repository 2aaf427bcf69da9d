"""The seller's plans, its customers with their requests, and invoices of both sides."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Literal

from fastapi import Path, Query
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import PAGE_SIZE, Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints
from node.plans.customers import Customer, list_customers, read_customer
from node.plans.ending import MOST_REASON, When, end_subscription
from node.plans.errors import PlanUnknown
from node.plans.invoices import InvoiceView, list_invoices, read_invoice
from node.plans.models import InvoiceSide
from node.plans.offered import (
    MOST_ATOMS,
    MOST_OF_A_METER,
    MOST_PER_MINUTE,
    PlanChoices,
    add_plan,
    change_plan,
    choices,
    retire_plan,
)
from node.plans.requests import Request, answer_support, grant, read_request, refuse
from node.plans.subscribers import Offered, Ordered, read_plan, read_plans
from node.plans.terms import LONGEST_GRACE_DAYS, terms_of
from node.usage.overrides import list_overrides

SEE, MANAGE = Permission.SEE_LISTINGS, Permission.MANAGE_LISTINGS

Quota = Annotated[int, Field(ge=1, le=MOST_OF_A_METER)]
Number = Annotated[int, Path(ge=0, le=2**62)]
Words = Annotated[str, Field(max_length=1_000, pattern=r"^[^\x00]*$")]


class PlanOut(BaseModel):
    """A plan: price of a month in USDC atoms, quotas of a month (null: no end). `retired_at`:
    not offered since, for those who have it it goes on."""

    id: str
    listing_id: str
    name: str
    description: str
    price_atoms: int
    calls: int | None
    stream_seconds: int | None
    per_minute: int | None
    beyond: Literal["pay", "stop"]
    grace_days: int
    created_at: int
    retired_at: int | None


class PlanIn(Sent):
    """A plan as it is to be; price 0 is free and stays so."""

    name: ShortText
    description: ShortText = ""
    price_atoms: Annotated[int, Field(ge=0, le=MOST_ATOMS)]
    calls: Quota | None = None
    stream_seconds: Quota | None = None
    per_minute: Annotated[int, Field(ge=1, le=MOST_PER_MINUTE)] | None = None
    beyond: Literal["pay", "stop"] = "stop"
    grace_days: Annotated[int, Field(ge=0, le=LONGEST_GRACE_DAYS)] = 3


class CustomerOut(BaseModel):
    """A subscriber (`state` active, grace, lapsed or cancelled), or (null) somebody who pays call
    by call. Figures of this month; limits null: no end."""

    id: str
    name: str
    payer: str
    listing: str
    plan_name: str
    state: str | None
    calls: int
    amount_atoms: int
    used_calls: int
    calls_limit: int | None
    used_stream_seconds: int
    stream_seconds_limit: int | None
    open_requests: int
    since: int | None


class RequestOut(BaseModel):
    """What a customer asked; times in Unix seconds."""

    id: int
    kind: str
    meter: str | None
    cap: int | None
    until: int | None
    text: str
    asked_at: int
    state: str
    answer: str
    answered_by: str
    answered_at: int | None


class OrderOut(BaseModel):
    """A period that was ordered; `settled` once its money has arrived."""

    number: int
    kind: str
    plan_id: str
    plan_name: str
    start: int
    end: int
    calls: int | None
    stream_seconds: int | None
    price_atoms: int
    ordered_at: int
    settled: bool
    tx_hash: str | None


class GrantedOut(BaseModel):
    """A cap that is or was lifted."""

    id: int
    meter: str
    cap: int | None
    starts_at: int
    ends_at: int
    reason: str
    granted_by: str
    ended_at: int | None


class CustomerDetailOut(BaseModel):
    """A subscriber with its orders, requests and overrides. `cancelled_at`: not renewed; by the
    seller's user `ended_by`, if any. `served_until`: a free one that ended before its month."""

    customer: CustomerOut
    email: str
    cancelled_at: int | None
    ended_by: str | None
    end_reason: str | None
    served_until: int | None
    period_start: int
    period_end: int
    next_plan_id: str
    orders: list[OrderOut]
    requests: list[RequestOut]
    overrides: list[GrantedOut]


class AnswerIn(Sent):
    """`grant` an override (with `cap`, null for none, until `ends_at`), `refuse` it, or `answer`
    a message."""

    action: Literal["grant", "refuse", "answer"]
    answer: Words = ""
    cap: Quota | None = None
    ends_at: Annotated[int, Field(ge=0, le=10**11)] = 0


class EndIn(Sent):
    """`reason`: the customer reads it. `now` only where nothing is paid; what is paid stays
    served to the end of its period."""

    reason: Annotated[str, Field(min_length=1, max_length=MOST_REASON, pattern=r"^[^\x00]*$")]
    when: When = When.PERIOD_END


class LineOut(BaseModel):
    text: str
    amount_atoms: int


class InvoiceOut(BaseModel):
    """A payment for a plan; times in Unix seconds, amounts in USDC atoms."""

    id: int
    side: str
    number: str
    subscription_id: str
    listing_id: str
    listing_name: str
    plan_name: str
    seller: str
    buyer: str
    buyer_name: str
    buyer_email: str
    period_start: int
    period_end: int
    lines: list[LineOut]
    amount_atoms: int
    chain_id: int
    tx_hash: str
    paid_at: int


def endpoints(engine: Engine, chain_id: int) -> list[Endpoints]:
    """`/api/listings/{id}/plans`, `/api/customers`, `/api/invoices`."""
    return [_plans(engine), _customers(engine), _invoices(engine, chain_id)]


def _plans(engine: Engine) -> Endpoints:
    api = Endpoints("/listings/{listing_id}/plans", ["plans"])

    @api.get("", SEE)
    async def plans(listing_id: Id, page: PageNumber = 1) -> Listed[PlanOut]:
        """Also those not offered any more."""
        found = await asyncio.to_thread(read_plans, engine, listing_id, retired=True)
        return listed([_plan(each) for each in found], page)

    @api.post("", MANAGE, status_code=201)
    async def add(listing_id: Id, body: PlanIn, identity: Caller) -> PlanOut:
        actor, chosen = Actor.of(identity), _chosen(body)
        return _plan(await asyncio.to_thread(add_plan, engine, listing_id, chosen, _now(), actor))

    @api.get("/{plan_id}", SEE)
    async def one(listing_id: Id, plan_id: Id) -> PlanOut:
        return _plan(await asyncio.to_thread(_of_listing, engine, listing_id, plan_id))

    @api.put("/{plan_id}", MANAGE)
    async def change(listing_id: Id, plan_id: Id, body: PlanIn, identity: Caller) -> PlanOut:
        """What is paid stays as it was sold."""
        await asyncio.to_thread(_of_listing, engine, listing_id, plan_id)
        actor, chosen = Actor.of(identity), _chosen(body)
        return _plan(await asyncio.to_thread(change_plan, engine, plan_id, chosen, _now(), actor))

    @api.delete("/{plan_id}", MANAGE)
    async def retire(listing_id: Id, plan_id: Id, identity: Caller) -> None:
        """Offer it no more; who has it keeps it."""
        await asyncio.to_thread(_of_listing, engine, listing_id, plan_id)
        await asyncio.to_thread(retire_plan, engine, plan_id, _now(), Actor.of(identity))

    return api


def _customers(engine: Engine) -> Endpoints:
    api, see = Endpoints("/customers", ["plans"]), Permission.SEE_DEVELOPERS

    @api.get("", see)
    async def customers(
        listing_id: Annotated[str, Query(max_length=80, pattern=r"^[^\x00]*$")] = "",
        page: PageNumber = 1,
    ) -> Listed[CustomerOut]:
        """Subscribers, then those who pay call by call this month."""
        found = await asyncio.to_thread(list_customers, engine, _now(), listing_id)
        return listed([_customer(each) for each in found], page)

    @api.get("/{customer_id}", see)
    async def one(customer_id: Id) -> CustomerDetailOut:
        """A subscriber."""
        return await asyncio.to_thread(_detail, engine, customer_id)

    @api.post("/{customer_id}/requests/{request_id}", Permission.MANAGE_PLANS)
    async def answer(
        customer_id: Id, request_id: Number, body: AnswerIn, identity: Caller
    ) -> RequestOut:
        """Grant, refuse or answer; once."""
        actor = Actor.of(identity)
        await asyncio.to_thread(_answer, engine, customer_id, request_id, body, actor)
        return _request(await asyncio.to_thread(read_request, engine, request_id))

    @api.post("/{customer_id}/end", Permission.MANAGE_PLANS)
    async def end(customer_id: Id, body: EndIn, identity: Caller) -> CustomerDetailOut:
        """End a subscription: it is not renewed any more."""
        given = (customer_id, body.reason, body.when, _now(), Actor.of(identity))
        await asyncio.to_thread(end_subscription, engine, *given)
        return await asyncio.to_thread(_detail, engine, customer_id)

    return api


def _invoices(engine: Engine, chain_id: int) -> Endpoints:
    api, see = Endpoints("/invoices", ["plans"]), Permission.SEE_FINANCE

    @api.get("", see)
    async def invoices(
        side: Annotated[InvoiceSide | None, Query()] = None, page: PageNumber = 1
    ) -> Listed[InvoiceOut]:
        """Sold and bought, newest first."""
        found = await asyncio.to_thread(list_invoices, engine, chain_id, side, page, PAGE_SIZE)
        items = [_invoice(each) for each in found.invoices]
        pages = max(-(-found.total // PAGE_SIZE), 1)
        return Listed(items=items, total=found.total, page=found.page, pages=pages)

    @api.get("/{invoice_id}", see)
    async def one(invoice_id: Number) -> InvoiceOut:
        return _invoice(await asyncio.to_thread(read_invoice, engine, invoice_id))

    return api


def _of_listing(engine: Engine, listing_id: str, plan_id: str) -> Offered:
    plan = read_plan(engine, plan_id)
    if plan is None or plan.listing_id != listing_id:
        raise PlanUnknown("There is no such plan.")
    return plan


def _chosen(body: PlanIn) -> PlanChoices:
    return choices(**{name: getattr(body, name) for name in PlanIn.model_fields})


def _detail(engine: Engine, customer_id: str) -> CustomerDetailOut:
    now = _now()
    found = read_customer(engine, customer_id, now)
    standing, subscriber = found.subscriber.standing(now), found.subscriber
    names = list(GrantedOut.model_fields)
    granted = list_overrides(engine, subscriber.subject)
    return CustomerDetailOut(
        customer=_customer(found.customer),
        email=subscriber.email,
        cancelled_at=subscriber.cancelled_at,
        ended_by=subscriber.ended.by if subscriber.ended else None,
        end_reason=subscriber.ended.reason if subscriber.ended else None,
        served_until=subscriber.served_until,
        period_start=standing.start,
        period_end=standing.end,
        next_plan_id=subscriber.goes_on_with,
        orders=[_order(each) for each in subscriber.orders],
        requests=[_request(each) for each in found.requests],
        overrides=[GrantedOut(**{name: getattr(o, name) for name in names}) for o in granted],
    )


def _answer(
    engine: Engine, customer_id: str, request_id: int, body: AnswerIn, actor: Actor
) -> None:
    if read_request(engine, request_id).subscription_id != customer_id:
        raise PlanUnknown("There is no such request.")
    match body.action:
        case "grant":
            grant(engine, request_id, body.cap, body.ends_at, body.answer, _now(), actor)
        case "refuse":
            refuse(engine, request_id, body.answer, _now(), actor)
        case "answer":
            answer_support(engine, request_id, body.answer, _now(), actor)


def _plan(plan: Offered) -> PlanOut:
    names = ("id", "listing_id", "name", "description", "created_at", "retired_at")
    return PlanOut(**{name: getattr(plan, name) for name in names}, **terms_of(plan.deal))


def _customer(each: Customer) -> CustomerOut:
    return CustomerOut(**{name: getattr(each, name) for name in CustomerOut.model_fields})


def _request(each: Request) -> RequestOut:
    return RequestOut(**{name: getattr(each, name) for name in RequestOut.model_fields})


def _order(each: Ordered) -> OrderOut:
    stretch = each.period.stretch
    return OrderOut(
        number=each.number,
        kind=each.kind.value,
        plan_id=each.period.plan_id,
        plan_name=each.plan_name,
        start=stretch.start,
        end=stretch.end,
        calls=stretch.calls,
        stream_seconds=stretch.stream_seconds,
        price_atoms=stretch.price_atoms,
        ordered_at=each.ordered_at,
        settled=each.period.settled,
        tx_hash=each.tx_hash,
    )


def _invoice(each: InvoiceView) -> InvoiceOut:
    names = [name for name in InvoiceOut.model_fields if name != "lines"]
    lines = [LineOut(text=line.text, amount_atoms=line.amount_atoms) for line in each.lines]
    return InvoiceOut(**{name: getattr(each, name) for name in names}, lines=lines)


def _now() -> int:
    return int(time.time())
