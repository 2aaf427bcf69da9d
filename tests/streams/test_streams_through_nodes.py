"""Streams from a buyer's app through both nodes to an API: processes, a chain, real money."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from finance.ledger import Account
from tests.chain_fixtures import DevchainProcess
from tests.recovery import market_world
from tests.recovery.market_world import PRICE, SLUG, SOAK, Market, open_market

NEXT = 0.5  # seconds between events


class StreamApi(market_world.Api):
    """The API for sale, with `/answer/socket` and `/answer/events` beside its answers."""

    async def _answer(self, request: web.Request) -> Any:
        match request.match_info["name"]:
            case "socket":
                return await self._socket(request)
            case "events":
                return await self._events(request)
        return await super()._answer(request)

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        self.headers += [each for each in request.headers if "farebox" in str(each).lower()]
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"heard {message.data}")
        return socket

    async def _events(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        number = 0
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b"data: %d\n\n" % number)
                number += 1
                await asyncio.sleep(NEXT)
        return answer


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


def open_socket(market: Market, **options: Any) -> Any:
    url = f"ws://127.0.0.1:{market.buyer.console_port}/call/{SLUG}/answer/socket"
    headers = {"Authorization": f"Bearer {market.secret}"}
    return connect(url, **{"additional_headers": headers, "proxy": None, **options})


async def say(connection: ClientConnection, word: str) -> None:
    await connection.send(word)
    assert await connection.recv() == f"heard {word}"


@contextlib.asynccontextmanager
async def listen(market: Market) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"http://127.0.0.1:{market.buyer.console_port}/call/{SLUG}/answer/events"
    headers = {"Authorization": f"Bearer {market.secret}", "Accept": "text/event-stream"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with market.session.get(url, headers=headers, timeout=timeout) as answer:
        assert answer.status == 200, await answer.text()
        yield answer


async def test_streams_are_paid_counted_and_ended_through_restarts_and_kills(
    chain: DevchainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_world, "Api", StreamApi)
    async with open_market(chain, tmp_path) as market:
        await _first_stream_opens_its_channel(market)
        await _browsers_bring_the_secret_as_a_subprotocol(market)
        await _a_wrong_secret_is_refused(market)
        paid = 3 + await _events_pass(market)
        await _a_restart_ends_streams_cleanly(market)
        paid += 3
        await _a_kill_leaves_the_last_tick(market)
        paid += 1
        await market.all_settled()
        await market.claim_all()
        assert await market.seller.booked(Account.CHARGED) == paid * PRICE
        assert await market.buyer.booked(Account.SPENT) == -paid * PRICE
        await market.reconcile()
        assert not market.api.headers, "secrets or payments reached the API"


async def _first_stream_opens_its_channel(market: Market) -> None:
    """The handshake is paid by a deposit that is on the chain before the 101 is here."""
    async with open_socket(market, subprotocols=["chat"]) as connection:
        assert connection.response.headers["farebox-cost"] == "0.001"
        assert connection.response.headers["farebox-scheme"] == "batch-settlement"
        assert connection.subprotocol == "chat"
        await say(connection, "first")
        async with open_socket(market) as second:  # by the same channel, while that is open
            await say(second, "second")
    assert await market.buyer.number("SELECT COUNT(*) FROM buyer_channel") == 1
    calls = await market.buyer.rows("SELECT status, amount_atoms FROM call")
    assert [tuple(row) for row in calls] == [(101, PRICE)] * 2


async def _browsers_bring_the_secret_as_a_subprotocol(market: Market) -> None:
    offered = ["farebox", f"farebox.bearer.{market.secret}"]
    async with open_socket(market, additional_headers={}, subprotocols=offered) as connection:
        assert connection.subprotocol == "farebox"
        await say(connection, "browser")


async def _a_wrong_secret_is_refused(market: Market) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await open_socket(market, additional_headers={"Authorization": "Bearer wrong"})
    assert refused.value.response.status_code == 401
    assert b"secret_invalid" in (refused.value.response.body or b"")


async def _events_pass(market: Market) -> int:
    """How many calls it cost."""
    async with listen(market) as answer:
        assert answer.headers["Farebox-Cost"] == "0.001"
        started = time.monotonic()
        assert await answer.content.readline() == b"data: 0\n"
        assert await answer.content.readline() == b"\n"
        assert await answer.content.readline() == b"data: 1\n"
        assert time.monotonic() - started < 10
        async with open_socket(market) as beside:
            await say(beside, "beside")
    for node in market.nodes:
        await _ended(market, node, "sse", "caller_closed")
    return 2


async def _ended(market: Market, node: Any, kind: str, reason: str) -> None:
    async def written() -> bool:
        query = "SELECT COUNT(*) FROM stream_session WHERE kind = :kind AND reason = :reason"
        return await node.number(query, kind=kind, reason=reason) > 0

    await market_world.until(f"{node.name}: {kind} {reason}", written, 20)


async def _a_restart_ends_streams_cleanly(market: Market) -> None:
    sockets = [await open_socket(market) for _ in range(2)]
    async with listen(market) as events:
        await events.content.readline()
        started = time.monotonic()
        await asyncio.sleep(2.1)
        await market.seller.stop()
        assert time.monotonic() - started < 15
        for each in sockets:
            with pytest.raises(ConnectionClosed) as closed:
                await each.recv()
            rcvd = closed.value.rcvd
            assert rcvd is not None and (rcvd.code, rcvd.reason) == (1001, "node_stopped")
        while await events.content.readline():  # its end, not an error
            pass
    rows = await market.seller.rows(
        "SELECT seconds FROM stream_session WHERE reason = 'node_stopped' AND state = 'cut'"
    )
    assert len(rows) == 3 and all(2 <= row[0] <= 15 for row in rows)
    await market.seller.start()


async def _a_kill_leaves_the_last_tick(market: Market) -> None:
    socket = await open_socket(market)
    await say(socket, "before the kill")
    if SOAK:
        await asyncio.sleep(16)  # one tick
    await market.seller.kill_9()
    with pytest.raises(ConnectionClosed) as closed:
        await socket.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1014
    await market.seller.start()
    rows = await market.seller.rows(
        "SELECT seconds, ended_at - started_at FROM stream_session WHERE reason = 'node_lost'"
    )
    assert len(rows) == SOAK  # what no tick has seen is lost: some seconds, never more
    assert all(1 <= row[0] == row[1] <= 17 for row in rows)
    await _ended(market, market.buyer, "websocket", "server_lost")
