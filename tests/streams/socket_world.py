"""An API that speaks WebSocket and events, and a gateway in front of it as a node serves it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from node.lines.websocket import MAX_MESSAGE_BYTES
from node.server import make_server
from tests.http.conftest import Market, Payer, free_port


@dataclass
class Api:
    """The upstream: what it does is its path. `seen` are the handshakes, `ended` how each
    connection ended (code, reason)."""

    url: str
    seen: list[Request] = field(default_factory=list)
    ended: list[tuple[int | None, str | None]] = field(default_factory=list)
    sent: int = 0
    live: set[ServerConnection] = field(default_factory=set)

    def refuse(self, connection: ServerConnection, request: Request) -> Response | None:
        self.seen.append(request)
        path = request.path.partition("?")[0].removeprefix("/base").split("/")
        match path[1]:
            case "refuse":
                return Response(int(path[2]), "No", Headers([("X-Why", "refused")]), b"refused")
            case "plain":
                body = b"no socket here"
                return Response(200, "OK", Headers([("Content-Length", str(len(body)))]), body)
        return None

    async def talk(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        path = connection.request.path.partition("?")[0].removeprefix("/base").split("/")
        self.live.add(connection)
        try:
            await getattr(self, f"do_{path[1]}")(connection, path[2:])
        finally:
            self.live.discard(connection)
            with contextlib.suppress(Exception):
                await asyncio.wait_for(connection.wait_closed(), 5)
            self.ended.append((connection.close_code, connection.close_reason))

    async def do_echo(self, connection: ServerConnection, _: list[str]) -> None:
        async for message in connection:
            await connection.send(message)

    async def do_parts(self, connection: ServerConnection, _: list[str]) -> None:
        """Answers in fragments, one byte each."""
        async for message in connection:
            await connection.send([message[n : n + 1] for n in range(len(message))])

    async def do_close(self, connection: ServerConnection, parts: list[str]) -> None:
        await connection.send("last words")
        await connection.close(int(parts[0]), "/".join(parts[1:]))

    async def do_abort(self, connection: ServerConnection, _: list[str]) -> None:
        await connection.send("last words")
        await asyncio.sleep(0.05)
        connection.transport.abort()

    async def do_flood(self, connection: ServerConnection, parts: list[str]) -> None:
        block = b"x" * int(parts[0])
        while True:
            await connection.send(block)
            self.sent += len(block)

    async def do_idle(self, connection: ServerConnection, _: list[str]) -> None:
        await connection.wait_closed()

    async def do_deaf(self, connection: ServerConnection, _: list[str]) -> None:
        await connection.wait_closed()  # and takes nothing

    async def do_ping(self, connection: ServerConnection, _: list[str]) -> None:
        await (await connection.ping(b"are you there"))
        await connection.send("the pong came")
        await connection.wait_closed()


def _choose(connection: ServerConnection, offered: Any) -> Any:
    return next((each for each in offered if each == "chat.v2"), None)


@contextlib.asynccontextmanager
async def running_api() -> AsyncIterator[Api]:
    port = free_port()
    api = Api(f"http://127.0.0.1:{port}")
    server: Server = await serve(
        api.talk,
        "127.0.0.1",
        port,
        process_request=api.refuse,
        select_subprotocol=_choose,
        compression=None,
        max_size=4 * MAX_MESSAGE_BYTES,
        ping_interval=None,
    )
    try:
        yield api
    finally:
        for connection in list(api.live):
            connection.transport.abort()
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def node_serving(app: Any, drain_seconds: int = 5) -> AsyncIterator[str]:
    """`app` served as a node does; its ws:// address."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, drain_seconds)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        listener.close()


@dataclass
class SocketMarket:
    """A gateway (`ws`: its address) that sells `api` as /v1/api."""

    market: Market
    api: Api
    ws: str

    def open(
        self,
        path: str,
        payment: str | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        """`async with` it, or await it: the official client."""
        sent = dict(headers or {})
        if payment is not None:
            sent["PAYMENT-SIGNATURE"] = payment
        options = {"compression": None, "ping_interval": None, "max_size": None, **options}
        return connect(f"{self.ws}/v1/api/{path}", additional_headers=sent, proxy=None, **options)

    async def paid(self, payer: Payer, path: str, **options: Any) -> ClientConnection:
        """Opened with the payer's next voucher."""
        required = await self.market.offer(f"/v1/api/{path}")
        connection: ClientConnection = await self.open(path, payer.voucher(required), **options)
        payer.charged = await self.market.charged(payer)
        return connection


@contextlib.asynccontextmanager
async def socket_market(market: Market, **fields: Any) -> AsyncIterator[SocketMarket]:
    async with running_api() as api, node_serving(market.gateway) as ws:
        market.seller.egress.allow_also([api.url.removeprefix("http://")])
        market.sell(base=api.url + "/base", **fields)
        yield SocketMarket(market, api, ws)
        await market.settled()
