"""The console's pages as one ASGI application."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from node.console.dashboard import Dashboard
from node.console.facts import NodeFacts
from node.console.guard import LocalOnly
from node.console.templates import open_environment, template_dir
from node.usage.kpis import Balances


def create_console(
    engine: Engine, facts: NodeFacts, balances: Callable[[], Balances], loopback: bool
) -> Starlette:
    """The pages; without a loopback bind they are refused with a sentence."""
    dashboard = Dashboard(engine, open_environment(), facts, balances)
    return Starlette(
        routes=[
            Route("/", dashboard.page, methods=["GET"]),
            Mount("/static", StaticFiles(directory=template_dir() / "static")),
        ],
        middleware=[Middleware(LocalOnly, loopback=loopback)],
    )
