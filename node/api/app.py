"""The JSON API as one ASGI application; its document is at `/api/openapi.json`."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI

from node.accounts.service import Accounts
from node.api.errors import handle_errors
from node.api.routing import Endpoints
from node.bodies import LimitedBody

BODY_BYTES = 8_000_000
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
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.accounts = accounts
    for each in endpoints:
        app.include_router(each.router)
    app.add_middleware(LimitedBody, most_bytes=BODY_BYTES)
    handle_errors(app)
    return app
