"""The upstream side of a call: send it on, read the answer up to a limit.

Nothing of the upstream's redirects is followed and nothing of its encoding is
undone. Errors come out as `UpstreamError` with a problem code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from finance.store import Write
from node.egress import EgressPolicy, EgressRefused
from node.gateway.headers import to_upstream
from node.gateway.match import Match, Upstream
from node.gateway.request import Call, CallerGone
from node.gateway.stream_socket import SocketCall
from node.lines import pool as lines
from node.lines.errors import LineError, NotConnected, Silent
from node.lines.events import gives_events

After = Callable[[], Awaitable[bytes | None]]

BUFFER_BYTES = 256 * 1024
CONNECT_SECONDS = 5


class UpstreamError(Exception):
    """The upstream gave no answer; `code` is one of node.problems.PROBLEMS."""

    def __init__(self, code: str, cause: BaseException | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.cause = cause

    @property
    def reason(self) -> str:
        """What may be logged of the cause: the client library's own words hold the address
        and headers that were sent, and with them the upstream's credential (law 10)."""
        match self.cause:
            case None:
                return "no answer"
            case EgressRefused() | CompressedUnasked():
                return str(self.cause)
            case OSError(strerror=str(words)):
                return f"{type(self.cause).__name__}: {words}"
            case _:
                return type(self.cause).__name__


class CompressedUnasked(ValueError):
    """An answer in which a credential could hide, and which was asked for as it is."""

    def __str__(self) -> str:
        return "compressed, though asked not to: its credential could not be found in there"


class Answer:
    """An upstream answer: status, raw headers, and the body read so far.

    `complete` says whether `head` is all of it. Whoever gets one must `close` it.
    """

    __slots__ = ("_response", "_scrub", "complete", "head", "length", "raw_headers", "status")
    writes: Sequence[Write] = ()  # what becomes durable with its charge

    def __init__(self, response: lines.Answer, upstream: Upstream) -> None:
        self._response = response
        self._scrub = _Scrubber(upstream.secrets) if upstream.secrets else None
        self.status = response.status
        self.raw_headers = response.raw_headers
        # Of the whole body as announced; also on answers to HEAD. None when unknown.
        self.length = response.length
        self.head = b""
        self.complete = False

    async def read_head(self, limit: int) -> None:
        """Read up to `limit` bytes and perhaps a chunk more."""
        chunks, size, response = [], 0, self._response
        try:
            while size <= limit:
                chunk = await response.read()
                if not chunk:
                    self.complete = True
                    break
                chunks.append(chunk)
                size += len(chunk)
        finally:
            self.head = b"".join(chunks) if len(chunks) != 1 else chunks[0]
            if self._scrub is not None:
                self.head = self._scrub.clean(self.head, self.complete)

    async def read_for(self, seconds: float, limit: int) -> None:
        """Like `read_head`, but no longer than that. Raises UpstreamError."""
        try:
            async with asyncio.timeout(seconds):
                await self.read_head(limit)
        except TimeoutError:
            return
        except LineError as error:
            raise UpstreamError("upstream_failed", error) from error

    @property
    def is_events(self) -> bool:
        """Whether it is a stream of events (SSE)."""
        return gives_events(self.status, _content_type(self.raw_headers))

    def wait_without_limit(self) -> None:
        """Between two parts of the rest any time may pass."""
        self._response.wait_without_limit()

    def end_here(self) -> None:
        """Whoever is reading the rest sees its end now."""
        self._response.end_here()

    async def rest(self) -> AsyncIterator[bytes]:
        """The body after `head`. Raises UpstreamError when it breaks off."""
        try:
            while chunk := await self._response.read():
                yield chunk if self._scrub is None else self._scrub.clean(chunk, False)
        except LineError as error:
            raise UpstreamError("upstream_failed", error) from error
        if self._scrub is not None:
            yield self._scrub.clean(b"", True)

    def close(self) -> None:
        """Give the connection back if all was read, else cut it."""
        self._response.close()


class Made(Answer):
    """An answer of this node's own, whole. `after` is called once the writes of one that costs
    nothing are durable, and may give its real body."""

    __slots__ = ("after", "writes")

    def __init__(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        writes: Sequence[Write] = (),
        after: After | None = None,
    ) -> None:
        self.after = after
        self.status, self.raw_headers, self.head, self.writes = status, headers, body, writes
        self.length, self.complete = len(body), True

    def close(self) -> None:
        """It holds no connection."""


