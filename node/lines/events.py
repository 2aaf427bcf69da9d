"""Streams of events (SSE): how they are asked for and known, where one event ends, and a last
one of our own."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

EVENTS = b"text/event-stream"
_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")


def asks_for_events(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these (lower-case) headers says that it wants events. Who does not
    say so may get them all the same."""
    return any(name == b"accept" and EVENTS in value.lower() for name, value in headers)


def gives_events(status: int, content_type: bytes) -> bool:
    """Whether an answer is a stream of events: sent on as they come, for as long as it goes."""
    return status < 300 and content_type.partition(b";")[0].strip().lower() == EVENTS


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
