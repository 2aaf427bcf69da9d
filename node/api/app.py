"""The JSON API as one ASGI application; its document is at `/api/openapi.json`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from node.accounts.service import Accounts
from node.api.errors import handle_errors
from node.api.routing import Endpoints, Problem
from node.bodies import LimitedBody

BODY_BYTES = 8_000_000
DOCUMENT = "/api/openapi.json"
_REFERENCE = "#/components/schemas/{model}"
_ABOUT = (
    "Everything the console does. USDC amounts are integers of atoms (10^-6), ETH amounts decimal"
    " strings of wei, times Unix seconds. Errors are problem documents (RFC 9457)."
)


def create_api(accounts: Accounts, endpoints: Iterable[Endpoints]) -> FastAPI:
    """All endpoints, with one shape of error and no interactive page of foreign script."""
    app = FastAPI(
        title="Farebox",
        version="1",
        description=_ABOUT,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.accounts = accounts
    for each in endpoints:
        app.include_router(each.router)
    app.add_route(DOCUMENT, _document(app), methods=["GET"])
    app.add_middleware(LimitedBody, most_bytes=BODY_BYTES)
    handle_errors(app)
    return app


def _document(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    """The description of all endpoints. It takes seconds to make, once: not on the loop that
    paid calls are served from."""

    def make() -> bytes:
        document = app.openapi()
        _, models = models_json_schema([(Problem, "serialization")], ref_template=_REFERENCE)
        document["components"]["schemas"].update(models["$defs"])
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

    made: list[bytes] = []

    async def answer(_request: Request) -> Response:
        if not made:
            made.append(await asyncio.to_thread(make))
        return Response(made[0], media_type="application/json")

    return answer
