"""Which of several processes on the same books serves a channel: one at a time (law 1).

Memory serializes the requests of one process. Where others sell from the same database, a
lock of the database does so between them, and ends with the process that holds it.
"""

from __future__ import annotations

import asyncio

from finance.errors import ChannelBusy
from finance.store import Locks

# How long a call waits for another process to be done with its channel, in ever longer looks.
TURN_SECONDS = 0.25
_FIRST_LOOK_SECONDS = 0.002


async def await_turn(locks: Locks, channel_id: bytes) -> None:
    """Hold the channel against all other processes. Raises ChannelBusy."""
    pause, waited = _FIRST_LOOK_SECONDS, 0.0
    while not await asyncio.to_thread(locks.take, _number(channel_id)):
        if waited >= TURN_SECONDS:
            raise ChannelBusy("Another process serves a request of this channel.")
        await asyncio.sleep(pause)
        waited, pause = waited + pause, 2 * pause


def end_turn(locks: Locks, channel_id: bytes) -> None:
    """Let others have it, without waiting for the database to know."""
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, locks.give_back, _number(channel_id))


def _number(channel_id: bytes) -> int:
    """Enough of the id to be nobody else's."""
    return int.from_bytes(channel_id[:8], "big", signed=True)
