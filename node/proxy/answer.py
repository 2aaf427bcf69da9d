"""What the app gets for a call: the seller's answer, with what this node says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finance.money import Usdc
from node.lines.pool import Answer as Received
from node.problems import Headers
from node.proxy import idempotency
from node.proxy.seller import read_up_to
from node.proxy.stream import SWITCHING, Streamed, is_stream

if TYPE_CHECKING:
    from node.proxy.call import Request
    from node.proxy.minutes import Sold


@dataclass(slots=True)
class Answer:
    """What the app gets: `start` is all of it, or `more` has the rest to be streamed."""

    status: int
    headers: Headers
    start: bytes
    more: Received | None = None
    stream: Streamed | None = None  # whose it is, where the time of `more` counts
    minutes: Sold | None = None  # how that stream goes on to be paid


async def read_start(answer: Received, keep: bool) -> tuple[bytes, bool]:
    """The whole body when it is short or has to be kept, nothing yet of a stream: its end may
    never come."""
    if answer.status == SWITCHING:
        return b"", False
    length = answer.length
    if length == 0 or answer.method == "HEAD" or answer.status in (204, 304):
        answer.close()
        return b"", True
    if length is None and is_stream(answer):
        return b"", False
    if not keep and (length is None or length > idempotency.KEPT_BYTES):
        return b"", False
    return await read_up_to(answer, idempotency.KEPT_BYTES)


def answer_of(answer: Received, headers: Headers, start: bytes, complete: bool) -> Answer:
    """What was read of it, and where it is not `complete`, the rest to come."""
    length = answer.length if answer.method == "HEAD" or not complete else None
    if length is None and complete:
        length = len(start)
    if length is not None and answer.status not in (204, 304):
        headers.append((b"content-length", b"%d" % length))
    return Answer(answer.status, headers, start, None if complete else answer)


def ours(request: Request, cost: int, scheme: str | None) -> Headers:
    """What this node tells the app about its call; `cost` in atoms."""
    headers = [
        (b"farebox-call-id", request.call_id.encode()),
        (b"farebox-cost", str(Usdc(cost)).encode()),
        (b"farebox-demo", b"false"),
    ]
    if scheme is not None:
        headers.append((b"farebox-scheme", scheme.encode()))
    return headers
