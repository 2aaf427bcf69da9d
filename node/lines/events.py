"""Streams of events (SSE) as bytes: where one event ends, and a last one of our own."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")


class Between:
    """Tells whether what has passed so far ends between two events: only there another can be
    put in without touching theirs. Listeners drop one that is not whole."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\n\n"

    def see(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-4:]

    def __bool__(self) -> bool:
        return self._tail.endswith(_ENDS)


def last_event(code: str) -> bytes:
    """Why a node ends a stream, as an event of the name `farebox`."""
    return b"event: farebox\ndata: " + msgspec.json.encode({"code": code}) + b"\n\n"


def may_add(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether bytes can be added to an answer with these (lower-case) headers: one that is
    compressed or has a length cannot be written into."""
    return not any(name in (b"content-length", b"content-encoding") for name, _ in headers)
