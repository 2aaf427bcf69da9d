"""A WebSocket at the gateway: its handshake is a call like any other, then messages pass.

The handshake is matched, priced and paid as GET. Until the upstream has agreed and the
charge is durable the caller has no answer; then it gets 101 with the receipt, and the
channel it paid from is free for its next call. Refusals are plain HTTP answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from finance.x402.extensions import payment_identifier_extension
from finance.x402.offers import Offer
from node.gateway.request import Call, Receive, Scope, Send
from node.lines.carry import GOING_AWAY, By, Ending, carry
from node.lines.pool import Answer
from node.lines.websocket import Handshake, WebSocket
from node.problems import Headers
from node.usage.calls import CallRecord
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import Streams

SWITCHING = 101
# WebSocket servers take lines of 8 KiB, and a payment repeats most of the offer in one.
_MOST_HEADER_BYTES = 5_000
_NOT_IN_101 = (b"content-length", b"content-type", b"content-encoding")


class StreamOpened(Exception):
    """This payment has opened its stream; it opens no second one (law 1)."""


class SocketCall(Call):
    """A handshake. `line` is the upstream's end once it agreed, `booked` the call's row."""

    __slots__ = ("accepted", "booked", "handshake", "line", "stopped")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scheme = "https" if scope.get("scheme") == "wss" else "http"
        scope = {**scope, "method": "GET", "scheme": scheme}
        super().__init__(scope, _as_http(receive), send, 0)
        self._given = 0  # a handshake has no body
        self.handshake = Handshake.new(scope.get("subprotocols", ()))
        self.line: WebSocket | None = None
        self.booked: CallRecord | None = None
        self.accepted = False
        self.stopped: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @property
    def target(self) -> bytes:
        """Unlike a plain GET of the same address: the one never stands for the other."""
        return b"websocket:" + super().target

    def take(self, answer: Answer) -> None:
        """The upstream has agreed. Raises Broken."""
        self.line = WebSocket(answer, self.handshake)

    def stop(self, reason: str) -> None:
        """Have both sides told that this node goes away."""
        if not self.stopped.done():
            self.stopped.set_result(Ending(By.NODE, GOING_AWAY, reason))

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
            raise StreamOpened
        else:
            await self._accept(self.line, headers)

    async def _accept(self, line: WebSocket, headers: Headers) -> None:
        self.status, self.accepted = SWITCHING, True
        own = [
            header
            for header in self.with_own(headers)
            if header[0] not in _NOT_IN_101 and not header[0].startswith(b"sec-websocket-")
        ]
        await self._send(
            {"type": "websocket.accept", "subprotocol": line.subprotocol, "headers": own}
        )

    async def carry(self, receive: Receive, streams: Streams) -> None:
        """Pass messages on until it is over, and have its time counted. `receive` as the
        server gave it."""
        assert self.line is not None and self.booked is not None
        booked = self.booked
        stream = streams.open(
            self.id,
            Side.SERVED,
            StreamKind.WEBSOCKET,
            booked.listing_id,
            self.stop,
            payer=booked.payer,
        )
        try:
            ending = await carry(receive, self._send, self.line, self.stopped)
            stream.end(ending.label, cut=ending.cut)
        finally:
            stream.end("interrupted", cut=True)

    def drop(self) -> None:
        """Let the upstream go, whatever happened."""
        if self.line is not None:
            self.line.cut()


def offer_for_handshake(offer: Offer) -> Offer:
    """The offer without what describes the API, if its payment were too long for a handshake."""
    if len(offer.header) <= _MOST_HEADER_BYTES:
        return offer
    return Offer.build(replace(offer.terms, extensions=payment_identifier_extension()))


def _as_http(receive: Receive) -> Receive:
    """A caller that leaves before the answer, in the words of HTTP."""

    async def received() -> MutableMapping[str, Any]:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    return received
