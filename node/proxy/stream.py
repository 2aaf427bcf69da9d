"""Streams of the buyer's apps: WebSockets and events (SSE) through the proxy, their time counted.

A WebSocket's handshake is a call like any other, found, limited, paid and booked. Its
secret comes in `Authorization: Bearer <secret>`; browsers, which cannot set headers, offer
the subprotocols `farebox` and `farebox.bearer.<secret>` beside their own. Neither reaches
the seller, and `farebox` is chosen when the seller chooses none, since browsers want one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from finance.store import Batch, Store, Write
from node.lines.carry import Ending, carry, ended_here
from node.lines.errors import LineError
from node.lines.events import Between, asks_for_events, gives_events, last_event, may_add
from node.lines.pool import Answer as Received
from node.lines.websocket import CLOSE_SECONDS, Handshake, WebSocket
from node.proxy.errors import PaymentImpossible, SellerFailed
from node.proxy.gate import Gate
from node.proxy.headers import find
from node.usage.keys import KeyRecord
from node.usage.models import Side
from node.usage.quotas import Meter
from node.usage.stream_rows import StreamKind
from node.usage.streams import NODE_STOPPED, Stream, Streams

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SWITCHING = 101
PROTOCOL = "farebox"
_BEARER = "farebox.bearer."
_NOT_IN_101 = (b"content-length", b"content-type", b"content-encoding")
_NOT_PASSED_ON = text("UPDATE call SET error = :error WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Streamed:
    """Whose stream an answer is."""

    call_id: str
    listing_id: str
    key: KeyRecord
    minute_atoms: int = 0  # by the minute; `opened` has it paid for then
    opened: Callable[[Stream], None] | None = None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """An app's wish for a WebSocket, in the words of HTTP: `scope`, `receive` and `send` serve
    its handshake like a GET; `own` are the originals."""

    scope: dict[str, Any]
    receive: Receive
    send: Send
    own: tuple[Receive, Send]
    handshake: Handshake
    knows_us: bool  # it offered our subprotocol


def read_upgrade(scope: Mapping[str, Any], receive: Receive, send: Send) -> Upgrade:
    """Make a handshake a call; its first message has been received."""
    offered: list[str] = list(scope.get("subprotocols", ()))
    secret = next((each[len(_BEARER) :] for each in offered if each.startswith(_BEARER)), None)
    theirs = [each for each in offered if each != PROTOCOL and not each.startswith(_BEARER)]
    handshake = Handshake.new(theirs)
    headers = [each for each in scope["headers"] if not each[0].startswith(b"sec-websocket-")]
    if secret is not None and find(headers, b"authorization") is None:
        headers.append((b"authorization", b"Bearer " + secret.encode("latin-1")))
    call = {**scope, "method": "GET", "headers": headers, "farebox.handshake": handshake}
    own = receive, send
    return Upgrade(call, _as_http(receive), _refusing(send), own, handshake, PROTOCOL in offered)


def _as_http(receive: Receive) -> Receive:
    async def received() -> dict[str, Any]:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    return received


def _refusing(send: Send) -> Send:
    async def sent(message: dict[str, Any]) -> None:
        await send({**message, "type": "websocket." + message["type"]})

    return sent


def _asks_for_stream(scope: Mapping[str, Any]) -> bool:
    return "farebox.handshake" in scope or asks_for_events(scope["headers"])


async def check_quota(gate: Gate, key: KeyRecord, scope: Mapping[str, Any]) -> None:
    """Whether the key may begin a stream, if it asks for one. Those that are open go on.
    Raises PaymentImpossible (402)."""
    if _asks_for_stream(scope):
        await _check_time(gate, key)


async def check_unannounced(
    gate: Gate, store: Store, key: KeyRecord, scope: Mapping[str, Any], opened: Received, call: str
) -> None:
    """The same for an answer that turned out to be a stream nobody had asked for by name. The
    call is in the books as the seller gave it, for what it cost: it is left there, with the
    reason why the app did not get it. Raises PaymentImpossible (402)."""
    if _asks_for_stream(scope) or not is_stream(opened):
        return
    try:
        await _check_time(gate, key)
    except PaymentImpossible as refused:
        opened.close()
        told = Write(_NOT_PASSED_ON, {"id": call, "error": refused.code}, rows=None)
        await store.commit(Batch([told]))
        raise
    except BaseException:
        opened.close()
        raise


async def _check_time(gate: Gate, key: KeyRecord) -> None:
    held = await gate.claim(key, int(time.time()), Meter.STREAM_SECONDS)
    if held is not None:
        held.release()  # its time is counted as it passes


def is_stream(answer: Received) -> bool:
    """Whether an answer is connected for as long as its sides like."""
    if answer.status == SWITCHING:
        return True
    return gives_events(answer.status, answer.header(b"content-type") or b"")


async def carry_socket(
    upgrade: Upgrade,
    answer: Received,
    headers: list[tuple[bytes, bytes]],
    streams: Streams,
    of: Streamed,
) -> None:
    """Accept the app's WebSocket with what the seller's 101 brought, and pass messages on.
    Raises SellerFailed while the app has no answer yet."""
    try:
        line = WebSocket(answer, upgrade.handshake)
    except LineError as error:
        answer.close()
        raise SellerFailed("seller_failed", "The seller's WebSocket broke off.") from error
    receive, send = upgrade.own
    stop: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def go_away(reason: str) -> None:
        if not stop.done():
            stop.set_result(ended_here(reason, unpaid=reason != NODE_STOPPED))

    stream = _open(streams, of, StreamKind.WEBSOCKET, go_away)
    try:
        await send(
            {
                "type": "websocket.accept",
                "subprotocol": line.subprotocol or (PROTOCOL if upgrade.knows_us else None),
                "headers": [each for each in headers if _may_accept(each[0])],
            }
        )
        ending = await carry(receive, send, line, stop)  # type: ignore[arg-type]
        stream.end(ending.label, cut=ending.cut)
    except OSError:
        stream.end("caller_lost", cut=True)
    finally:
        stream.end("interrupted", cut=True)
        line.cut()


def _may_accept(name: bytes) -> bool:
    return name not in _NOT_IN_101 and not name.startswith(b"sec-websocket-")


@contextlib.asynccontextmanager
async def counted(
    streams: Streams, of: Streamed | None, answer: Received, receive: Receive
) -> AsyncIterator[Stream | None]:
    """Count the time in which events are passed on; anything else just passes. Silence of events
    has no limit, but an app that leaves ends whatever it is. Where events are ended, an app that
    reads nothing is not waited for."""
    if of is None or not is_stream(answer):
        with _watched(receive, answer.end_here):
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
    with contextlib.suppress(TimeoutError):
        async with limit:
            stream = _open(streams, of, StreamKind.SSE, stop)
            try:
                with _watched(receive, leave):
                    yield stream
                stream.end(reason, cut=cut)
            except LineError:
                stream.end("server_lost", cut=True)
                raise
            finally:
                stream.end(reason if cut else "interrupted", cut=True)


@contextlib.contextmanager
def _watched(receive: Receive, leave: Callable[[], None]) -> Iterator[None]:
    """`leave` is called once the app hangs up. Its request has been read."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _open(streams: Streams, of: Streamed, kind: StreamKind, stop: Callable[[str], None]) -> Stream:
    stream = streams.open(
        of.call_id,
        Side.BOUGHT,
        kind,
        of.listing_id,
        stop,
        key_id=of.key.id,
        subject=of.key.subject if of.key.integrator else "",
        minute_atoms=of.minute_atoms,
    )
    if of.opened is not None:
        of.opened(stream)
    return stream


async def send_events(
    send: Send,
    headers: list[tuple[bytes, bytes]],
    start: bytes,
    chunks: AsyncIterator[bytes],
    stream: Stream,
) -> None:
    """The body of a stream of events. Where it ends since nobody pays any more, a last event
    says so, if that can be put behind a whole one."""
    between = Between()
    between.see(start)
    async for chunk in chunks:
        between.see(chunk)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if stream.unpaid and between and may_add(headers):
        told = last_event(stream.stopped_for)
        await send({"type": "http.response.body", "body": told, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
