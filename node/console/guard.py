"""Who may see a page before there are accounts: this machine, under its own name.

A web page elsewhere could point its own name at 127.0.0.1 and have the browser read
the console (DNS rebinding); so a request must name the console as the operator does.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

NOT_LOOPBACK = (
    "The console has no accounts yet, so its pages are only served to this machine."
    " Set FAREBOX_CONSOLE_BIND to 127.0.0.1:8400 and reach it through an SSH tunnel."
)
WRONG_HOST = "This address is not the console's own. Open it as http://127.0.0.1 with its port."
_LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
        b" img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class LocalOnly:
    """Refuses every page unless the console listens on loopback and is called by its name."""

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._loopback:
            await PlainTextResponse(NOT_LOOPBACK, 403)(scope, receive, send)
        elif not _is_local(scope):
            await PlainTextResponse(WRONG_HOST, 421)(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send))


def _is_local(scope: Scope) -> bool:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return False
    try:
        return urlsplit(f"//{hosts[0].decode('ascii')}").hostname in _LOCAL_NAMES
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *HEADERS]}  # type: ignore[misc]
        await send(message)

    return send_with_headers  # type: ignore[return-value]
