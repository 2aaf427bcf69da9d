"""Developers > Customers: who uses what this node sells, and what they ask for."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Engine
from starlette.responses import Response

from finance.money import Usdc
from finance.networks import Network
from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.console.customer_end import add_end
from node.console.customers_view import (
    CSV,
    CustomerRow,
    EndpointRow,
    OrderRow,
    OverrideLine,
    RequestRow,
    csv_line,
    customer_row,
    days_of,
    endpoint_rows,
    form_as_asked,
    gauges_of,
    order_rows,
    override_lines,
    request_row,
)
from node.console.developers_view import NAMES, utc
from node.console.format import Amount, Moment, Short, address, cell_amount, moment
from node.console.forms import FieldError, Form, read_whole
from node.console.gauge import Gauge
from node.console.pager import Pager, link, numbered, page_within
from node.console.pages import Pages
from node.console.visit import Visit
from node.durations import HOUR
from node.plans.customers import (
    Customer,
    CustomerDetail,
    list_customers,
    read_customer,
    read_payer,
)
from node.plans.errors import PlanInvalid, PlanUnknown
from node.plans.requests import Request, answer_support, grant, read_request, refuse
from node.plans.subscribers import Subscriber
from node.plans.terms import State
from node.usage.overrides import end_override, list_overrides
from node.usage.quotas import Meter
from node.usage.windows import window_of

PATH: Final = "/developers/customers"
PAGE_ROWS: Final = 50
ANSWERED: Final = 10  # requests shown on a customer's page; the file has all
SEE, MANAGE = Permission.SEE_DEVELOPERS, Permission.MANAGE_PLANS
_FORM_BYTES: Final = 16_000
_ADDRESS: Final = re.compile(r"0x[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class CustomersView:
    """What `developers/customers.html` shows."""

    rows: tuple[CustomerRow, ...]
    total: str
    waiting: int
    only: str
    pager: Pager
    csv: str


@dataclass(frozen=True, slots=True)
class CustomerView:
    """What `developers/customer.html` shows."""

    row: CustomerRow
    id: str
    email: str
    payer: Short
    since: Moment
    bars: tuple[Gauge, ...]
    resets: Moment
    period: str
    price: Amount
    next: str
    reason: str
    calls: str
    endpoints: tuple[EndpointRow, ...]
    waiting: tuple[RequestRow, ...]
    answered: tuple[RequestRow, ...]
    older: str
    overrides: tuple[OverrideLine, ...]
    orders: tuple[OrderRow, ...]
    may_see_invoices: bool
    may_answer: bool
    may_end: bool


@dataclass(frozen=True, slots=True)
class RequestView:
    """What `developers/request.html` shows."""

    id: str
    name: str
    request: RequestRow
    gauge: Gauge | None
    form: Form
    zone: str


@dataclass(frozen=True, slots=True)
class PayerView:
    """What `developers/payer.html` shows."""

    address: Short
    calls: str
    paid: Amount
    endpoints: tuple[EndpointRow, ...]
    subscriptions: tuple[CustomerRow, ...]


def pages(engine: Engine, network: Network) -> Pages:
    """`/developers/customers`, a page for each, and all of it as files."""
    pages = Pages("developers", "customers")

    @pages.get(PATH, SEE)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_list, engine, network, visit)
        return visit.page("developers/customers.html", view, "Customers")

    @pages.get(f"{PATH}.csv", SEE)
    async def export(visit: Visit) -> Response:
        found = await asyncio.to_thread(list_customers, engine, visit.now, _only(visit))
        return visit.csv("customers.csv", CSV, (csv_line(each) for each in found))

    @pages.get(f"{PATH}/{{customer_id}}", SEE)
    async def one(visit: Visit) -> Response:
        customer_id = visit.path["customer_id"]
        if _ADDRESS.fullmatch(customer_id):
            view = await asyncio.to_thread(_payer, engine, network, customer_id, visit)
            return visit.page("developers/payer.html", view, "Customer")
        return await _show(engine, network, visit, customer_id)

    @pages.get(f"{PATH}/{{customer_id}}/requests.csv", SEE)
    async def requests(visit: Visit) -> Response:
        found = await asyncio.to_thread(read_customer, engine, visit.path["customer_id"], visit.now)
        return visit.csv("requests.csv", _REQUESTS, (_csv(each) for each in found.requests))

    _add_answers(pages, engine, network)
    add_end(pages, engine)
    return pages


def _add_answers(pages: Pages, engine: Engine, network: Network) -> None:
    path = f"{PATH}/{{customer_id}}"

    @pages.get(f"{path}/requests/{{request_id:int}}", MANAGE)
    async def show_request(visit: Visit) -> Response:
        asked = await asyncio.to_thread(_asked, engine, visit)
        return await _show_request(engine, visit, asked)

    @pages.post(f"{path}/requests/{{request_id:int}}", MANAGE, _FORM_BYTES)
    async def answer(visit: Visit) -> Response:
        form, asked = Form(visit.form), await asyncio.to_thread(_asked, engine, visit)
        try:
            note = await asyncio.to_thread(_answer, engine, asked, form, visit)
        except (FieldError, PlanInvalid, AccountInvalid) as error:
            return await _show_request(engine, visit, asked, form.refused(error))
        return visit.redirect(f"{PATH}/{asked.subscription_id}", note)

    @pages.post(f"{path}/overrides/{{override_id:int}}/end", MANAGE, _FORM_BYTES)
    async def end(visit: Visit) -> Response:
        customer_id, number = visit.path["customer_id"], int(visit.path["override_id"])
        found = await asyncio.to_thread(read_customer, engine, customer_id, visit.now)
        subject = found.subscriber.subject
        own = await asyncio.to_thread(list_overrides, engine, subject)
        if number not in {each.id for each in own}:
            raise PlanUnknown("There is no such override.")
        await asyncio.to_thread(end_override, engine, number, visit.now, visit.actor)
        return visit.redirect(f"{PATH}/{customer_id}", "The override has ended.")


def _answer(engine: Engine, asked: Request, form: Form, visit: Visit) -> str:
    """What was done, as a sentence. Raises FieldError, PlansError, AccountInvalid."""
    words, now, actor = form.value("answer"), visit.now, visit.actor
    if asked.kind == "support":
        answer_support(engine, asked.id, words, now, actor)
        return "Answered; the customer's node fetches it within the hour."
    if form.value("what") == "refuse":
        refuse(engine, asked.id, words, now, actor)
        return "Refused; the customer's node is told within the hour."
    meter = Meter(asked.meter or "")
    cap = read_whole(form, "cap", "Write a whole number, or nothing for no cap.")
    if cap is not None and meter is Meter.STREAM_SECONDS:
        cap *= HOUR
    grant(engine, asked.id, cap, _moment(form, visit), words, now, actor)
    return "Granted: it holds within a second or two, and ends by itself."


def _moment(form: Form, visit: Visit) -> int:
    try:
        at = datetime.fromisoformat(form.value("ends_at")).replace(tzinfo=visit.zone)
        return int(at.timestamp())
    except (ValueError, OverflowError):
        raise FieldError("ends_at", "Write a day and a time, such as 2027-01-31T18:00.") from None


def _only(visit: Visit) -> str:
    return visit.query.get("listing", "").replace("\0", "")[:80]


def _list(engine: Engine, network: Network, visit: Visit) -> CustomersView:
    only = _only(visit)
    found, query = list_customers(engine, visit.now, only), {"listing": only}
    page = page_within(visit.query, PAGE_ROWS, len(found))
    shown = found[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return CustomersView(
        rows=tuple(customer_row(each, network) for each in shown),
        total=_total(found),
        waiting=sum(each.open_requests for each in found),
        only=only,
        pager=numbered(PATH, query, page, PAGE_ROWS, len(found)),
        csv=link(f"{PATH}.csv", query),
    )


def _total(found: list[Customer]) -> str:
    plans = sum(each.subscribed for each in found)
    return f"{plans:,} with a plan, {len(found) - plans:,} pay call by call this month"


def _asked(engine: Engine, visit: Visit) -> Request:
    asked = read_request(engine, min(int(visit.path["request_id"]), 2**62))
    if asked.subscription_id != visit.path["customer_id"]:
        raise PlanUnknown("There is no such request.")
    return asked


async def _show_request(
    engine: Engine, visit: Visit, asked: Request, form: Form | None = None
) -> Response:
    found = await asyncio.to_thread(read_customer, engine, asked.subscription_id, visit.now)
    wanted = NAMES[Meter(asked.meter)] if asked.meter else ""
    view = RequestView(
        asked.subscription_id,
        found.customer.name or found.customer.payer,
        request_row(asked, visit.now, visit.zone),
        next((each for each in gauges_of(found.customer) if each.name == wanted), None),
        form or form_as_asked(asked, visit.zone),
        visit.zone.key,
    )
    return visit.page("developers/request.html", view, "Request", 200 if form is None else 422)


async def _show(engine: Engine, network: Network, visit: Visit, customer_id: str) -> Response:
    found = await asyncio.to_thread(read_customer, engine, customer_id, visit.now)
    view = _view(found, network, visit)
    return visit.page("developers/customer.html", view, found.customer.name or "Customer")


def _view(found: CustomerDetail, network: Network, visit: Visit) -> CustomerView:
    subscriber, now, zone = found.subscriber, visit.now, visit.zone
    customer, standing = found.customer, subscriber.standing(now)
    goes_on = found.plans.get(subscriber.goes_on_with)
    asked = [request_row(each, now, zone) for each in found.requests]
    closed = tuple(each for each in asked if not each.open)
    return CustomerView(
        row=customer_row(customer, network),
        id=subscriber.id,
        email=subscriber.email,
        payer=address(subscriber.payer, network),
        since=moment(subscriber.created_at, now, zone),
        bars=gauges_of(customer),
        resets=moment(window_of(now).end, now, zone),
        period=days_of(standing.start, standing.end),
        price=cell_amount(Usdc(standing.price_atoms)),
        next=_next(subscriber, goes_on.name if goes_on else "", standing.state),
        reason=subscriber.ended.reason if subscriber.ended else "",
        calls=f"{customer.calls:,}",
        endpoints=endpoint_rows(found.endpoints),
        waiting=tuple(each for each in asked if each.open),
        answered=closed[:ANSWERED],
        older=f"{len(closed) - ANSWERED:,}" if len(closed) > ANSWERED else "",
        overrides=override_lines(found.overrides, now, zone),
        orders=order_rows(subscriber.orders, found.invoices, now, zone),
        may_see_invoices=visit.identity.may(Permission.SEE_FINANCE),
        may_answer=visit.identity.may(MANAGE),
        may_end=visit.identity.may(MANAGE) and subscriber.cancelled_at is None,
    )


def _next(subscriber: Subscriber, plan: str, state: State) -> str:
    if subscriber.ended is not None:
        return f"not renewed: ended by {subscriber.ended.by}"
    if subscriber.cancelled_at is not None:
        return "not renewed: cancelled by the customer"
    return (
        "pays call by call until it is renewed" if state is State.LAPSED else f"goes on with {plan}"
    )


def _payer(engine: Engine, network: Network, wanted: str, visit: Visit) -> PayerView:
    found = read_payer(engine, wanted, visit.now)
    return PayerView(
        address=address(wanted, network),
        calls=f"{found.customer.calls:,}",
        paid=cell_amount(Usdc(found.customer.amount_atoms)),
        endpoints=endpoint_rows(found.endpoints),
        subscriptions=tuple(customer_row(each, network) for each in found.subscriptions),
    )


_REQUESTS: Final = (
    "id",
    "asked_utc",
    "kind",
    "meter",
    "cap",
    "until_utc",
    "text",
    "state",
    "answer",
    "answered_by",
    "answered_utc",
)


def _csv(each: Request) -> tuple[object, ...]:
    return (
        each.id,
        utc(each.asked_at),
        each.kind,
        each.meter or "",
        "" if each.cap is None else each.cap,
        "" if each.until is None else utc(each.until),
        each.text,
        each.state.value,
        each.answer,
        each.answered_by,
        "" if each.answered_at is None else utc(each.answered_at),
    )
