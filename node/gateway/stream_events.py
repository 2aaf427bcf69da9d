"""Streams of events (SSE) at the gateway: their time is counted while they pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from node.gateway.forward import Answer, UpstreamError
from node.gateway.match import Match
from node.gateway.request import Call, CallerGone
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import Streams

# So long is waited for the first part, and for the end where it makes an answer like any other.
EVENTS_SECONDS = 2.0


@contextmanager
def counted(
    streams: Streams, call: Call, match: Match, answer: Answer, payer: str | None
) -> Iterator[None]:
    """Count the time in which `answer` is passed on, if it is a stream of events. It ends when
    the caller leaves, be it silent or not; a node that stops ends it as if the upstream had:
    whoever listens sees the end and asks again."""
    if not answer.is_events:
        yield
        return
    reason, cut = "server_closed", False

    def stop(why: str) -> None:
        nonlocal reason, cut
        reason, cut = why, True
        answer.end_here()

    def leave() -> None:
        nonlocal reason
        reason = "caller_closed"
        answer.end_here()

    answer.wait_without_limit()
    call.when_gone(leave)
    stream = streams.open(call.id, Side.SERVED, StreamKind.SSE, match.listing.id, stop, payer=payer)
    try:
        yield
        stream.end(reason, cut=cut)
    except CallerGone:
        stream.end("caller_closed")
        raise
    except UpstreamError:
        stream.end("server_lost", cut=True)
        raise
    finally:
        call.unwatch()
        stream.end("interrupted", cut=True)
