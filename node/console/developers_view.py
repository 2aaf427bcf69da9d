"""Developers > Overview, formatted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

from node.console.charts import Chart, Part, Slot, bars
from node.console.figures import call_rate_chart
from node.console.format import NOT_KNOWN, Moment, count, moment
from node.console.gauge import Gauge, gauge
from node.console.pager import Pager, page_of
from node.durations import HOUR
from node.usage.call_rate import HourBucket
from node.usage.integrators import Integrator, MeterUse, Overview, StreamHour
from node.usage.quotas import Meter

PATH = "/developers"
PAGE_ROWS = 50
TOP = 10
NAMES = {Meter.CALLS: "API calls", Meter.STREAM_SECONDS: "Stream hours"}


@dataclass(frozen=True, slots=True)
class MeterCard:
    """One meter, what its tier is, and what lifts its cap."""

    gauge: Gauge
    tier: str
    note: str


@dataclass(frozen=True, slots=True)
class Share:
    """An integrator's calls beside those of the busiest."""

    name: str
    href: str
    calls: str
    percent: int


@dataclass(frozen=True, slots=True)
class Row:
    """One integrator of the table."""

    name: str
    href: str
    email: str
    calls: str
    hours: str
    hits: str
    seen: Moment | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class DevelopersView:
    """Everything `developers/index.html` shows."""

    meters: tuple[MeterCard, ...]
    days_left: str
    resets: Moment
    calls: Chart
    streams: Chart
    shares: tuple[Share, ...]
    rows: tuple[Row, ...]
    pager: Pager
    may_keys: bool
    read_at: Moment


def developers_view(
    overview: Overview, query: Mapping[str, str], zone: ZoneInfo, may_keys: bool
) -> DevelopersView:
    now, found = overview.now, overview.integrators
    shown, pager = page_of(PATH, query, found, PAGE_ROWS)
    return DevelopersView(
        meters=tuple(meter_card(each, now, zone) for each in overview.meters),
        days_left=f"{overview.days_left} day{'' if overview.days_left == 1 else 's'}",
        resets=full_moment(overview.window.end, now, zone),
        calls=call_rate_chart(overview.hours, zone),
        streams=stream_chart(overview.streams, zone),
        shares=_shares(found),
        rows=tuple(_row(each, now, zone) for each in shown),
        pager=pager,
        may_keys=may_keys,
        read_at=full_moment(now, now, zone),
    )


def meter_card(use: MeterUse, now: int, zone: ZoneInfo) -> MeterCard:
    """With the words of what lifts its cap, if anything does."""
    note = ""
    if use.override is not None:
        until = moment(use.override.ends_at, now, zone).local
        note = f"Lifted until {until} by {use.override.granted_by}: {use.override.reason}"
    return MeterCard(meter_gauge(use.meter, use.used, use.cap), use.tier.label, note)


def meter_gauge(meter: Meter, used: int, cap: int | None) -> Gauge:
    """A meter of the month, in its own unit."""
    return gauge(NAMES[meter], used, cap, partial(quantity, meter))


def quantity(meter: Meter, value: int) -> str:
    """Calls as they are, seconds as hours with one decimal, cut."""
    return count(value) if meter is Meter.CALLS else hours_text(value)


def hours_text(seconds: int) -> str:
    """`1,234.5`"""
    return f"{seconds // HOUR:,}.{seconds % HOUR * 10 // HOUR}"


def stream_chart(hours: Sequence[StreamHour], zone: ZoneInfo) -> Chart:
    """Minutes of connection, cut, hours as the viewer's clock shows them."""
    slots = []
    for hour in hours:
        local = datetime.fromtimestamp(hour.at, zone)
        tick = "" if local.hour % 6 else local.strftime("%H:%M") if local.hour else f"{local:%a}"
        part = Part("minutes", "info", hour.seconds // 60)
        slots.append(Slot(local.strftime("%b %-d, %H:%M"), tick, (part,)))
    return bars(f"Connection minutes per hour, last {len(slots)} hours ({zone.key})", slots)


def full_moment(at: int, now: int, zone: ZoneInfo) -> Moment:
    """To the second: relative would not grow older by itself."""
    shown = moment(at, now, zone)
    return Moment(shown.local, shown.local, shown.utc, shown.iso)


SUMMARY = ("meter", "tier", "used", "cap", "percent", "unit", "month_ends_utc")
INTEGRATORS = (
    "key_id",
    "name",
    "email",
    "calls",
    "stream_seconds",
    "rate_limit_hits",
    "last_seen_utc",
    "revoked",
)
HOURS = ("hour_utc", "succeeded", "errors", "stream_seconds")


def summary_lines(overview: Overview) -> Iterator[tuple[object, ...]]:
    """The card as rows of a file."""
    for use in overview.meters:
        unit = "calls" if use.meter is Meter.CALLS else "seconds"
        cap: int | str = "" if use.cap is None else use.cap
        until = utc(overview.window.end)
        yield use.meter.value, use.tier.value, use.used, cap, use.percent, unit, until


def integrator_lines(found: Sequence[Integrator]) -> Iterator[tuple[object, ...]]:
    """Every row of the table."""
    for each in found:
        seen = utc(each.last_used_at) if each.last_used_at else ""
        numbers = (each.calls, each.stream_seconds, each.hits)
        yield each.id, each.name, each.owner_email, *numbers, seen, "yes" if each.revoked else ""


def hour_lines(
    hours: Sequence[HourBucket], streams: Sequence[StreamHour]
) -> Iterator[tuple[object, ...]]:
    """Both charts."""
    for hour, stream in zip(hours, streams, strict=True):
        yield utc(hour.at), hour.succeeded, hour.errors, stream.seconds


def utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shares(found: Sequence[Integrator]) -> tuple[Share, ...]:
    busiest = max((each.calls for each in found), default=0)
    return tuple(
        Share(each.name, _href(each), count(each.calls), each.calls * 100 // busiest)
        for each in found[:TOP]
        if each.calls
    )


def _row(each: Integrator, now: int, zone: ZoneInfo) -> Row:
    return Row(
        name=each.name,
        href=_href(each),
        email=each.owner_email or NOT_KNOWN,
        calls=count(each.calls),
        hours=hours_text(each.stream_seconds),
        hits=count(each.hits),
        seen=moment(each.last_used_at, now, zone) if each.last_used_at else None,
        revoked=each.revoked,
    )


def _href(each: Integrator) -> str:
    return f"{PATH}/keys/{each.id}"
