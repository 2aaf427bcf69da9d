"""Developers > Overview: the month's meters and every integrator, with a page for each."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Engine
from starlette.responses import Response

from finance.money import Usdc
from node.accounts.access import Permission
from node.console.charts import Chart
from node.console.developers_view import (
    HOURS,
    INTEGRATORS,
    PATH,
    SUMMARY,
    developers_view,
    hour_lines,
    hours_text,
    integrator_lines,
    stream_chart,
    summary_lines,
    utc,
)
from node.console.figures import call_rate_chart
from node.console.format import NOT_KNOWN, Amount, Moment, cell_amount, count, latency, moment
from node.console.pager import Pager, keyset
from node.console.pages import Pages
from node.console.stream_view import CSV as STREAMS_CSV
from node.console.stream_view import SHOWN as STREAMS_SHOWN
from node.console.stream_view import StreamsView, csv_lines, streams_view
from node.console.visit import Visit
from node.usage.call_list import CallFilter, CallLine, CallPage, Cursor, every_call, read_calls
from node.usage.integrators import IntegratorDetail, read_detail, read_overview
from node.usage.keys import read_key
from node.usage.live_streams import MOST, LiveStreams, read_live
from node.usage.models import Side

PAGE_CALLS = 50
_CALLS = (
    "time_utc",
    "call_id",
    "api",
    "method",
    "path",
    "status",
    "error",
    "latency_ms",
    "usdc",
)


@dataclass(frozen=True, slots=True)
class Recent:
    """One request of a key."""

    at: Moment
    api: str
    request: str
    status: str
    tone: str
    error: str
    latency: str
    cost: Amount


@dataclass(frozen=True, slots=True)
class KeyView:
    """Everything `developers/key.html` shows."""

    id: str
    name: str
    email: str
    integrator: bool
    revoked: bool
    rate: str
    calls: str
    hours: str
    hits: str
    seen: Moment | None
    chart: Chart
    streams: Chart
    open_streams: StreamsView
    recent: tuple[Recent, ...]
    total: str
    pager: Pager
    path: str


def pages(engine: Engine) -> Pages:
    """`/developers`, a page for each key, and all of it as files."""
    pages, see = Pages("developers", "overview"), Permission.SEE_DEVELOPERS

    @pages.get(PATH, see)
    async def show(visit: Visit) -> Response:
        overview = await asyncio.to_thread(read_overview, engine, visit.now, visit.zone)
        may_keys = visit.identity.may(Permission.MANAGE_KEYS)
        view = developers_view(overview, visit.query, visit.zone, may_keys)
        return visit.page("developers/index.html", view, "Developers")

    @pages.get(f"{PATH}/summary.csv", see)
    async def summary(visit: Visit) -> Response:
        overview = await asyncio.to_thread(read_overview, engine, visit.now, visit.zone)
        return visit.csv("meters.csv", SUMMARY, summary_lines(overview))

    @pages.get(f"{PATH}/hours.csv", see)
    async def hours(visit: Visit) -> Response:
        overview = await asyncio.to_thread(read_overview, engine, visit.now, visit.zone)
        return visit.csv("hours.csv", HOURS, hour_lines(overview.hours, overview.streams))

    @pages.get(f"{PATH}/integrators.csv", see)
    async def integrators(visit: Visit) -> Response:
        overview = await asyncio.to_thread(read_overview, engine, visit.now, visit.zone)
        return visit.csv("integrators.csv", INTEGRATORS, integrator_lines(overview.integrators))

    @pages.get(f"{PATH}/keys/{{key_id}}", see)
    async def show_key(visit: Visit) -> Response:
        view = await asyncio.to_thread(_read_key, engine, visit)
        return visit.page("developers/key.html", view, view.name)

    @pages.get(f"{PATH}/keys/{{key_id}}/hours.csv", see)
    async def key_hours(visit: Visit) -> Response:
        detail = await asyncio.to_thread(_detail, engine, visit)
        return visit.csv("hours.csv", HOURS, hour_lines(detail.hours, detail.streams))

    @pages.get(f"{PATH}/keys/{{key_id}}/streams.csv", see)
    async def key_streams(visit: Visit) -> Response:
        key = await asyncio.to_thread(read_key, engine, visit.path["key_id"])
        live = await asyncio.to_thread(_live, engine, visit, key.id)
        return visit.csv("streams.csv", STREAMS_CSV, csv_lines(live))

    @pages.get(f"{PATH}/keys/{{key_id}}/calls.csv", see)
    async def key_calls(visit: Visit) -> Response:
        key = await asyncio.to_thread(read_key, engine, visit.path["key_id"])
        found = every_call(engine, CallFilter(Side.BOUGHT, key_id=key.id))
        return visit.csv("calls.csv", _CALLS, (_line(call) for call in found))

    return pages


def _detail(engine: Engine, visit: Visit) -> IntegratorDetail:
    return read_detail(engine, visit.path["key_id"], visit.now, visit.zone)


def _read_key(engine: Engine, visit: Visit) -> KeyView:
    detail = _detail(engine, visit)
    live = _live(engine, visit, detail.key.id, STREAMS_SHOWN)
    before = Cursor.parse(visit.query.get("before", ""))
    wanted = CallFilter(Side.BOUGHT, key_id=detail.key.id)
    calls = read_calls(engine, wanted, before, PAGE_CALLS)
    return _key_view(visit, detail, live, calls, before is None)


def _live(engine: Engine, visit: Visit, key_id: str, most: int = MOST) -> LiveStreams:
    return read_live(engine, Side.BOUGHT, visit.now, key_id=key_id, most=most)


def _key_view(
    visit: Visit, detail: IntegratorDetail, live: LiveStreams, calls: CallPage, newest: bool
) -> KeyView:
    key, sums, path = detail.key, detail.sums, f"{PATH}/keys/{detail.key.id}"
    older = None if calls.older is None else str(calls.older)
    return KeyView(
        id=key.id,
        name=key.name,
        email=key.owner_email or NOT_KNOWN,
        integrator=key.integrator,
        revoked=key.revoked_at is not None,
        rate=NOT_KNOWN if key.per_minute is None else f"{count(key.per_minute)} a minute",
        calls=count(sums.calls),
        hours=hours_text(sums.stream_seconds),
        hits=count(sums.hits),
        seen=moment(key.last_used_at, visit.now, visit.zone) if key.last_used_at else None,
        chart=call_rate_chart(detail.hours, visit.zone),
        streams=stream_chart(detail.streams, visit.zone),
        open_streams=streams_view(visit, live, f"{path}/streams.csv"),
        recent=tuple(_recent(visit, call) for call in calls.calls),
        total=count(calls.total),
        pager=keyset(path, visit.query, older, newest),
        path=path,
    )


def _recent(visit: Visit, call: CallLine) -> Recent:
    return Recent(
        at=moment(call.at_ms // 1000, visit.now, visit.zone),
        api=call.listing,
        request=f"{call.method} {call.path}",
        status=str(call.status),
        tone="good" if call.status < 400 else "bad",
        error=call.error or "",
        latency=latency(call.latency_us),
        cost=cell_amount(Usdc(call.amount_atoms)),
    )


def _line(call: CallLine) -> tuple[object, ...]:
    took = f"{call.latency_us // 1000}.{call.latency_us % 1000:03d}"
    request = (call.listing, call.method, call.path, call.status, call.error or "")
    return utc(call.at_ms // 1000), call.id, *request, took, str(Usdc(call.amount_atoms))
