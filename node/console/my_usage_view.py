"""Developers > My usage, formatted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from zoneinfo import ZoneInfo

from finance.money import Usdc
from node.console.developers_view import (
    MeterCard,
    full_moment,
    hours_text,
    meter_card,
    quantity,
)
from node.console.figures import Card
from node.console.format import (
    NOT_KNOWN,
    Amount,
    Moment,
    amount,
    cell_amount,
    count,
    latency,
    moment,
    percent,
)
from node.console.forms import Form
from node.console.gauge import Gauge, gauge
from node.console.key_record_view import PAGE_ROWS, PATH, Line, record_line
from node.console.pager import Pager, link, numbered, page_within
from node.plans.buying.read import SubscriptionView
from node.usage.endpoints import EndpointUse
from node.usage.key_record import RecordLine
from node.usage.keys import KeyView, NewKey
from node.usage.my_usage import Cards, KeyUsage
from node.usage.periods import Period, Span
from node.usage.windows import Sums, add_up

LATEST: Final = 8
GRACES: Final = (
    ("0", "ends now"),
    ("3600", "goes on for 1 hour"),
    ("86400", "goes on for 1 day"),
    ("604800", "goes on for 7 days"),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """Something to choose by a link or in a list."""

    value: str
    label: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Token:
    """The key itself; its secret is known only right after it was `made`."""

    id: str
    name: str
    email: str
    integrator: bool
    revoked: bool
    may: str
    created: Moment
    seen: Moment | None
    old_until: Moment | None
    base_url: str
    made: NewKey | None
    version: int


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint of the table."""

    api: str
    route: str
    calls: str
    share: str
    errors: str
    rate: str
    latency: str
    cost: Amount
    statuses: str


@dataclass(frozen=True, slots=True)
class Meters:
    """A meter of the node beside what this key used of it."""

    mine: str
    card: MeterCard


@dataclass(frozen=True, slots=True)
class Held:
    """A subscription of this node."""

    listing: str
    plan: str
    state: str
    tone: str
    bars: tuple[Gauge, ...]
    rate: str
    resets: Moment


@dataclass(frozen=True, slots=True)
class Panel:
    """What holds now."""

    plan: str
    meters: tuple[Meters, ...]
    days_left: str
    resets: Moment
    month: str
    rate: Gauge
    streams: str
    hours: str
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class Billing:
    """A payment that is to come."""

    listing: str
    plan: str
    at: Moment
    price: Amount


@dataclass(frozen=True, slots=True)
class MyUsageView:
    """Everything `developers/my_usage.html` shows."""

    path: str
    keys: tuple[Choice, ...]
    token: Token
    graces: tuple[tuple[str, str], ...]
    cards: tuple[Card, ...]
    spans: tuple[Choice, ...]
    days: Form
    since: Moment
    until: Moment
    rows: tuple[Row, ...]
    all: Row
    pager: Pager
    csv: str
    panel: Panel
    billing: tuple[Billing, ...]
    record: tuple[Line, ...]
    more: str
    read_at: Moment


