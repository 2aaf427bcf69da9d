"""Two listeners on one loop: sockets bound with sentences, uvicorn without its own ideas."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from node.errors import NodeError, PortTaken
from node.lines.websocket import MAX_MESSAGE_BYTES, PING_SECONDS, PONG_SECONDS
from node.settings import Bind

KEEP_ALIVE_SECONDS = 75
BACKLOG = 2048
MAX_HEAD_BYTES = 64 << 10
HEAD_SECONDS = 30.0
BODY_SECONDS = 60.0  # between two parts of one
UNREADABLE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def bind(where: Bind, setting: str) -> socket.socket:
    """A listening socket. Raises PortTaken, or NodeError, naming the setting to change."""
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        listener = socket.create_server((where.host, where.port), family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise NodeError(f"{setting}: there is no address {where.host!r} here.") from error
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                raise PortTaken(
                    f"Something else listens on {where}. Stop it, or choose another port with"
                    f" {setting}."
                ) from error
            case errno.EACCES | errno.EPERM:
                raise NodeError(
                    f"This user may not listen on port {where.port}. Choose one above 1023 with"
                    f" {setting}."
                ) from error
            case errno.EADDRNOTAVAIL:
                raise NodeError(f"{setting}: {where.host} is not an address here.") from error
            case _:
                raise NodeError(f"{setting}: cannot listen on {where}: {error}.") from error
    # Inherited by each connection. asyncio sets it only on sockets that name their protocol,
    # and without it an answer of two writes waits 40 ms for the caller's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class Parser(httptools.HttpRequestParser):
    """httptools', which takes no body of a request that wishes for another protocol: where that
    wish is passed over (RFC 9110, 7.8), the request is read again without it."""

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        parser, rest = self, memoryview(data)
        while True:
            try:
                return super(Parser, parser).feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                if (head := self._protocol.without_wish()) is None:
                    raise
                # After a last request this one would take nothing.
                parser = self._protocol.parser = Parser(self._protocol)
                super(Parser, parser).feed_data(head)
                rest = rest[upgrade.args[0] :]


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, with limits: on what a caller sends that is no body (heads, trailers, extensions
    of chunks), on the time until a head is whole, and on the time in which nothing of a body comes.
    Protocols other than WebSocket are not spoken, and whoever wishes for one is served all the
    same."""

    _bare = 0  # bytes since the last byte of a body, or the end of a head
    _in_head = _in_body = False
    _heard = 0.0  # when something of the body came, by the loop's clock
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = Parser(self)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bare += len(data)
        super().data_received(data)
        if self._bare > MAX_HEAD_BYTES:
            self._refuse("431 Request Header Fields Too Large", "The head is too long.")
        elif self._in_head and self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)
        elif self._in_body and self._deadline is None:
            self._await_body(self.loop.time())

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer, which passes for no header (RFC 9110, 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body, self._bare = False, True, 0
        self._in_time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bare, self._heard = 0, self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._bare = False, 0
        self._in_time()
        super().on_message_complete()

    def _get_upgrade(self) -> bytes | None:
        """The protocol wished for. uvicorn looks at the last line of `Connection` only."""
        given = [value for name, value in self.headers if name == b"connection"]
        listed = {each.strip().lower() for value in given for each in value.split(b",")}
        wished = [value for name, value in self.headers if name == b"upgrade"]
        return wished[-1].lower() if wished and b"upgrade" in listed else None

    def _should_upgrade(self) -> bool:
        """Whether uvicorn is to leave the request alone: it has a WebSocket's handshake made of it,
        or it is read again."""
        return self._get_upgrade() is not None

    def without_wish(self) -> bytes | None:
        """The head that was just read, but for its `Upgrade`; None where that is heeded."""
        if self._get_upgrade() in (None, b"websocket"):
            return None
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._refuse("408 Request Timeout", "The head of the request did not come in time.")

    def _await_body(self, since: float) -> None:
        self._heard = since
        self._deadline = self.loop.call_at(since + BODY_SECONDS, self._look_for_body)

    def _look_for_body(self) -> None:
        """A body may take its time where it is not read yet, or is being answered already."""
        now, cycle = self.loop.time(), self.cycle
        if self.flow.read_paused or (cycle.response_started and not cycle.response_complete):
            self._await_body(now)
        elif now < self._heard + BODY_SECONDS:
            self._await_body(self._heard)
        else:
            self._refuse("408 Request Timeout", "The body of the request did not come in time.")

    def _refuse(self, status: str, sentence: str) -> None:
        """With a sentence, unless it would stand within an answer, or behind its request's own."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or (
            not cycle.response_started if self._in_body else cycle.response_complete
        ):
            head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(
                f"{head}content-length: {len(sentence)}\r\n\r\n{sentence}".encode()
            )
        self.transport.close()


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, but a handshake that was refused by a whole answer is no mistake of the app:
    it logs one for each otherwise, and every unpaid handshake is one. What is no handshake is
    answered."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # It cannot be read; uvicorn neither says so nor hangs up.
            self.transport.write(b"".join(self.conn.data_to_send()) or UNREADABLE)
            self.transport.close()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True


class Server(uvicorn.Server):
    """uvicorn that leaves signals to the node."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop_accepting(self) -> None:
        """Close the listener, let calls in flight finish, then end `serve`."""
        self.should_exit = True


def make_server(
    app: Callable[..., Awaitable[None]], drain_seconds: int, proxies: Sequence[str] = ()
) -> Server:
    """A server for one listener; `drain_seconds` is what calls in flight get at the end. From
    `proxies` the caller is whom X-Forwarded-For names."""
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http=HttpProtocol,
            ws=SocketProtocol,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PONG_SECONDS,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=drain_seconds,
        )
    )
