"""The journal of calls: each of them, newest first, of one side, API and outcome."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from starlette.responses import Response

from finance.money import Usdc
from node.accounts.access import Permission
from node.console.breakdown import SIDE_NAMES
from node.console.dashboard import SideLink, asked_side
from node.console.format import Amount, Moment, cell_amount, count, latency, moment
from node.console.pager import Pager, keyset, link
from node.console.pages import Pages
from node.console.visit import Visit
from node.usage.call_list import (
    CallFilter,
    CallLine,
    CallPage,
    Cursor,
    Outcome,
    every_call,
    listing_name,
    read_calls,
)
from node.usage.dashboard import busy_side
from node.usage.models import Side

PATH = "/calls"
PAGE_CALLS = 50
_LISTING_ID = re.compile("[!-~]{1,80}")
_OUTCOMES = {Outcome.ALL: "All", Outcome.OK: "Successful", Outcome.ERROR: "Errors"}
_HEADER = (
    "time_utc",
    "call_id",
    "api",
    "listing_id",
    "method",
    "path",
    "status",
    "error",
    "usdc",
    "scheme",
    "latency_ms",
    "bytes_out",
    "key_id",
    "payer",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One call."""

    at: Moment
    listing: str
    listing_href: str
    request: str
    status: str
    tone: str
    error: str
    money: Amount
    scheme: str
    latency: str


@dataclass(frozen=True, slots=True)
class CallsView:
    """Everything `calls/index.html` shows. `listing` is empty when all are shown."""

    sides: tuple[SideLink, ...]
    outcomes: tuple[SideLink, ...]
    seller: bool
    listing: str
    all_listings: str
    filtered: bool
    total: str
    rows: tuple[Row, ...]
    pager: Pager
    csv: str


def pages(engine: Engine) -> Pages:
    """`/calls` and `/calls.csv`."""
    pages = Pages("dashboard")

    @pages.get(PATH, Permission.SEE_DASHBOARD)
    async def show(visit: Visit) -> Response:
        view = await asyncio.to_thread(_read, engine, visit)
        return visit.page("calls/index.html", view, "Calls")

    @pages.get("/calls.csv", Permission.SEE_DASHBOARD)
    async def file(visit: Visit) -> Response:
        wanted = await asyncio.to_thread(_asked, engine, visit.query)
        name = f"calls-{SIDE_NAMES[wanted.side]}.csv"
        return visit.csv(name, _HEADER, _lines(every_call(engine, wanted)))

    return pages


def _asked(engine: Engine, query: Mapping[str, str]) -> CallFilter:
    side, listing, outcome = asked_side(query), query.get("listing", ""), query.get("outcome", "")
    return CallFilter(
        side or busy_side(engine),
        listing if _LISTING_ID.fullmatch(listing) else None,
        Outcome(outcome) if outcome in set(Outcome) else Outcome.ALL,
    )


def _read(engine: Engine, visit: Visit) -> CallsView:
    wanted = _asked(engine, visit.query)
    after = Cursor.parse(visit.query.get("before", ""))
    page = read_calls(engine, wanted, after, PAGE_CALLS)
    name = listing_name(engine, wanted.listing_id) if wanted.listing_id else ""
    return _view(page, wanted, name, after is None, visit.now, visit.zone)


def _view(
    page: CallPage, wanted: CallFilter, name: str, newest: bool, now: int, zone: ZoneInfo
) -> CallsView:
    query = {
        "side": SIDE_NAMES[wanted.side],
        "listing": wanted.listing_id or "",
        "outcome": "" if wanted.outcome is Outcome.ALL else wanted.outcome.value,
    }
    older = None if page.older is None else str(page.older)
    return CallsView(
        sides=tuple(
            SideLink(text.capitalize(), link(PATH, {}, side=text), side is wanted.side)
            for side, text in SIDE_NAMES.items()
        ),
        outcomes=tuple(
            SideLink(
                label,
                link(PATH, query, outcome=None if each is Outcome.ALL else each.value),
                each is wanted.outcome,
            )
            for each, label in _OUTCOMES.items()
        ),
        seller=wanted.side is Side.SERVED,
        listing=name,
        all_listings=link(PATH, query, listing=None),
        filtered=wanted.listing_id is not None or wanted.outcome is not Outcome.ALL,
        total=count(page.total),
        rows=tuple(_row(call, query, now, zone) for call in page.calls),
        pager=keyset(PATH, query, older, newest),
        csv=link("/calls.csv", query),
    )


def _row(call: CallLine, query: Mapping[str, str], now: int, zone: ZoneInfo) -> Row:
    return Row(
        at=moment(call.at_ms // 1000, now, zone),
        listing=call.listing,
        listing_href=link(PATH, query, listing=call.listing_id),
        request=f"{call.method} {call.path}",
        status=str(call.status),
        tone="bad" if call.status >= 400 else "good",
        error=call.error or "",
        money=cell_amount(Usdc(call.amount_atoms)),
        scheme=call.scheme or "free",
        latency=latency(call.latency_us),
    )


def _lines(calls: Iterator[CallLine]) -> Iterator[tuple[object, ...]]:
    for call in calls:
        at = datetime.fromtimestamp(call.at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        yield (
            f"{at}.{call.at_ms % 1000:03d}Z",
            call.id,
            call.listing,
            call.listing_id,
            call.method,
            call.path,
            call.status,
            call.error or "",
            str(Usdc(call.amount_atoms)),
            call.scheme or "free",
            f"{call.latency_us // 1000}.{call.latency_us % 1000:03d}",
            call.bytes_out,
            call.key_id or "",
            call.payer or "",
        )