def my_usage_view(
    usage: KeyUsage,
    keys: Sequence[KeyView],
    period: Period,
    endpoints: Sequence[EndpointUse],
    record: Sequence[RecordLine],
    query: Mapping[str, str],
    days: Form,
    zone: ZoneInfo,
    base_url: str,
    made: NewKey | None,
) -> MyUsageView:
    """`query`: what the address has, kept by links; `days`: what was typed into the range."""
    now, key = usage.now, usage.key
    kept = {"key": key.id, **{name: query[name] for name in ("first", "last") if name in query}}
    one, asked = f"{PATH}/{key.id}", {**kept, "span": period.span.value}
    whole = add_up(each.sums for each in endpoints)
    page = page_within(query, PAGE_ROWS, len(endpoints))
    shown = endpoints[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return MyUsageView(
        path=one,
        keys=tuple(Choice(each.id, _name(each), each.id == key.id) for each in keys),
        token=_token(key, now, zone, base_url, made),
        graces=GRACES,
        cards=card_texts(usage.cards),
        spans=tuple(_span(each, key.id, period) for each in Span if each is not Span.DAYS),
        days=days,
        since=full_moment(period.since, now, zone),
        until=full_moment(min(period.until, now), now, zone),
        rows=tuple(_row(each.name, each.route, each.sums, whole, each) for each in shown),
        all=_row("All", "", whole, whole),
        pager=numbered(PATH, asked, page, PAGE_ROWS, len(endpoints)),
        csv=link(f"{one}/endpoints.csv", {**asked, "key": ""}),
        panel=_panel(usage, zone),
        billing=tuple(_billing(each, now, zone) for each in usage.next_billings),
        record=tuple(record_line(each, now, zone) for each in record[:LATEST]),
        more=f"{one}/record" if record else "",
        read_at=full_moment(now, now, zone),
    )


def card_texts(cards: Cards) -> tuple[Card, ...]:
    """The four figures of the last 90 days."""
    sums, mean = cards.sums, cards.sums.mean_latency_us
    tenths = sums.calls * 10 // cards.days
    over = f"{count(sums.calls)} requests in {cards.days} day{'' if cards.days == 1 else 's'}"
    return (
        Card("Daily Avg Usage", f"{tenths // 10:,}.{tenths % 10}", "", over),
        Card("Avg Latency", NOT_KNOWN if mean is None else latency(mean), "", "until the answer"),
        Card(
            "Error Rate",
            percent(sums.errors, sums.calls),
            f"{count(sums.errors)} of {count(sums.calls)}",
            f"{count(sums.errors)} requests failed",
        ),
        Card("Rate Limit Hit", count(cards.hits), "", "refused with 429, counted apart"),
    )


ENDPOINTS: Final = (
    "api_id",
    "api",
    "endpoint",
    "status",
    "calls",
    "errors",
    "avg_latency_ms",
    "usdc",
)


def endpoint_lines(found: Sequence[EndpointUse]) -> Iterator[tuple[object, ...]]:
    """The table, a row for every status."""
    for each in found:
        for one in each.statuses:
            mean, sums = one.sums.mean_latency_us or 0, one.sums
            took = f"{mean // 1000}.{mean % 1000:03d}"
            figures = (sums.calls, sums.errors, took, str(Usdc(sums.amount_atoms)))
            yield each.listing_id, each.name, each.route, one.status, *figures


def _name(key: KeyView) -> str:
    return f"{key.name} (revoked)" if key.revoked_at is not None else key.name


def _token(key: KeyView, now: int, zone: ZoneInfo, base_url: str, made: NewKey | None) -> Token:
    going_on = key.previous_until is not None and key.previous_until > now
    listings = f"{count(len(key.scopes))} listing{'' if len(key.scopes) == 1 else 's'}"
    return Token(
        id=key.id,
        name=key.name,
        email=key.owner_email or NOT_KNOWN,
        integrator=key.integrator,
        revoked=key.revoked_at is not None,
        may=listings if key.scopes else "every listing",
        created=moment(key.created_at, now, zone),
        seen=moment(key.last_used_at, now, zone) if key.last_used_at else None,
        old_until=full_moment(key.previous_until or 0, now, zone) if going_on else None,
        base_url=base_url,
        made=made,
        version=key.version,
    )


def _span(span: Span, key_id: str, period: Period) -> Choice:
    target = link(PATH, {"key": key_id, "span": span.value})
    return Choice(target, span.label, span is period.span)


def _row(api: str, route: str, sums: Sums, whole: Sums, endpoint: EndpointUse | None = None) -> Row:
    mean = sums.mean_latency_us
    statuses = endpoint.statuses if endpoint else ()
    return Row(
        api=api,
        route=route,
        calls=count(sums.calls),
        share=percent(sums.calls, whole.calls),
        errors=count(sums.errors),
        rate=percent(sums.errors, sums.calls),
        latency=NOT_KNOWN if mean is None else latency(mean),
        cost=cell_amount(Usdc(sums.amount_atoms)),
        statuses=", ".join(f"{each.status}: {count(each.sums.calls)}" for each in statuses),
    )


def _panel(usage: KeyUsage, zone: ZoneInfo) -> Panel:
    now, key, live = usage.now, usage.key, usage.live
    left = -(-(usage.window.end - now) // 86_400)
    tiers = " · ".join(f"{each.shared.tier.label}" for each in usage.meters[:1])
    return Panel(
        plan=f"Integrator, {tiers} tier" if key.integrator else "Internal: no quota",
        meters=tuple(
            Meters(quantity(each.meter, each.mine), meter_card(each.shared, now, zone))
            for each in usage.meters
        ),
        days_left=f"{left} day{'' if left == 1 else 's'}",
        resets=full_moment(usage.window.end, now, zone),
        month=count(usage.month.calls),
        rate=gauge("Requests per minute", usage.per_minute_now, key.per_minute, count),
        streams=count(live.streams),
        hours=hours_text(usage.streams.seconds),
        held=tuple(_held(each, now, zone) for each in usage.subscriptions),
    )


def _held(each: SubscriptionView, now: int, zone: ZoneInfo) -> Held:
    bars = (
        gauge("Calls", each.used_calls, each.calls, count),
        gauge("Stream hours", each.used_stream_seconds, each.stream_seconds, hours_text),
    )
    limit = "no limit" if each.per_minute is None else f"of {count(each.per_minute)}"
    return Held(
        listing=each.listing,
        plan=each.plan_name,
        state=each.state.value,
        tone="good" if each.state.value == "active" else "loud",
        bars=bars if each.used_stream_seconds or each.stream_seconds else bars[:1],
        rate=f"{count(each.per_minute_now)} ({limit})",
        resets=full_moment(each.resets_at, now, zone),
    )


def _billing(each: SubscriptionView, now: int, zone: ZoneInfo) -> Billing:
    following = each.next_plan or each.plan
    at = full_moment(each.next_billing_at or 0, now, zone)
    return Billing(each.listing, following.name, at, amount(Usdc(each.next_price_atoms)))
