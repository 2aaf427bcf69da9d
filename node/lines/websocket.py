"""A WebSocket to a server, over a line that agreed to it (RFC 6455).

The handshake is ours, since offers and payments are longer than what WebSocket libraries
take for a header; frames are the library's. Extensions are not offered.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, CloseCode
from websockets.protocol import Protocol, Side

from node.lines.errors import Broken
from node.lines.pool import Answer, Headers

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# Nobody is cut for being idle, only for not being there: the answer to a ping may wait
# behind what a slow reader has not taken yet.
PING_SECONDS = 20.0
PONG_SECONDS = 60.0
CLOSE_SECONDS = 5.0
_MOST_FRAMES = 4  # not taken yet, before the line is left unread
_WRITE_BYTES = 64 * 1024
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Closed(Exception):
    """The other side is gone. `code` None: without a code; `broken`: without a word."""

    def __init__(self, code: int | None, reason: str, broken: bool) -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code, self.reason, self.broken = code, reason, broken


class Handshake(NamedTuple):
    """What is asked of the server; `key` is base64, as in its header."""

    key: bytes
    subprotocols: Sequence[str]

    @classmethod
    def new(cls, subprotocols: Sequence[str]) -> Handshake:
        return cls(base64.b64encode(os.urandom(16)), subprotocols)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What a request needs besides its own headers."""
        headers = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", self.key),
            (b"Sec-WebSocket-Version", b"13"),
        ]
        if self.subprotocols:
            offered = ", ".join(self.subprotocols).encode("latin-1")
            headers.append((b"Sec-WebSocket-Protocol", offered))
        return headers

    def check(self, headers: Headers) -> str | None:
        """The subprotocol a 101 has chosen. Raises Broken when it is not an answer to this."""
        given: dict[bytes, bytes] = {}
        for name, value in headers:
            if given.setdefault(name.lower(), value) is not value:
                given[name.lower()] += b", " + value
        proof = base64.b64encode(hashlib.sha1(self.key + _GUID).digest())
        chosen = given.get(b"sec-websocket-protocol", b"").decode("latin-1").strip()
        if (
            given.get(b"upgrade", b"").lower() != b"websocket"
            or given.get(b"sec-websocket-accept", b"").strip() != proof
            or b"sec-websocket-extensions" in given
            or (chosen and chosen not in self.subprotocols)
        ):
            raise Broken("the answer to the WebSocket handshake is wrong")
        return chosen or None


class WebSocket:
    """Our end of it. Whoever has one must `close` or `cut` it."""

    def __init__(self, answer: Answer, handshake: Handshake) -> None:
        """`answer` is a 101. Raises Broken."""
        self.subprotocol = handshake.check(answer.raw_headers)
        self._connection = Connection(
            Protocol(Side.CLIENT, max_size=MAX_MESSAGE_BYTES),
            ping_interval=PING_SECONDS,
            ping_timeout=PONG_SECONDS,
            close_timeout=CLOSE_SECONDS,
            max_queue=_MOST_FRAMES,
            write_limit=_WRITE_BYTES,
        )
        answer.hand_over(self._connection)
        self._connection.start_keepalive()

    async def receive(self) -> str | bytes:
        """The next message, put together. Raises Closed."""
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def send(self, message: str | bytes) -> None:
        """Returns once most of it has left. Raises Closed."""
        try:
            await self._connection.send(message)
        except ConnectionClosed as error:
            raise _closed(error) from error

    async def close(self, code: int | None, reason: str) -> None:
        """Say so and wait for the other side, CLOSE_SECONDS at most."""
        await self._connection.close(code, reason)  # type: ignore[arg-type]  # None: no code

    def cut(self) -> None:
        """Close without ceremony."""
        self._connection.transport.abort()


def _closed(error: ConnectionClosed) -> Closed:
    said: Close | None = error.rcvd
    if said is None and error.sent is not None:
        # We closed it: a message too long, or not what RFC 6455 allows, or no pong.
        return Closed(
            error.sent.code, error.sent.reason, error.sent.code == CloseCode.INTERNAL_ERROR
        )
    if said is None:
        return Closed(None, "", True)
    code = None if said.code == CloseCode.NO_STATUS_RCVD else int(said.code)
    return Closed(code, said.reason, False)
