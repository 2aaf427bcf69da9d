"""The first page: cards and the last calls, of the buyer's or the seller's side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine
from starlette.responses import Response

from node.accounts.access import Permission
from node.console.facts import NodeFacts
from node.console.pages import Pages
from node.console.visit import Visit
from node.usage.kpis import Balances, Overview, format_time, read_overview
from node.usage.models import Side

_SIDES = {"buyer": Side.BOUGHT, "seller": Side.SERVED}


@dataclass(frozen=True, slots=True)
class DashboardView:
    """Everything `dashboard/index.html` shows."""

    overview: Overview
    facts: NodeFacts
    seller: bool
    read_at: str


def pages(engine: Engine, balances: Callable[[], Balances], facts: NodeFacts) -> Pages:
    """`/`, `/?side=buyer` and `/?side=seller`."""
    pages = Pages("dashboard")

    @pages.get("/", Permission.SEE_DASHBOARD)
    async def show(visit: Visit) -> Response:
        side = _SIDES.get(visit.query.get("side", ""))
        overview = await asyncio.to_thread(read_overview, engine, side, balances(), visit.now)
        seller = overview.side is Side.SERVED
        view = DashboardView(overview, facts, seller, format_time(visit.now))
        return visit.page("dashboard/index.html", view, "Dashboard")

    return pages
