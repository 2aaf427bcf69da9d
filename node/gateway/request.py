"""One request at the ASGI edge: its head, its body with a limit, and whether anyone waits.

A call that takes long is watched for its caller going away; a short one is asked
once, just before its charge.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from node.problems import Headers
from node.usage.calls import CallRecord, new_call_id

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CALL_ID = b"farebox-call-id"
KEY = b"farebox-key"
DEMO = b"farebox-demo"  # asks for a recorded answer, see node.gateway.demo
# Bodies up to this size are read before the upstream is called.
INLINE_BYTES = 256 * 1024
# Callers of faster answers are not watched while they wait.
WATCH_AFTER_SECONDS = 0.1

EMPTY_DIGEST = hashlib.blake2b(b"", digest_size=32).digest()


class CallerGone(Exception):
    """The caller has hung up; nobody would get an answer."""


class BodyTooLarge(Exception):
    """The request body is above the limit."""


class Call:
    """A request and what becomes of it. `body_digest` is known once the body was read, `booked`
    once its row was made."""

    __slots__ = (
        "_digested",
        "_given",
        "_gone",
        "_inline",
        "_receive",
        "_send",
        "_streaming",
        "_task",
        "_timer",
        "_watch",
        "at",
        "at_ms",
        "begun",
        "body_digest",
        "booked",
        "demo",
        "failure",
        "headers",
        "id",
        "key",
        "max_body_bytes",
        "method",
        "origin",
        "payment",
        "payments",
        "query",
        "raw_path",
        "scope",
        "sent",
        "status",
        "subject",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        now = time.time()
        self.at, self.at_ms, self.begun = int(now), int(now * 1000), time.perf_counter()
        self.id = new_call_id(self.at_ms)
        self.scope, self._receive, self._send = scope, receive, send
        self.method: str = scope["method"]
        self.raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.query: bytes = scope["query_string"]
        self.headers: Headers = scope["headers"]
        self.max_body_bytes = max_body_bytes
        self.body_digest = EMPTY_DIGEST
        self.booked: CallRecord | None = None
        self.failure: Exception | None = None
        # Whose quota pays for it instead of money (node.usage.quotas); no minutes are due then.
        self.subject = ""
        self.status = 0
        self.sent = 0  # bytes of the body that were given in parts
        self.payment: bytes | None = None
        self.payments = 0
        self.origin = False
        self.demo = False
        self.key: bytes | None = None  # of a subscriber
        self._given = 0
        for name, value in self.headers:
            if name == b"payment-signature":
                self.payment, self.payments = value, self.payments + 1
            elif name == b"content-length":
                self._given = int(value)
            elif name == b"transfer-encoding":
                self._given = -1
            elif name == b"origin":
                self.origin = True
            elif name == KEY:
                self.key = value
            elif name == DEMO:
                self.demo = value not in (b"", b"0", b"false")
        self._gone = False
        self._inline: bytes | None = None
        self._digested = False
        self._streaming = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """Whether the answer's head has left."""
        return self.status != 0

    @property
    def target(self) -> bytes:
        """Path and query as sent."""
        return self.raw_path + b"?" + self.query

    @property
    def client(self) -> str:
        """The caller's address."""
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def streams_body(self) -> bool:
        """Whether the request body is passed on while it arrives."""
        return self._inline is None and not 0 <= self._given <= INLINE_BYTES

    @property
    def body_length(self) -> int | None:
        """The announced length of the request body; None when there is none or it is chunked."""
        return self._given if self._given > 0 else None

    def elapsed_us(self) -> int:
        """Microseconds since arrival."""
        return int((time.perf_counter() - self.begun) * 1_000_000)

    async def body(self) -> bytes | AsyncIterator[bytes] | None:
        """The request body: None, all of it when it is small, else a stream of chunks.

        Raises BodyTooLarge, CallerGone; a stream ends with them in `failure`.
        """
        if self._inline is not None:
            return self._inline
        if self._given == 0:
            return None
        if self._given > self.max_body_bytes or self._digested:
            raise BodyTooLarge
        if self.streams_body:
            return self._stream()
        return await self.read_body(INLINE_BYTES)

    async def read_body(self, limit: int) -> bytes:
        """All of the body at once; needed where a payment is compared before it is used."""
        if self._inline is None:
            chunks: list[bytes] = []
            size = 0
            async for chunk in self._chunks():
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge
                chunks.append(chunk)
            self._inline = b"".join(chunks)
            self.body_digest = hashlib.blake2b(self._inline, digest_size=32).digest()
        return self._inline

    async def digest_body(self) -> None:
        """Read all of the body, to compare what a payment has bought with what is asked for. One
        that is long cannot be forwarded afterwards."""
        if not self.streams_body:
            await self.read_body(INLINE_BYTES)
        elif not self._digested:
            start = bytearray()
            async for chunk in self._stream():
                if len(start) <= INLINE_BYTES:
                    start += chunk
            if len(start) <= INLINE_BYTES:
                self._inline = bytes(start)
            else:
                self._digested = True

    async def _stream(self) -> AsyncIterator[bytes]:
        digest, size = hashlib.blake2b(digest_size=32), 0
        self._streaming = True
        try:
            async for chunk in self._chunks():
                size += len(chunk)
                if size > self.max_body_bytes:
                    raise BodyTooLarge
                digest.update(chunk)
                yield chunk
        except (BodyTooLarge, CallerGone) as error:
            # The client library would wrap it beyond recognition.
            self.failure = error
            raise
        self.body_digest = digest.digest()
        self._streaming = False
        if self._task is not None:
            self._watch_soon()

    async def _chunks(self) -> AsyncIterator[bytes]:
        more = self._given != 0
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._gone = True
                raise CallerGone
            more = message.get("more_body", False)
            if chunk := message.get("body"):
                yield chunk

    # -- the caller's presence

    def watch(self) -> None:
        """From now on a caller that leaves cancels the running task with CallerGone."""
        self._task = asyncio.current_task()
        if not self.streams_body:
            self._watch_soon()  # else when the body has been read: it comes the same way

    def unwatch(self) -> None:
        """Stop watching: from here on the call is finished whoever leaves."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._task = None

    def when_gone(self, act: Callable[[], None]) -> None:
        """Do something once the caller leaves, until `unwatch`. The request has been read."""

        async def watch() -> None:
            await self._await_leaving()
            act()

        self._watch = asyncio.get_running_loop().create_task(watch())

    def is_gone(self) -> bool:
        """Whether the caller has hung up, asked without waiting."""
        if self._gone or self._streaming or self._watch is not None:
            return self._gone
        for _ in range(2):  # at most the empty end of the request, then the news
            step = self._receive()
            try:
                step.send(None)  # type: ignore[attr-defined]
            except StopIteration as stop:
                if stop.value["type"] == "http.disconnect":
                    self._gone = True
                    return True
            else:
                step.close()  # type: ignore[attr-defined]
                return False
        return False

    def _watch_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCH_AFTER_SECONDS, self._start_watching)

    def _start_watching(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._await_leaving())

    async def _await_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    @property
    def caller_left(self) -> bool:
        """Whether a cancellation was the caller's leaving."""
        return self._gone

    # -- the answer

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the answer, with the call's id."""
        self.status = status
        out = self.with_own(headers)
        await self._send({"type": "http.response.start", "status": status, "headers": out})

    def with_own(self, headers: Headers) -> Headers:
        """With what every answer has of ours. Whom the preflight let pay, or show its key, from
        whichever page, may read the answer, whatever pages the upstream has in mind."""
        out = [*headers, (CALL_ID, self.id.encode())]
        if self.origin and (self.payment is not None or self.key is not None):
            out = [header for header in out if header[0] != _ALLOWED]
        return out + _cors(out) if self.origin else out

    async def send(self, chunk: bytes, more: bool) -> None:
        """Send a part of the body."""
        self.sent += len(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": more})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer; `headers` hold its content-length."""
        await self.start(status, headers)
        await self._send({"type": "http.response.body", "body": body})


_ALLOWED = b"access-control-allow-origin"
_EXPOSE = (
    b"PAYMENT-REQUIRED, PAYMENT-RESPONSE, Farebox-Call-Id, Farebox-Demo, Farebox-Demo-Recorded-At,"
    b" Farebox-Meter, Farebox-Paid-Until, Farebox-Stream, RateLimit-Limit, RateLimit-Remaining,"
    b" RateLimit-Reset, Retry-After"
)


def _cors(headers: Headers) -> Headers:
    """Let browsers pay: no cookie or secret of ours is at stake on this side."""
    if any(name == _ALLOWED for name, _ in headers):
        return [(b"access-control-expose-headers", _EXPOSE)]
    return [(_ALLOWED, b"*"), (b"access-control-expose-headers", _EXPOSE)]
