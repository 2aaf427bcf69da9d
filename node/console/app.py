"""The console's pages as one ASGI application."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from node.console.doorkeeper import Doorkeeper
from node.console.pages import Pages
from node.console.shell import Frame
from node.failures import Failure
from node.template_dir import template_dir

_NOT_THERE = Failure(404, "no_such_page", "There is no page at this address.")
_WRONG_METHOD = Failure(405, "wrong_method", "This address takes a form, not a visit.")


def create_console(frame: Frame, pages: Iterable[Pages]) -> FastAPI:
    """Every page module's routes behind the doorkeeper, and the files they need."""
    app = FastAPI(title="Farebox", docs_url=None, redoc_url=None, openapi_url=None)
    doorkeeper = Doorkeeper(frame)
    for module in pages:
        for route in module.routes:
            methods = ["GET", "HEAD"] if route.method == "GET" else [route.method]
            app.add_route(route.path, doorkeeper.endpoint(route), methods=methods)
    app.mount("/static", _Static(directory=template_dir() / "static"))

    async def refuse(request: Request, error: Exception) -> Response:
        wrong_method = isinstance(error, HTTPException) and error.status_code == 405
        return doorkeeper.failed(request, _WRONG_METHOD if wrong_method else _NOT_THERE)

    app.add_exception_handler(HTTPException, refuse)
    return app


class _Static(StaticFiles):
    """Asked about on each visit, sent again only when changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.setdefault("cache-control", "no-cache")
        return response
