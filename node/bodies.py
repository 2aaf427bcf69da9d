"""A limit on what a caller may send to the private listener."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyTooLarge(Exception):
    """More arrived than is read here."""


def limited(receive: Receive, most_bytes: int) -> Receive:
    """`receive` that raises BodyTooLarge in its reader once more than `most_bytes` came."""
    left = most_bytes

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise BodyTooLarge(f"more than {most_bytes:,} bytes")
        return message

    return receive_limited


class LimitedBody:
    """An app whose callers may send `most_bytes`."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = limited(receive, self._most_bytes)
        await self._app(scope, receive, send)
