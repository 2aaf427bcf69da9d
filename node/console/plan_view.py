"""Plans and subscriptions as the screen shows them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from finance.money import Usdc
from finance.networks import Network
from node.console.format import (
    NOT_KNOWN,
    Amount,
    Moment,
    Short,
    cell_amount,
    count,
    exact_amount,
    moment,
    transaction,
)
from node.console.gauge import Gauge, gauge
from node.durations import HOUR
from node.plans.buying.models import BoughtState, OrderState
from node.plans.buying.read import OrderView, RequestView, SubscriptionView
from node.plans.buying.shapes import Plan
from node.plans.terms import Beyond

PATH: Final = "/developers/subscriptions"
BEYOND: Final = (
    (Beyond.PAY.value, "Pay such calls one by one, within the limits"),
    (Beyond.STOP.value, "Refuse them, and tell the app"),
)
_TONES: Final = {
    BoughtState.ACTIVE: "good",
    BoughtState.GRACE: "loud",
    BoughtState.ORDERED: "info",
    BoughtState.CANCELLED: "plain",
    BoughtState.LAPSED: "bad",
    BoughtState.ENDED: "plain",
    BoughtState.FAILED: "bad",
}
_ORDER_STATES: Final = {
    OrderState.OPEN: ("under way", "loud"),
    OrderState.DONE: ("done", "good"),
    OrderState.FAILED: ("failed", "bad"),
    OrderState.GIVING_UP: ("being given up", "loud"),
    OrderState.GIVEN_UP: ("given up", "bad"),
}
_REQUEST_TONES: Final = {"open": "info", "granted": "good", "answered": "good", "refused": "bad"}


@dataclass(frozen=True, slots=True)
class PlanCard:
    """A plan that may be had; `held`: this node has it."""

    id: str
    name: str
    description: str
    month: Amount
    now: Amount
    now_quota: str
    until: Moment | None
    quotas: tuple[str, ...]
    beyond: str
    grace: str
    path: str
    held: bool


@dataclass(frozen=True, slots=True)
class OrderRow:
    """A payment, or the attempt at one."""

    at: Moment
    what: str
    state: str
    tone: str
    charged: Amount
    most: Amount
    tx: Short | None
    call_id: str
    error: str
    next_try: Moment | None


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A request with its answer."""

    at: Moment
    by: str
    what: str
    text: str
    state: str
    tone: str
    answer: str
    answered: Moment | None


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """A subscription in the list."""

    path: str
    listing: str
    plan: str
    state: str
    tone: str
    used: str
    paid_until: Moment | None
    next_at: Moment | None
    next_price: Amount


def plan_card(plan: Plan, listing_id: str, held: bool, now: int, zone: ZoneInfo) -> PlanCard:
    """A plan in the catalog."""
    left = plan.now
    return PlanCard(
        id=plan.id,
        name=plan.name,
        description=plan.description,
        month=exact_amount(Usdc(plan.monthly_price_atoms)),
        now=exact_amount(Usdc(left.price_atoms if left else plan.monthly_price_atoms)),
        now_quota=_quota_text(left.calls, left.stream_seconds) if left else "",
        until=moment(left.until, now, zone) if left and left.until else None,
        quotas=quotas_of(plan),
        beyond=beyond_of(plan),
        grace=_days(plan.grace_days),
        path=f"/catalog/{listing_id}/plans/{plan.id}",
        held=held,
    )


def quotas_of(plan: Plan) -> tuple[str, ...]:
    """What a month of it gives."""
    calls = "calls without end" if plan.calls is None else f"{_calls(plan.calls)} a month"
    streams = "streams without end"
    if plan.stream_seconds is not None:
        streams = f"{_stream_hours(plan.stream_seconds)} a month"
    rate = "" if plan.per_minute is None else f"{_calls(plan.per_minute)} a minute"
    return tuple(each for each in (calls, streams, rate) if each)


