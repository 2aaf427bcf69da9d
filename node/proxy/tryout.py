"""A call made from the console: the same way, limits, books and journal as an app's.

Its answer is read up to a bound, because it is shown on a page, and not passed on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from node.problems import Headers
from node.proxy.answer import Answer
from node.proxy.errors import ProxyError, SellerFailed, SellerSilent, rendered
from node.proxy.seller import read_up_to
from node.usage.calls import new_call_id
from node.usage.keys import KeyRecord

SHOWN_BYTES: Final = 512 * 1024
# Whom such calls are booked on: it has limits like any key, and is no integrator.
KEY: Final = KeyRecord("console")
_SECONDS = 90.0
_log = logging.getLogger(__name__)

Serve = Callable[..., Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Trial:
    """A request below a listing. `target` is path and query, percent-encoded; `demo`: a
    sample is enough, also of a listing that is bought in production."""

    slug: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    demo: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it. Header names are in lower case; `whole`: the body is all of it."""

    call_id: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    whole: bool
    latency_us: int


async def try_out(serve: Serve, trial: Trial) -> Tried:
    """Make the call; what refuses or breaks it is its answer, as an app would see it."""
    started = time.perf_counter()
    call_id = new_call_id(time.time_ns() // 1_000_000)
    whole = True
    try:
        async with asyncio.timeout(_SECONDS):
            answer = await serve(KEY, _scope(trial), _receive(trial.body), call_id, trial.demo)
            status, headers = answer.status, answer.headers
            body, whole = await whole_body(answer, SHOWN_BYTES)
    except TimeoutError:
        error = SellerSilent("seller_timeout", f"Nothing came for {_SECONDS:.0f} seconds.")
        status, body, headers = rendered(error, call_id)
    except ProxyError as error:
        status, body, headers = rendered(error, call_id)
    except Exception:
        _log.exception("call %s failed here", call_id)
        status, body, headers = rendered(ProxyError("internal_error"), call_id)
    latency = int((time.perf_counter() - started) * 1_000_000)
    return Tried(call_id, status, _text(headers), body, whole, latency)


async def whole_body(answer: Answer, most: int) -> tuple[bytes, bool]:
    """(the first bytes of an answer, whether they are all); what breaks off is cut there."""
    if answer.more is None:
        return answer.start[:most], len(answer.start) <= most
    try:
        more, whole = await read_up_to(answer.more, most)
    except SellerFailed:
        # It is paid for and booked; what came of it is shown.
        return answer.start, False
    finally:
        answer.more.close()
    return (answer.start + more)[:most], whole


def _scope(trial: Trial) -> dict[str, Any]:
    path, _, query = trial.target.partition("?")
    headers = [
        (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
        for name, value in trial.headers
    ]
    if trial.body:
        headers.append((b"content-length", b"%d" % len(trial.body)))
    raw = f"/call/{trial.slug}{path}".encode("latin-1", "replace")
    return {
        "type": "http",
        "method": trial.method,
        "path": raw.decode("latin-1"),
        "raw_path": raw,
        "query_string": query.encode("latin-1", "replace"),
        "headers": headers,
    }


def _receive(body: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _text(headers: Headers) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers
    )
