"""Long answers that wait for their money on the chain: in files meanwhile, not in memory.

An answer stays here from its first byte to its last; only on its way into or out of the
database it is whole in memory, and then one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from types import TracebackType
from typing import IO, Self

from node.gateway.desk import Refused, Room
from node.gateway.forward import BUFFER_BYTES, Answer
from node.gateway.request import Call, CallerGone
from node.problems import Headers

log = logging.getLogger("farebox.gateway")

TAKE_SECONDS = 120.0


class Spool:
    """One answer's body. A short one never becomes a file. Leaving the context forgets it."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.size = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        self.room.taken -= self.size

    @property
    def used(self) -> bool:
        """Whether the body is here."""
        return self._file is not None

    async def fill(self, call: Call, answer: Answer, limit: int) -> None:
        """Read the rest of a long answer into the file; its head moves there.

        Raises Refused above `limit` bytes or without room, UpstreamError, CallerGone.
        """
        waiting, size = [answer.head], len(answer.head)
        answer.head = b""
        async for chunk in answer.rest():
            waiting.append(chunk)
            size += len(chunk)
            if self.size + size > limit:
                raise Refused("answer_too_large")
            if size >= BUFFER_BYTES:
                if call.is_gone():
                    raise CallerGone
                await self.add(b"".join(waiting))
                waiting, size = [], 0
        await self.add(b"".join(waiting))

    async def add(self, data: bytes) -> None:
        """Put more behind what is there. Raises Refused without room."""
        self.room.take(len(data))
        self.size += len(data)
        await asyncio.to_thread(self._write, data)

    async def content(self) -> bytes:
        """All of it; hold `room.alone()` as long as it is kept."""
        return await asyncio.to_thread(self._read, 0, self.size)

    async def give(self, call: Call, status: int, headers: Headers) -> None:
        """Answer with it, piece by piece. Its length is in `headers`. A caller that takes no piece
        for TAKE_SECONDS is given no more: it can ask again, and others need the room."""
        await call.start(status, headers)
        try:
            async for piece in self._pieces():
                async with asyncio.timeout(TAKE_SECONDS):
                    await call.send(piece, True)
        except TimeoutError:
            log.info("call %s: its caller takes nothing of a long answer that is kept", call.id)
        else:
            await call.send(b"", False)

    async def _pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, self.size, BUFFER_BYTES):
            yield await asyncio.to_thread(self._read, start, BUFFER_BYTES)

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="farebox-")  # noqa: SIM115
        self._file.seek(0, 2)
        self._file.write(data)

    def _read(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        return self._file.read(size)
