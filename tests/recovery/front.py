"""What stands before several gateways in the world: it hands each new connection to the next
one that listens."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count


class Front:
    """Relays bytes; `ports` are those of the gateways, `handed` connections by port."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self.handed: Counter[int] = Counter()
        self._turns = count()
        self._open: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            behind = await self._next()
            if behind is not None:
                await asyncio.gather(_pump(reader, behind[1]), _pump(behind[0], writer))
        finally:
            self._open.discard(task)
            writer.close()

    async def _next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self._ports:
            port = self._ports[next(self._turns) % len(self._ports)]
            with suppress(OSError):
                behind = await asyncio.open_connection("127.0.0.1", port)
                self.handed[port] += 1
                return behind
        return None


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()
