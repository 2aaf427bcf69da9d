"""The first page: banners, cards, call rate, API breakdown and event log of one side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from starlette.responses import Response

from node.accounts.access import Identity, Permission
from node.console.breakdown import (
    SIDE_NAMES,
    SIDES,
    BreakdownView,
    breakdown_header,
    breakdown_lines,
    breakdown_view,
)
from node.console.charts import Chart
from node.console.event_log import (
    PAGE_LINES,
    EventLogView,
    asked_before,
    asked_severity,
    event_log_view,
)
from node.console.figures import Card, call_rate_chart, cards
from node.console.format import Moment, Short, address, moment
from node.console.pager import link
from node.console.pages import Pages
from node.console.visit import Visit
from node.usage.dashboard import Dashboard, Sources, read_breakdown, read_dashboard
from node.usage.events import EventPage, every_event, read_events
from node.usage.models import Side
from node.usage.signals import Signals

REFRESH_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Banner:
    """A line over the whole width; without `href` for those who may not go there."""

    text: str
    tone: str
    href: str


@dataclass(frozen=True, slots=True)
class SideLink:
    label: str
    href: str
    current: bool


@dataclass(frozen=True, slots=True)
class DashboardView:
    """Everything `dashboard/index.html` shows."""

    banners: tuple[Banner, ...]
    sides: tuple[SideLink, ...]
    seller: bool
    empty: bool
    may_list: bool
    cards: tuple[Card, ...]
    chart: Chart
    breakdown: BreakdownView
    events: EventLogView
    wallet: Short
    gateway_url: str
    read_at: Moment
    refresh_seconds: int


def pages(sources: Sources) -> Pages:
    """`/`, for buyer or seller by `?side=`, and its tables as files."""
    pages = Pages("dashboard")

    @pages.get("/", Permission.SEE_DASHBOARD)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_read, sources, visit)
        return visit.page("dashboard/index.html", view, "Dashboard")

    @pages.get("/breakdown.csv", Permission.SEE_DASHBOARD)
    async def breakdown_file(visit: Visit) -> Response:
        asked = asked_side(visit.query)
        side, apis = await asyncio.to_thread(read_breakdown, sources.engine, asked)
        lines = breakdown_lines(apis, side, visit.query)
        return visit.csv(f"apis-{SIDE_NAMES[side]}.csv", breakdown_header(side), lines)

    @pages.get("/events.csv", Permission.SEE_DASHBOARD)
    async def events_file(visit: Visit) -> Response:
        found = every_event(sources.engine, asked_severity(visit.query))
        lines = ((_utc(event.at), event.type, event.severity, event.message) for event in found)
        return visit.csv("events.csv", ("time_utc", "type", "severity", "message"), lines)

    return pages


def asked_side(query: Mapping[str, str]) -> Side | None:
    """The side the address names; None: the one this node is busy on."""
    return SIDES.get(query.get("side", ""))


def _read(sources: Sources, visit: Visit) -> DashboardView:
    engine, query, now = sources.engine, visit.query, visit.now
    page = read_dashboard(engine, asked_side(query), now, visit.zone)
    events = read_events(engine, asked_severity(query), asked_before(query), PAGE_LINES)
    signals = sources.signals(now)
    return _view(sources, visit, page, events, signals)


def _view(
    sources: Sources, visit: Visit, page: Dashboard, events: EventPage, signals: Signals
) -> DashboardView:
    balances, query, zone = sources.balances(), visit.query, visit.zone
    return DashboardView(
        banners=banners(signals, visit.identity),
        sides=tuple(_side_link(side, page.side, query) for side in (Side.BOUGHT, Side.SERVED)),
        seller=page.side is Side.SERVED,
        empty=not page.any_calls and not balances.usdc,
        may_list=visit.identity.may(Permission.SEE_LISTINGS),
        cards=cards(page, balances, sources.looked_at()),
        chart=call_rate_chart(page.hours, zone),
        breakdown=breakdown_view(page.apis, page.side, query),
        events=event_log_view(events, query, visit.now, zone),
        wallet=address(sources.address, sources.network),
        gateway_url=sources.gateway_url,
        read_at=_clock(visit.now, zone),
        refresh_seconds=REFRESH_SECONDS,
    )


def banners(signals: Signals, identity: Identity) -> tuple[Banner, ...]:
    """What must not be overlooked; linked for those who can do something about it."""
    finance = "/finance" if identity.may(Permission.SEE_FINANCE) else ""
    backup = "/settings/backup" if identity.may(Permission.BACK_UP) else ""
    shown = []
    if signals.serving_paused:
        text = "API SERVING PAUSED — Low balance. Click to manage."
        shown.append(Banner(text, "warn", finance))
    elif signals.paused_by_hand:
        shown.append(Banner("API SERVING PAUSED — By hand. Click to manage.", "warn", finance))
    if signals.backup_overdue:
        shown.append(Banner(_backup_sentence(signals), "bad", backup))
    return tuple(shown)


def _backup_sentence(signals: Signals) -> str:
    days = signals.days_without_backup
    if signals.ever_backed_up:
        return f"BACKUP OVERDUE — The last backup is {days} days old. Create a new one now."
    return f"BACKUP OVERDUE — {days} days without any backup. Create the first one now."


def _side_link(side: Side, shown: Side, query: Mapping[str, str]) -> SideLink:
    href = link("/", query, side=SIDE_NAMES[side], page=None, sort=None, order=None)
    return SideLink(SIDE_NAMES[side].capitalize(), href, side is shown)


def _clock(now: int, zone: ZoneInfo) -> Moment:
    """When the figures were read, to the second: relative would not grow older by itself."""
    shown = moment(now, now, zone)
    return Moment(shown.local, shown.local, shown.utc, shown.iso)


def _utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
