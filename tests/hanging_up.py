"""A server that dies over a request: it has read it, and nobody learns what it made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


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

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