def beyond_of(plan: Plan) -> str:
    """What becomes of calls beyond the quota, as the seller decides."""
    if plan.beyond == Beyond.STOP:
        return "Calls beyond the quota are refused until the month ends."
    return "Calls beyond the quota may be paid one by one."


def meters_of(view: SubscriptionView) -> tuple[Gauge, ...]:
    """Both meters, as the seller last said."""
    return (
        gauge("Calls", view.used_calls, view.calls, count),
        gauge("Stream hours", view.used_stream_seconds, view.stream_seconds, hours),
    )


def row_of(view: SubscriptionView, now: int, zone: ZoneInfo) -> SubscriptionRow:
    """A line of the list."""
    cap = "no end" if view.calls is None else count(view.calls)
    due = view.next_billing_at
    return SubscriptionRow(
        path=f"{PATH}/{view.id}",
        listing=view.listing,
        plan=view.plan_name,
        state=view.state.value,
        tone=_TONES[view.state],
        used=f"{count(view.used_calls)} of {cap}" if view.live else NOT_KNOWN,
        paid_until=moment(view.paid_until, now, zone) if view.paid_until else None,
        next_at=moment(due, now, zone) if due is not None else None,
        next_price=cell_amount(Usdc(view.next_price_atoms)),
    )


def order_row(each: OrderView, network: Network, now: int, zone: ZoneInfo) -> OrderRow:
    """A line of the payments."""
    is_open, (state, tone) = each.state is OrderState.OPEN, _ORDER_STATES[each.state]
    return OrderRow(
        at=moment(each.created_at, now, zone),
        what=each.kind.value,
        state=state,
        tone=tone,
        charged=cell_amount(Usdc(each.charged_atoms)),
        most=cell_amount(Usdc(each.most_atoms)),
        tx=transaction(each.tx_hash, network) if each.tx_hash else None,
        call_id=each.call_id,
        error=each.detail or each.error,
        next_try=moment(each.next_try_at, now, zone) if is_open and each.next_try_at else None,
    )


def request_row(each: RequestView, now: int, zone: ZoneInfo) -> RequestRow:
    """A line of what was asked."""
    what = "Support"
    if each.kind == "override":
        unit = hours if each.meter == "stream_seconds" else count
        noun = "stream hours" if each.meter == "stream_seconds" else "calls"
        cap = "no cap" if each.cap is None else f"{unit(each.cap)} a month"
        what = f"Override of {noun}: {cap}, until {moment(each.until, now, zone).local}"
    return RequestRow(
        at=moment(each.asked_at, now, zone),
        by=each.asked_by,
        what=what,
        text=each.text,
        state=each.state if each.sent else "not sent yet",
        tone=_REQUEST_TONES.get(each.state, "plain") if each.sent else "loud",
        answer=each.answer,
        answered=moment(each.answered_at, now, zone) if each.answered_at else None,
    )


def tone_of(state: BoughtState) -> str:
    """The colour of a state's badge."""
    return _TONES[state]


def hours(seconds: int) -> str:
    """`12.5`."""
    tenths = seconds * 10 // HOUR
    return f"{tenths // 10:,}.{tenths % 10}" if tenths % 10 else f"{tenths // 10:,}"


def _quota_text(calls: int | None, stream_seconds: int | None) -> str:
    some = "calls without end" if calls is None else _calls(calls)
    more = "streams without end"
    if stream_seconds is not None:
        more = _stream_hours(stream_seconds)
    return f"{some}, {more}"


def _calls(number: int) -> str:
    return f"{count(number)} call{'' if number == 1 else 's'}"


def _stream_hours(seconds: int) -> str:
    return f"{hours(seconds)} hour{'' if seconds == HOUR else 's'} of streams"


def _days(days: int) -> str:
    if not days:
        return "none: it lapses at once when it is not renewed"
    return f"{days} day{'' if days == 1 else 's'} after an unpaid month's end"