class _Scrubber:
    """Blots a credential out of a body, also where it falls between two chunks."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        # A word this short would blot out more than it hides.
        self._secrets = [secret for secret in secrets if len(secret) >= 8]
        self._tail = b""

    def clean(self, chunk: bytes, last: bool) -> bytes:
        text, kept = self._tail + chunk, 0
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, b"*" * len(secret))
        if not last:
            # No more than may be a credential's beginning: the end of an event is waited for.
            kept = max((_begun(secret, text) for secret in self._secrets), default=0)
        whole = len(text) - kept
        self._tail = text[whole:]
        return text[:whole]


def _begun(secret: bytes, text: bytes) -> int:
    """With how many of the secret's first bytes the text ends."""
    longest = min(len(secret) - 1, len(text))
    return next((size for size in range(longest, 0, -1) if text.endswith(secret[:size])), 0)


class Forwarder:
    """Sends calls on over one pool of kept-alive connections."""

    def __init__(self, policy: EgressPolicy, first_byte_seconds: float) -> None:
        self._lines = lines.Lines(policy, CONNECT_SECONDS, first_byte_seconds)

    async def stop(self) -> None:
        """Close the pool."""
        await self._lines.close()

    async def fetch(self, call: Call, match: Match, limit: int = BUFFER_BYTES) -> Answer:
        """Call the upstream; the answer's first `limit` bytes are read when this returns.

        Raises UpstreamError, BodyTooLarge, CallerGone.
        """
        assert match.route is not None
        if match.route.own is not None:
            return await match.route.own(call)
        upstream = match.route.upstream
        data = await call.body()
        response = None
        call.watch()
        try:
            response = await self._send(call, match, upstream, data)
            answer = Answer(response, upstream)
            if upstream.secrets and _is_compressed(response.raw_headers):
                raise CompressedUnasked
            if isinstance(call, SocketCall):
                _switch(call, response, upstream)
            if not answer.is_events:
                await answer.read_head(limit)
            if response.status < 200 and not isinstance(call, SocketCall):
                raise UpstreamError("upstream_failed")
            return answer
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, asyncio.CancelledError) and call.caller_left:
                _uncancel()
                raise CallerGone from error
            if call.failure is not None:
                raise call.failure from error
            if isinstance(error, (OSError, ValueError)):
                raise UpstreamError(_code(error), error) from error
            raise
        finally:
            call.unwatch()

    async def _send(
        self,
        call: Call,
        match: Match,
        upstream: Upstream,
        data: bytes | AsyncIterator[bytes] | None,
    ) -> lines.Answer:
        headers = to_upstream(
            call.headers, upstream, call.id, call.client, call.scope.get("scheme", "http")
        )
        target = upstream.target(match.rest, call.query)
        length = call.body_length if call.streams_body else None
        switches = isinstance(call, SocketCall)
        if isinstance(call, SocketCall):
            headers += call.handshake.headers()
        request = lines.Request(call.method, target, headers, data, length, switches)
        return await self._lines.request(upstream.origin, request)


def _switch(call: SocketCall, response: lines.Answer, upstream: Upstream) -> None:
    """Take the line over, if the upstream agreed. Its refusals are passed on; an answer that
    is neither would be charged for nothing."""
    if response.status == 101:
        call.take(response, upstream.secrets)
    elif response.status < 300:
        raise UpstreamError("upgrade_refused")


def _content_type(headers: lines.Headers) -> bytes:
    for name, value in headers:
        if name.lower() == b"content-type":
            return value
    return b""


def _is_compressed(headers: lines.Headers) -> bool:
    coded = (value.lower() for name, value in headers if name.lower() == b"content-encoding")
    return any(value not in (b"", b"identity") for value in coded)


def _code(error: BaseException) -> str:
    match error:
        case Silent() | TimeoutError():
            return "upstream_timeout"
        case NotConnected() | EgressRefused():
            return "upstream_unreachable"
        case _:
            return "upstream_failed"


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(RuntimeError):
            task.uncancel()
