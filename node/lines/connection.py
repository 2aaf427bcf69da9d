"""One HTTP/1.1 connection: a request out, its answer in, and again if both sides agree."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import httptools

from node.lines.errors import Broken, LineError, Silent

# A body that is not fetched is left in the socket above this many bytes.
HIGH_WATER = 256 * 1024
_NO_BODY = (204, 304)


class Connection(asyncio.Protocol):
    """At most one exchange at a time. `usable` says whether another may follow."""

    def __init__(self, max_head_bytes: int) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # once it stands
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._max_head = max_head_bytes
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._lost = False
        self.in_use = False
        self._reset("", 0.0)

    def _reset(self, method: str, timeout_seconds: float) -> None:
        self.method, self._timeout = method, timeout_seconds
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.length: int | None = None
        self._bare_bytes = self._field_bytes = 0  # the former since the last byte of a body
        self._head_done = self.complete = self._keep = False
        self._until_end = False
        self._switches = False
        self._chunks: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self.error: LineError | None = None
        self.touched = False  # whether any byte of an answer came
        # What came after a 101, until somebody takes the line over; None without one.
        self.beyond: bytes | None = None

    # -- asking

    async def ask(
        self,
        method: str,
        request: bytes,
        body: AsyncIterator[bytes] | None,
        chunked: bool,
        timeout_seconds: float,
        switches: bool = False,
    ) -> None:
        """Send a request (`request`: its head, and its body if that is short) and wait for
        the answer's head. `switches`: it asks for another protocol. Raises Broken or Silent."""
        self._reset(method, timeout_seconds)
        self.in_use, self._switches = True, switches
        self._since = self._loop.time()
        self._timer = self._loop.call_later(timeout_seconds, self._look)
        self.transport.write(request)
        if body is not None:
            self._writer = self._loop.create_task(self._write(body, chunked))
        while not self._head_done:
            await self._wait()

    async def _write(self, body: AsyncIterator[bytes], chunked: bool) -> None:
        try:
            async for chunk in body:
                if not chunk:
                    continue
                self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
                self._since = self._loop.time()
                if self._lost:
                    return
                if self._writable is not None:
                    await self._writable
                    self._since = self._loop.time()
            if chunked:
                self.transport.write(b"0\r\n\r\n")
        except Exception as error:
            # Whoever reads the caller's body knows why; here it ends the exchange.
            self._fail(Broken("the request could not be sent whole"), error)

    async def _wait(self) -> None:
        if self.error is not None:
            raise self.error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self.error is not None:
            raise self.error

    def _look(self) -> None:
        """Whether it is time to give up; someone who does not read is not waited for."""
        now = self._loop.time()
        due = self._since + self._timeout
        if self._waiter is None or self._paused:
            due = now + self._timeout
        if due > now:
            self._timer = self._loop.call_later(due - now, self._look)
        else:
            self._fail(Silent("no answer in time"))

    # -- the answer's body

    async def read(self) -> bytes:
        """What has come of the body, at least a byte; b"" at its end. Raises LineError."""
        while not self._chunks:
            if self.complete:
                return b""
            await self._wait()
        chunks = self._chunks
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._waiting_bytes = 0
        if self._paused and not self._lost:
            self._paused = False
            self._since = self._loop.time()
            self.transport.resume_reading()
        return data

    @property
    def at_end(self) -> bool:
        """Whether the whole body has come and was read."""
        return self.complete and not self._chunks

    def finish(self) -> bool:
        """End the exchange; whether the connection can serve another. Else it is cut."""
        self.in_use = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sent = self._writer is None or self._writer.done()
        if not sent and self._writer is not None:
            self._writer.cancel()
        self._writer = None
        if self.complete and self._keep and sent and self.error is None and not self._lost:
            if self._paused:
                self.transport.resume_reading()
            if self.method == "HEAD":
                # The parser still waits for a body that does not come.
                self._parser = httptools.HttpResponseParser(self)
            return True
        self.cut()
        return False

    def wait_without_limit(self) -> None:
        """The rest of this answer may take as long as it likes."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end_here(self) -> None:
        """Take what has come for the whole answer: whoever reads it sees its end."""
        self.complete, self._keep = True, False
        self.cut()
        self._wake()

    def hand_over(self, heir: asyncio.Protocol) -> None:
        """After a 101: the line is `heir`'s, with what has come beyond the head. Raises
        Broken if it has ended meanwhile."""
        if self._lost or self.beyond is None:
            raise Broken("the connection ended")
        self.wait_without_limit()
        self.in_use, self._lost = False, True
        beyond, self.beyond = self.beyond, None
        self.transport.set_protocol(heir)
        heir.connection_made(self.transport)
        if beyond:
            heir.data_received(beyond)
        self.transport.resume_reading()

    def cut(self) -> None:
        """Close without ceremony."""
        self._lost = True
        if self.transport is not None:
            self.transport.abort()

    @property
    def usable(self) -> bool:
        """Whether the other side still holds the line, as far as we know."""
        return not self._lost and not self.transport.is_closing()

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.beyond is not None:
            self.beyond += data
            return
        if not self.in_use or self.complete:
            # Nobody asked: whatever it is, the next answer would not be trusted.
            self._keep = False
            self.cut()
            return
        if self._head_done or not self.touched:
            self._since = self._loop.time()  # from its first byte on, a head has as long as silence
        self.touched = True
        self._bare_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            switched = self._switches and self.status == 101
            if switched and isinstance(error, httptools.HttpParserUpgrade):
                # Whatever follows is no HTTP; it waits for whoever takes over.
                self.beyond = data[error.args[0] :]
                self.complete, self._keep = True, False
                self.transport.pause_reading()
            elif not self.complete:
                self._fail(Broken("the answer is not HTTP"), error)
            else:
                self._keep = False
        if not self.complete and self._bare_bytes > self._max_head:
            self._fail(Broken("the answer's head or trailer is too long"))
        if self._waiting_bytes > HIGH_WATER and not self._paused and not self._lost:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._until_end and exc is None and self.error is None:
            self.complete = True
        elif self.in_use and not self.complete:
            self._fail(Broken("the connection ended"), exc)
        self._wake()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- httptools

    def on_message_begin(self) -> None:
        if self.complete:
            self._keep = False  # a second answer nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head_done:  # else it is a trailer
            self._field_bytes += len(name) + len(value)
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        if self._field_bytes > self._max_head:
            raise ValueError("too long")
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self.headers.clear()
            return
        if not 100 <= status < 600:
            raise ValueError("no status")
        self.status, self._head_done, self._bare_bytes = status, True, 0
        self._keep = self._parser.should_keep_alive()
        chunked = False
        for name, value in self.headers:
            key = name.lower()
            if key == b"content-length":
                self.length = int(value)
            elif key == b"transfer-encoding":
                chunked = True
        if chunked:
            self.length = None
        if self.method == "HEAD":
            self._keep = self._keep or self._is_kept()
            self.complete = True
        elif status not in _NO_BODY:
            self._until_end = self.length is None and not chunked

    def _is_kept(self) -> bool:
        """For HEAD, where the parser takes a missing length for a body without an end."""
        listed = [v.lower() for n, v in self.headers if n.lower() == b"connection"]
        return self._parser.get_http_version() == "1.1" and b"close" not in listed

    def on_body(self, body: bytes) -> None:
        if self.complete:
            self._keep = False
            return
        self._bare_bytes = 0
        self._chunks.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self.complete = True

    # --

    def _fail(self, error: LineError, cause: BaseException | None = None) -> None:
        if self.error is None:
            error.__cause__ = cause
            self.error = error
        self.cut()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
