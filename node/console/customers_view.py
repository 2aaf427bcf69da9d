"""Developers > Customers, formatted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from finance.money import Usdc
from finance.networks import Network
from node.console.developers_view import NAMES, meter_gauge, quantity, utc
from node.console.format import Amount, Moment, Short, address, cell_amount, count, moment
from node.console.forms import Form
from node.console.gauge import Gauge
from node.durations import HOUR
from node.plans.customers import Customer
from node.plans.invoices import InvoiceView
from node.plans.models import RequestState
from node.plans.requests import Request
from node.plans.subscribers import Ordered
from node.plans.terms import Kind, State
from node.usage.endpoints import EndpointUse
from node.usage.overrides import Override
from node.usage.quotas import Meter

CSV: Final = (
    "id",
    "name",
    "payer",
    "listing",
    "plan",
    "state",
    "calls",
    "usdc_paid_per_call",
    "quota_calls_used",
    "quota_calls",
    "quota_stream_seconds_used",
    "quota_stream_seconds",
    "open_requests",
    "since_utc",
)
_TONES: Final = {
    State.ACTIVE: "good",
    State.GRACE: "loud",
    State.LAPSED: "plain",
    State.CANCELLED: "plain",
}
_ANSWERED: Final = {
    RequestState.OPEN: "loud",
    RequestState.GRANTED: "good",
    RequestState.REFUSED: "bad",
    RequestState.ANSWERED: "good",
}
_KINDS: Final = {Kind.FIRST: "subscribed", Kind.RENEWAL: "renewed", Kind.UPGRADE: "upgraded"}


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """One customer of the list; `tone` of its state."""

    href: str
    name: str
    payer: Short
    listing: str
    plan: str
    state: str
    tone: str
    calls: str
    paid: Amount
    quotas: tuple[Gauge, ...]
    waiting: str


@dataclass(frozen=True, slots=True)
class EndpointRow:
    listing: str
    route: str
    calls: str
    errors: str


@dataclass(frozen=True, slots=True)
class RequestRow:
    """Something a customer asked for."""

    id: int
    kind: str
    wish: str
    text: str
    at: Moment
    state: str
    tone: str
    open: bool
    override: bool
    answer: str
    by: str
    answered: Moment | None


@dataclass(frozen=True, slots=True)
class OverrideLine:
    id: int
    meter: str
    cap: str
    until: Moment
    reason: str
    by: str
    state: str
    tone: str
    holds: bool


@dataclass(frozen=True, slots=True)
class OrderRow:
    """What was ordered; `invoice` and its page once it is paid."""

    at: Moment
    what: str
    plan: str
    period: str
    price: Amount
    state: str
    tone: str
    invoice: str
    href: str


def customer_row(each: Customer, network: Network) -> CustomerRow:
    """Formatted for the table."""
    state = "pay per call" if each.state is None else each.state.value
    return CustomerRow(
        href=f"/developers/customers/{each.id}",
        name=each.name,
        payer=address(each.payer, network),
        listing=each.listing,
        plan=each.plan_name,
        state=state,
        tone="plain" if each.state is None else _TONES[each.state],
        calls=count(each.calls),
        paid=cell_amount(Usdc(each.amount_atoms)),
        quotas=gauges_of(each) if each.subscribed else (),
        waiting=count(each.open_requests) if each.open_requests else "",
    )


def gauges_of(each: Customer) -> tuple[Gauge, Gauge]:
    """Its calls and its stream hours."""
    return (
        meter_gauge(Meter.CALLS, each.used_calls, each.calls_limit),
        meter_gauge(Meter.STREAM_SECONDS, each.used_stream_seconds, each.stream_seconds_limit),
    )


def endpoint_rows(found: Sequence[EndpointUse]) -> tuple[EndpointRow, ...]:
    """Routes, most calls first."""
    return tuple(
        EndpointRow(each.name, each.route, count(each.sums.calls), count(each.sums.errors))
        for each in found
    )


def request_row(each: Request, now: int, zone: ZoneInfo) -> RequestRow:
    """With its answer, if there is one."""
    override = each.kind == "override"
    answered = each.answered_at
    return RequestRow(
        id=each.id,
        kind=each.kind,
        wish=_wish(each, zone) if override else "",
        text=each.text,
        at=moment(each.asked_at, now, zone),
        state=each.state.value,
        tone=_ANSWERED[each.state],
        open=each.state is RequestState.OPEN,
        override=override,
        answer=each.answer,
        by=each.answered_by,
        answered=None if answered is None else moment(answered, now, zone),
    )


def _wish(each: Request, zone: ZoneInfo) -> str:
    meter = Meter(each.meter or "")
    cap = "no cap" if each.cap is None else quantity(meter, each.cap)
    until = datetime.fromtimestamp(each.until or 0, zone).strftime("%Y-%m-%d %H:%M")
    return f"{NAMES[meter]}: {cap} a month until {until}"


def form_as_asked(each: Request, zone: ZoneInfo) -> Form:
    """The form that grants just what was asked for."""
    if each.kind != "override":
        return Form()
    cap, meter = each.cap, Meter(each.meter or "")
    if cap is not None and meter is Meter.STREAM_SECONDS:
        cap = -(-cap // HOUR)
    until = datetime.fromtimestamp(each.until or 0, zone)
    return Form(
        {"cap": "" if cap is None else str(cap), "ends_at": until.strftime("%Y-%m-%dT%H:%M")}
    )


def override_lines(found: Sequence[Override], now: int, zone: ZoneInfo) -> tuple[OverrideLine, ...]:
    """Also those that are over."""
    return tuple(
        OverrideLine(
            each.id,
            NAMES[each.meter],
            "no cap" if each.cap is None else quantity(each.meter, each.cap),
            moment(each.ends_at, now, zone),
            each.reason,
            each.granted_by,
            "holds" if each.holds(now) else "over" if each.ended_at is None else "ended",
            "good" if each.holds(now) else "plain",
            each.holds(now),
        )
        for each in found
    )


def order_rows(
    orders: Sequence[Ordered], invoices: Sequence[InvoiceView], now: int, zone: ZoneInfo
) -> tuple[OrderRow, ...]:
    """The newest first, each with its invoice."""
    billed = {each.payment_id: each for each in invoices}
    return tuple(
        _order_row(each, billed.get(each.payment_id) if each.payment_id else None, now, zone)
        for each in reversed(orders)
    )


def _order_row(each: Ordered, invoice: InvoiceView | None, now: int, zone: ZoneInfo) -> OrderRow:
    stretch, settled = each.period.stretch, each.period.settled
    paid = ("settled", "good") if settled else ("on its way", "loud")
    return OrderRow(
        moment(each.ordered_at, now, zone),
        _KINDS[each.kind],
        each.plan_name,
        days_of(stretch.start, stretch.end),
        cell_amount(Usdc(stretch.price_atoms)),
        *(paid if each.payment_id else ("free", "plain")),
        invoice.number if invoice else "",
        f"/finance/invoices/{invoice.id}" if invoice else "",
    )


def days_of(start: int, end: int) -> str:
    """`2026-11-21 – 2026-12-01`, UTC."""
    return f"{utc(start)[:10]} – {utc(end)[:10]}"


def csv_line(each: Customer) -> tuple[object, ...]:
    """A row of the file."""
    limits = (each.calls_limit, each.stream_seconds_limit)
    shown = ["" if limit is None else limit for limit in limits]
    return (
        each.id,
        each.name,
        each.payer,
        each.listing,
        each.plan_name,
        "" if each.state is None else each.state.value,
        each.calls,
        str(Usdc(each.amount_atoms)),
        each.used_calls,
        shown[0],
        each.used_stream_seconds,
        shown[1],
        each.open_requests,
        "" if each.since is None else utc(each.since),
    )
