"""Servers that end early: one dies over a request, and nobody learns what it made of it; one waits
for no slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def hanging_up(
    answer: bytes, then: Callable[[asyncio.Server], None] = asyncio.Server.close
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Gives `answer` to the first request of a connection and hangs up over the second, with
    `then` called before. Yields its port and the heads that it has read."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        then(server)
        writer.transport.abort()

    async with _listening(serve) as server:
        yield server.sockets[0].getsockname()[1], heads


@asynccontextmanager
async def impatient(size: int, seconds: float) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Answers each request with `size` bytes, and hangs up on whoever takes nothing of them for
    `seconds`. Yields its port, and what tells that it did."""
    gave_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        try:
            for _ in range(size >> 16):
                writer.write(bytes(1 << 16))
                async with asyncio.timeout(seconds):
                    await writer.drain()
        except TimeoutError:
            gave_up.set()
        writer.transport.abort()

    async with _listening(serve) as server:
        yield server.sockets[0].getsockname()[1], gave_up


@asynccontextmanager
async def _listening(serve: Serve) -> AsyncIterator[asyncio.Server]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server
    finally:
        server.close()
