"""A WebSocket at the gateway: its handshake is a call like any other, then messages pass.

The handshake is matched, priced and paid as GET. Until the upstream has agreed and the
charge is durable the caller has no answer; then it gets 101 with the receipt, and the
channel it paid from is free for its next call. Refusals are plain HTTP answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from catalog.samples import blotted
from node.gateway.request import Call, Receive, Scope, Send
from node.lines.carry import Ending, carry, ended_here
from node.lines.pool import Answer
from node.lines.websocket import Handshake, WebSocket
from node.problems import Headers
from node.usage.calls import CallRecord
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import NODE_STOPPED, Stream, Streams

SWITCHING = 101
_NOT_IN_101 = (b"content-length", b"content-type", b"content-encoding")


class StreamOpened(Exception):
    """This payment has bought what was given while it came; it is not given twice (law 1)."""

    def __init__(self, headers: Headers) -> None:
        """`headers` of the answer it bought: their receipt is shown again."""
        super().__init__()
        self.receipt = [header for header in headers if header[0] == b"payment-response"]


class SocketCall(Call):
    """A handshake. `line` is the upstream's end once it agreed, and `stream` what was opened;
    `minute_atoms` as in Route, once it was paid so."""

    __slots__ = (
        "_secrets",
        "_streams",
        "accepted",
        "handshake",
        "line",
        "minute_atoms",
        "stopped",
        "stream",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, streams: Streams) -> None:
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        scope = {**scope, "method": "GET", "scheme": scheme}
        super().__init__(scope, _as_http(receive), send, 0)
        self._given = 0  # a handshake has no body
        self.handshake = Handshake.new(scope.get("subprotocols", ()))
        self.line: WebSocket | None = None
        self.accepted = False
        self.minute_atoms = 0
        self.stream: Stream | None = None
        self._secrets: tuple[bytes, ...] = ()
        self._streams = streams
        self.stopped: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @property
    def target(self) -> bytes:
        """Unlike a plain GET of the same address: the one never stands for the other."""
        return b"websocket:" + super().target

    def take(self, answer: Answer, secrets: tuple[bytes, ...]) -> None:
        """The upstream has agreed; its `secrets` are not to be told. Raises Broken."""
        self.line, self._secrets = WebSocket(answer, self.handshake), secrets

    def stop(self, reason: str) -> None:
        """Have both sides told that this node goes away, or that nobody pays."""
        if not self.stopped.done():
            self.stopped.set_result(ended_here(reason, unpaid=reason != NODE_STOPPED))

    async def start(self, status: int, headers: Headers) -> None:
        """The head of a refusal."""
        self.status = status
        await self._send(
            {
                "type": "websocket.http.response.start",
                "status": status,
                "headers": self.with_own(headers),
            }
        )

    async def send(self, chunk: bytes, more: bool) -> None:
        await self._send({"type": "websocket.http.response.body", "body": chunk, "more_body": more})

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Accept with these headers (101), or refuse."""
        if status != SWITCHING:
            await self.start(status, headers)
            await self.send(body, False)
        elif self.line is None:
            raise StreamOpened(headers)
        else:
            await self._accept(self.line, headers)

    async def _accept(self, line: WebSocket, headers: Headers) -> None:
        self.status, self.accepted = SWITCHING, True
        if self.booked is not None:  # a free one is booked behind its answer
            self.stream = self._open(self.booked)
            headers = [*headers, *minute_headers(self.stream)]
        own = [
            header
            for header in self.with_own(headers)
            if header[0] not in _NOT_IN_101 and not header[0].startswith(b"sec-websocket-")
        ]
        await self._send(
            {"type": "websocket.accept", "subprotocol": line.subprotocol, "headers": own}
        )

    def _open(self, booked: CallRecord) -> Stream:
        """Its time is counted from now on."""
        return self._streams.open(
            self.id,
            Side.SERVED,
            StreamKind.WEBSOCKET,
            booked.listing_id,
            self.stop,
            payer=booked.payer,
            subject=self.subject,
            minute_atoms=0 if self.subject else self.minute_atoms,
        )

    async def carry(self, receive: Receive) -> None:
        """Pass messages on until it is over. `receive` as the server gave it."""
        assert self.line is not None and self.booked is not None
        self.stream = self.stream or self._open(self.booked)
        ending = await carry(receive, self._tell, self.line, self.stopped)
        self.stream.end(ending.label, cut=ending.cut)

    async def _tell(self, message: MutableMapping[str, Any]) -> None:
        """What the upstream says, its credential blotted out."""
        for kind in ("text", "reason", "bytes") if self._secrets else ():
            match message.get(kind):
                case str(said):
                    message[kind] = blotted(said.encode(), self._secrets).decode()
                case bytes(said):
                    message[kind] = blotted(said, self._secrets)
        await self._send(message)

    def drop(self) -> None:
        """Let the upstream go, whatever happened."""
        if self.stream is not None:
            self.stream.end("interrupted", cut=True)
        if self.line is not None:
            self.line.cut()


def minute_headers(stream: Stream) -> Headers:
    """What the head of a stream says that is sold by the minute."""
    if stream.paid_until is None:
        return []
    return [
        (b"farebox-stream", stream.id.encode()),
        (b"farebox-paid-until", b"%d" % stream.paid_until),
    ]


def _as_http(receive: Receive) -> Receive:
    """A caller that leaves before the answer, in the words of HTTP."""

    async def received() -> MutableMapping[str, Any]:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    return received
