"""Where mail and posts really arrive: an SMTP server and an HTTP server of the tests' own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class _Controller(Controller):
    """On a port that the system chooses."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class PostOffice:
    """An SMTP server. `user` and `password` it wants, recipients it refuses, whether it is
    closed for the day; with a `tls` context it offers STARTTLS, or speaks TLS at once."""

    def __init__(
        self,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
        tls_at_once: bool = False,
    ) -> None:
        self.letters: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.signed_in: list[bool] = []
        self.encrypted: list[bool] = []
        self.refused: set[str] = set()
        self.closed = False
        self._user, self._password = user, password
        self._controller = _Controller(
            self,
            hostname="127.0.0.1",
            port=0,
            tls_context=None if tls_at_once else tls,
            ssl_context=tls if tls_at_once else None,
            auth_required=bool(user),
            auth_require_tls=False,
            authenticator=self._authenticate,
        )

    @property
    def port(self) -> int:
        return int(self._controller.port)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        right = (data.login.decode(), data.password.decode()) == (self._user, self._password)
        return AuthResult(success=right, handled=False)

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address in self.refused:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.closed:
            return "451 closed for today"
        content = envelope.content
        assert isinstance(content, bytes)
        letter = message_from_bytes(content, policy=default)
        assert isinstance(letter, EmailMessage)
        self.letters.append(letter)
        self.recipients.append(list(envelope.rcpt_tos))
        self.signed_in.append(bool(session.authenticated))
        self.encrypted.append(server.transport.get_extra_info("sslcontext") is not None)
        return "250 taken"


@dataclass
class Received:
    """One post as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server that takes posts. `answers` are given in turn, then 204; a status of 0
    hangs until the sender goes away."""

    answers: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    url: str = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/hook"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.path, headers, await request.read()))
        status = self.answers.pop(0) if self.answers else 204
        if status == 0:
            await asyncio.sleep(3600)
        more = {"location": "/elsewhere"} if 300 <= status < 400 else None
        return web.Response(status=status, headers=more)


@dataclass
class Hook:
    """A receiver in a thread of its own, for tests without an event loop."""

    url: str
    received: list[Received] = field(default_factory=list)


@contextmanager
def serve_hook() -> Iterator[Hook]:
    hook = Hook("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers["content-length"]))
            hook.received.append(Received(self.path, headers, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
