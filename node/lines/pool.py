"""Kept-alive connections to many servers, none of them inside (node.egress)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from node.egress import DNS_SECONDS, EgressPolicy, EgressRefused, GuardedResolver
from node.lines.connection import Connection
from node.lines.errors import Broken, ConnectSlow, LineError, NotConnected

IDLE_SECONDS = 30.0
_MOST_ADDRESSES = 3
# Asking twice for the same changes nothing (RFC 9110, 9.2.1).
_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_BODYLESS = _SAFE | {"TRACE"}

Headers = Sequence[tuple[bytes, bytes]]


class Origin(NamedTuple):
    """A server, as its URL names it; `host` without brackets."""

    tls: bool
    host: str
    port: int


class Request(NamedTuple):
    """What is asked. `target` is path and query as they go out, `body` all of it, or a stream
    with its `length` (None: sent in chunks). `headers` hold Host and no framing; `switches`
    says that they ask for another protocol, which the answer may then agree to by 101."""

    method: str
    target: bytes
    headers: Headers
    body: bytes | AsyncIterator[bytes] | None = None
    length: int | None = None
    switches: bool = False


class Answer:
    """An answer's head, and its body as it comes. Whoever gets one must `close` it."""

    __slots__ = ("_connection", "_lines", "_origin", "length", "method", "raw_headers", "status")

    def __init__(self, lines: Lines, origin: Origin, connection: Connection) -> None:
        self._lines, self._origin = lines, origin
        self._connection: Connection | None = connection
        self.method, self.status = connection.method, connection.status
        self.raw_headers = connection.headers
        # Of the whole body as announced, also in answer to HEAD. None when unknown.
        self.length = connection.length

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        return next((value for key, value in self.raw_headers if key.lower() == name), None)

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; b"" at its end. Raises LineError."""
        return b"" if self._connection is None else await self._connection.read()

    def wait_without_limit(self) -> None:
        """Let the rest take as long as it likes: for streams, which may be silent for hours."""
        if self._connection is not None:
            self._connection.wait_without_limit()

    def end_here(self) -> None:
        """Whoever reads the body sees its end now."""
        if self._connection is not None:
            self._connection.end_here()

    def hand_over(self, heir: asyncio.Protocol) -> None:
        """After a 101: the connection is `heir`'s from now on. Raises Broken."""
        connection, self._connection = self._connection, None
        if connection is None:
            raise Broken("the connection ended")
        connection.hand_over(heir)

    def close(self) -> None:
        """Keep the connection if all was read, else cut it. Twice is harmless."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.finish():
            self._lines.keep(self._origin, connection)

    def __del__(self) -> None:
        # Dropped on the way by an error in between: it must not hold its connection.
        if self._connection is not None:
            self._connection.cut()
            self._connection.finish()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class Lines:
    """One pool. Use and close it in one event loop."""

    def __init__(
        self,
        policy: EgressPolicy,
        connect_seconds: float,
        silence_seconds: float,
        max_head_bytes: int = 1 << 16,
    ) -> None:
        self._policy = policy
        self._connect_seconds, self._silence_seconds = connect_seconds, silence_seconds
        self._max_head = max_head_bytes
        self._resolver: GuardedResolver | None = None
        self._addresses: dict[tuple[str, int], tuple[float, list[str]]] = {}
        self._idle: dict[Origin, list[Connection]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        """Cut what is idle."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for kept in self._idle.values():
            for connection in kept:
                connection.cut()
        self._idle.clear()
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    async def request(self, origin: Origin, request: Request) -> Answer:
        """Ask, and return once the answer's head is there.

        A safe request whose kept-alive connection ends without a byte is asked once more,
        on a new one; nothing else is. Raises NotConnected (nothing left), Broken, Silent,
        EgressRefused, ValueError (a character that may not be there).
        """
        head, chunked = _head(request)
        body = None if isinstance(request.body, bytes | None) else request.body
        connection = self._take(origin)
        if connection is not None:
            try:
                await self._ask(connection, request, head, body, chunked)
                return Answer(self, origin, connection)
            except Broken:
                if connection.touched or request.method not in _SAFE or body is not None:
                    raise
        again = connection is not None
        try:
            connection = await self._connect(origin)
        except (NotConnected, EgressRefused) as error:
            if again:
                # It has left once, wherever its name leads by now.
                raise Broken("the connection ended, and there is no other") from error
            raise
        await self._ask(connection, request, head, body, chunked)
        return Answer(self, origin, connection)

    async def _ask(
        self,
        connection: Connection,
        request: Request,
        head: bytes,
        body: AsyncIterator[bytes] | None,
        chunked: bool,
    ) -> None:
        try:
            seconds = self._silence_seconds
            await connection.ask(request.method, head, body, chunked, seconds, request.switches)
        except BaseException:
            connection.cut()
            connection.finish()
            raise

    # -- connections

    def _take(self, origin: Origin) -> Connection | None:
        kept = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while kept:
            connection = kept.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.cut()
        return None

    def keep(self, origin: Origin, connection: Connection) -> None:
        """Take a connection back for the next request."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._sweep_idle)

    def _sweep_idle(self) -> None:
        loop = asyncio.get_running_loop()
        oldest, left = loop.time() - IDLE_SECONDS, {}
        for origin, kept in self._idle.items():
            for each in kept:
                if each.idle_since <= oldest:
                    each.cut()
            if fresh := [each for each in kept if each.usable]:
                left[origin] = fresh
        self._idle = left
        self._sweep = loop.call_later(IDLE_SECONDS, self._sweep_idle) if left else None

    async def _connect(self, origin: Origin) -> Connection:
        try:
            addresses = await self._resolve(origin.host, origin.port)
        except EgressRefused:
            raise
        except OSError as error:
            raise NotConnected("the name has no address") from error
        failure: LineError | None = None
        for address in addresses[:_MOST_ADDRESSES]:
            try:
                return await self._connect_to(origin, address)
            except TimeoutError as error:
                failure = ConnectSlow("nobody answered the connection in time")
                failure.__cause__ = error
            except OSError as error:
                failure = NotConnected("no connection could be made")
                failure.__cause__ = error
        raise failure or NotConnected("the name has no address")

    async def _connect_to(self, origin: Origin, address: str) -> Connection:
        # The very address that was checked, whatever the name says by now.
        self._policy.check_address(origin.host, origin.port, address)
        loop = asyncio.get_running_loop()
        tls = self._context() if origin.tls else None
        name = origin.host if origin.tls else None
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await loop.create_connection(
                lambda: Connection(self._max_head),
                address,
                origin.port,
                ssl=tls,
                server_hostname=name,
            )
        return connection

    async def _resolve(self, host: str, port: int) -> list[str]:
        now = asyncio.get_running_loop().time()
        until, addresses = self._addresses.get((host, port), (0.0, []))
        if now < until:
            return addresses
        if self._resolver is None:
            self._resolver = GuardedResolver(self._policy)
        async with asyncio.timeout(self._connect_seconds):
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        # One after the other: a network whose IPv6 leads nowhere must not cost the time-out.
        addresses = sorted(dict.fromkeys(each["host"] for each in found), key=_is_v6)
        if len(self._addresses) > 4096:
            self._addresses.clear()
        self._addresses[host, port] = now + DNS_SECONDS, addresses
        return addresses

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            with contextlib.suppress(NotImplementedError):
                self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


def _is_v6(address: str) -> bool:
    return ":" in address


def _head(request: Request) -> tuple[bytes, bool]:
    """The request's head, with its body if it is at hand; whether a stream goes in chunks."""
    method, target, headers, body, length, _ = request
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target)]
    lines += [b"%b: %b" % header for header in headers]
    chunked = False
    if isinstance(body, bytes):
        lines.append(b"Content-Length: %d" % len(body))
    elif body is not None:
        chunked = length is None
        lines.append(
            b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        )
    elif method not in _BODYLESS:
        lines.append(b"Content-Length: 0")
    count = len(lines) + 1
    lines += (b"", b"")
    head = b"\r\n".join(lines)
    breaks = head.count(b"\n"), head.count(b"\r")
    if breaks != (count, count) or b"\0" in head or b" " in target or b"#" in target:
        raise ValueError("a header or the target has a character that may not be there")
    return (head + body if isinstance(body, bytes) else head), chunked
