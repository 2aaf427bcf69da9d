"""The console's pages as one ASGI application."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from sqlalchemy import Engine

from node.console.dashboard import Dashboard
from node.console.facts import NodeFacts
from node.console.guard import LocalOnly
from node.console.templates import open_environment, template_dir
from node.usage.kpis import Balances


def create_console(
    engine: Engine, facts: NodeFacts, balances: Callable[[], Balances], loopback: bool
) -> FastAPI:
    """The pages; without a loopback bind they are refused with a sentence."""
    dashboard = Dashboard(engine, open_environment(), facts, balances)
    app = FastAPI(title="Farebox", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(LocalOnly, loopback=loopback)
    app.add_route("/", dashboard.page, methods=["GET"])
    app.mount("/static", StaticFiles(directory=template_dir() / "static"))
    return app
