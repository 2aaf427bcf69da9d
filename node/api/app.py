"""The JSON API as one ASGI application; its document is at `/api/openapi.json`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from node.accounts.service import Accounts
from node.api.errors import handle_errors
from node.api.routing import Endpoints
from node.bodies import LimitedBody

BODY_BYTES = 8_000_000
DOCUMENT = "/api/openapi.json"
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
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    made: list[bytes] = []

    async def answer(_request: Request) -> Response:
        if not made:
            made.append(await asyncio.to_thread(make))
        return Response(made[0], media_type="application/json")

    return answer
