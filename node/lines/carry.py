"""Messages of a WebSocket both ways: an ASGI caller on one side, a line on the other.

One message at a time each way, and the next is read only when the last has left: whoever
reads slowly slows down the other side, and memory holds a few messages, never a backlog.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from enum import StrEnum
from typing import Any, NamedTuple

from node.lines.websocket import CLOSE_SECONDS, Closed, WebSocket

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

GOING_AWAY = 1001
UNPAID = 4402  # ours: nobody pays for it any more; the reason is a code
BAD_GATEWAY = 1014  # IANA: what came from behind this gateway was no proper end


class By(StrEnum):
    """Who ended it."""

    CALLER = "caller"
    SERVER = "server"
    NODE = "node"


class Ending(NamedTuple):
    """How it ended. `code` None: closed without one; `broken`: without a close at all."""

    by: By
    code: int | None
    reason: str
    broken: bool = False

    @property
    def cut(self) -> bool:
        """Whether neither side wanted it."""
        return self.broken or self.by is By.NODE

    @property
    def label(self) -> str:
        """For the books: `caller_closed`, `server_lost`, or why the node ended it."""
        if self.by is By.NODE:
            return self.reason
        return f"{self.by}_{'lost' if self.broken else 'closed'}"


def ended_here(reason: str, *, unpaid: bool) -> Ending:
    """This node ends it: because it stops itself, or because nobody pays."""
    return Ending(By.NODE, UNPAID if unpaid else GOING_AWAY, reason)


async def carry(
    receive: Receive, send: Send, line: WebSocket, stop: asyncio.Future[Ending]
) -> Ending:
    """Pass messages on until one side closes or breaks, or `stop` is set; close the other."""
    tasks = [
        asyncio.create_task(_to_server(receive, line)),
        asyncio.create_task(_to_caller(send, line)),
    ]
    try:
        await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
        ending = next(
            (task.result() for task in tasks if task.done()), stop.result() if stop.done() else None
        )
        assert ending is not None
    except BaseException:
        line.cut()
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await _close(send, line, ending)
    return ending


async def _to_server(receive: Receive, line: WebSocket) -> Ending:
    gone = False
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code")
            # The server in front of us gives no reason where there was no close frame.
            broken = "reason" not in message
            return Ending(
                By.CALLER, None if code == 1005 else code, message.get("reason") or "", broken
            )
        if gone:
            continue  # what the server sent before it left is still on its way down
        said = message.get("text")
        try:
            await line.send(message["bytes"] if said is None else said)
        except Closed:
            gone = True


async def _to_caller(send: Send, line: WebSocket) -> Ending:
    while True:
        try:
            message = await line.receive()
        except Closed as end:
            return Ending(By.SERVER, end.code, end.reason, end.broken)
        kind = "text" if isinstance(message, str) else "bytes"
        try:
            await send({"type": "websocket.send", kind: message})
        except OSError:
            return Ending(By.CALLER, None, "", True)


async def _close(send: Send, line: WebSocket, ending: Ending) -> None:
    code, reason = ending.code, ending.reason
    if ending.broken:
        code = GOING_AWAY if ending.by is By.CALLER else BAD_GATEWAY
        reason = "" if ending.by is By.CALLER else "The connection behind this one broke off."
    parting = []
    if ending.by is not By.CALLER:
        parting.append(_tell_caller(send, code, reason))
    if ending.by is not By.SERVER:
        parting.append(line.close(code, reason))
    await asyncio.gather(*parting)
    line.cut()


async def _tell_caller(send: Send, code: int | None, reason: str) -> None:
    # One who reads nothing any more is not waited for.
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(CLOSE_SECONDS):
            await send({"type": "websocket.close", "code": code, "reason": reason})
