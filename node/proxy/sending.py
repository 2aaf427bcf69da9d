"""An answer on its way to the app: whole, or as it comes."""

from __future__ import annotations

import logging

from node.lines.errors import LineError
from node.lines.pool import Answer as Received
from node.problems import Headers
from node.proxy.answer import Answer
from node.proxy.body import Receive
from node.proxy.seller import rest_of
from node.proxy.stream import Send, counted, is_stream, send_events
from node.usage.streams import Stream, Streams

_log = logging.getLogger(__name__)


async def send_answer(streams: Streams, send: Send, receive: Receive, answer: Answer) -> bool:
    """All of it; whether it came whole. The time of a stream is counted."""
    if answer.more is None:
        await send_whole(send, answer.status, answer.start, answer.headers)
        return True
    try:
        async with counted(streams, answer.stream, answer.more, receive) as stream:
            await _send_on(send, answer, answer.more, stream)
        return True
    except LineError as error:
        # Without the last, empty part the server cuts the connection: the app sees it broke.
        _log.info("a stream broke off: %r", error)
        return is_stream(answer.more)  # its end is whenever it ends
    finally:
        answer.more.close()


async def send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Head and body at once."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_on(send: Send, answer: Answer, more: Received, stream: Stream | None) -> None:
    start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(start)
    if answer.start:
        await send({"type": "http.response.body", "body": answer.start, "more_body": True})
    if stream is not None:
        await send_events(send, answer.headers, answer.start, rest_of(more), stream)
        return
    async for chunk in rest_of(more):
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
