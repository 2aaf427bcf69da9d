"""The first page: cards and the last calls, of the buyer's or the seller's side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import Environment
from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from node.console.facts import NodeFacts
from node.usage.kpis import Balances, Overview, format_time, read_overview
from node.usage.models import Side

_SIDES = {"buyer": Side.BOUGHT, "seller": Side.SERVED}


@dataclass(frozen=True, slots=True)
class DashboardView:
    """Everything `dashboard/index.html` shows."""

    overview: Overview
    facts: NodeFacts
    seller: bool
    uptime: str
    read_at: str


class Dashboard:
    """Answers `/`, `/?side=buyer` and `/?side=seller`."""

    def __init__(
        self,
        engine: Engine,
        environment: Environment,
        facts: NodeFacts,
        balances: Callable[[], Balances],
    ) -> None:
        self._engine = engine
        self._template = environment.get_template("dashboard/index.html")
        self._facts = facts
        self._balances = balances

    async def page(self, request: Request) -> Response:
        side = _SIDES.get(request.query_params.get("side", ""))
        view = await asyncio.to_thread(self._read, side)
        return HTMLResponse(self._template.render(view=view))

    def _read(self, side: Side | None) -> DashboardView:
        now = int(time.time())
        overview = read_overview(self._engine, side, self._balances(), now)
        return DashboardView(
            overview=overview,
            facts=self._facts,
            seller=overview.side is Side.SERVED,
            uptime=format_uptime(now - self._facts.started_at),
            read_at=format_time(now),
        )


def format_uptime(seconds: int) -> str:
    """How long the node has been running: `42 s`, `3 min`, `5 h 12 min`, `2 d 3 h`."""
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
