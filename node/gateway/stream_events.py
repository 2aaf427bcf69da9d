"""Streams of events (SSE) at the gateway: their time is counted while they pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from node.gateway.forward import Answer, UpstreamError
from node.gateway.match import Match
from node.gateway.request import Call, CallerGone
from node.gateway.stream_socket import minute_headers
from node.lines.events import Between, last_event, may_add
from node.lines.websocket import CLOSE_SECONDS
from node.problems import Headers
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import Stream, Streams

# So long is waited for the first part, and for the end where it makes an answer like any other.
EVENTS_SECONDS = 2.0


async def give_events(
    streams: Streams, call: Call, match: Match, answer: Answer, headers: Headers, payer: str
) -> None:
    """Pass paid events on, their time counted and by the minute paid for, until either side
    ends them. One that nobody pays for any more gets a last event that says so, if that can be
    put behind a whole one."""
    assert match.route is not None
    minute_atoms = 0 if call.subject else match.route.minute_atoms
    try:
        async with counted(streams, call, match, answer, payer, minute_atoms) as stream:
            assert stream is not None
            between = Between()
            between.see(answer.head)
            await call.start(answer.status, [*headers, *minute_headers(stream)])
            await call.send(answer.head, True)
            async for chunk in answer.rest():
                if call.is_gone():
                    return
                between.see(chunk)
                await call.send(chunk, True)
            if stream.unpaid and between and may_add(headers):
                await call.send(last_event(stream.stopped_for), True)
            await call.send(b"", False)
    finally:
        answer.close()


@asynccontextmanager
async def counted(
    streams: Streams,
    call: Call,
    match: Match,
    answer: Answer,
    payer: str | None,
    minute_atoms: int = 0,
) -> AsyncIterator[Stream | None]:
    """Count the time in which `answer` is passed on, if it is a stream of events. It ends when
    the caller leaves, be it silent or not; a node that stops ends it as if the upstream had:
    whoever listens sees the end and asks again. Who reads nothing then is not waited for."""
    if not answer.is_events:
        yield None
        return
    reason, cut = "server_closed", False
    limit, loop = asyncio.timeout(None), asyncio.get_running_loop()

    def stop(why: str) -> None:
        nonlocal reason, cut
        reason, cut = why, True
        answer.end_here()
        limit.reschedule(loop.time() + CLOSE_SECONDS)

    def leave() -> None:
        nonlocal reason
        reason = "caller_closed"
        answer.end_here()

    answer.wait_without_limit()
    call.when_gone(leave)
    with suppress(TimeoutError):
        async with limit:
            stream = streams.open(
                call.id,
                Side.SERVED,
                StreamKind.SSE,
                match.listing.id,
                stop,
                payer=payer,
                subject=call.subject,
                minute_atoms=minute_atoms,
            )
            try:
                yield stream
                stream.end(reason, cut=cut)
            except CallerGone:
                stream.end("caller_closed")
                raise
            except UpstreamError:
                stream.end("server_lost", cut=True)
                raise
            finally:
                call.unwatch()
                stream.end(reason if cut else "interrupted", cut=True)
