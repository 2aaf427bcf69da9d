"""The private listener: the proxy under `/call/`, the JSON API under `/api`, pages elsewhere.

A web page elsewhere could point its own name at 127.0.0.1 and have the browser read
what is served here (DNS rebinding); so a request must name the console as the
operator does. The proxy needs no such guard: its callers hold a secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.accounts.sessions import cookie_name

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WRONG_HOST = (
    "This address is not the console's own. Open it as http://127.0.0.1 with its port, or set"
    " FAREBOX_CONSOLE_PUBLIC_URL to the https address under which you reach it."
)
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
        b" img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_STORE = (b"cache-control", b"no-store")


class PrivateListener:
    """One ASGI app of three. `names` are the host names the console goes by."""

    def __init__(
        self, proxy: ASGIApp, api: ASGIApp, console: ASGIApp, names: Iterable[str] = ()
    ) -> None:
        self._proxy, self._api, self._console = proxy, api, console
        self._names = LOCAL_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.startswith("/call/"):
            await self._proxy(scope, receive, send)
        elif scope["type"] != "http":
            await _refuse_other_protocols(receive, send)
        elif "\0" in path:
            await PlainTextResponse("There is nothing at this address.", 404)(scope, receive, send)
        elif _host(scope) not in self._names:
            await PlainTextResponse(WRONG_HOST, 421)(scope, receive, send)
        else:
            app = self._api if path == "/api" or path.startswith("/api/") else self._console
            await app(scope, receive, _with_headers(send))


async def _refuse_other_protocols(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1008, "reason": "Only HTTP is spoken here."})


def session_token(request: Request) -> str:
    """What the browser has of a session here; empty when it has none."""
    return request.cookies.get(cookie_name(request.url.port), "")


def _host(scope: Scope) -> str | None:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1:
        return None
    try:
        named = urlsplit(f"//{hosts[0].decode('ascii')}")
        return None if named.port == 0 else named.hostname  # nor where the port is no number
    except ValueError:
        return None


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message["headers"])
            if not any(name.lower() == b"cache-control" for name, _ in own):
                own.append(_NO_STORE)
            message = {**message, "headers": [*own, *_HEADERS]}
        await send(message)

    return send_with_headers
