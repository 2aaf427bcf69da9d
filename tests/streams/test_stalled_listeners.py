"""Listeners that hold their line and read nothing: their events end when those of others do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from catalog.models import PriceUnit
from node.gateway.stream_minutes import GRACE_SECONDS
from node.usage.keys import revoke_key
from node.usage.models import Side
from node.usage.stream_rows import StreamSession
from tests.http.conftest import PRICE, Market, free_port, serving
from tests.http.proxy_world import SECRET, BuyerNode
from tests.laws.conftest import buyer
from tests.streams.compressed import Clock
from tests.streams.socket_world import node_serving
from tests.streams.test_gateway_events import Events, until

__all__ = ["buyer"]

MINUTE = 60
# What is let go takes CLOSE_SECONDS; the machine may be busy.
SOON = 15


@contextlib.asynccontextmanager
async def stalled(url: str, path: str, headers: dict[str, str], api: Events) -> AsyncIterator[None]:
    """A listener that asks for events, and reads none of what fills the line."""
    where = urlsplit(url)
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.setblocking(False)
    sent = {"Host": where.netloc, "Accept": "text/event-stream", **headers}
    asked = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    loop = asyncio.get_running_loop()
    with line:
        await loop.sock_connect(line, (where.hostname, where.port))
        await loop.sock_sendall(line, f"GET {path} HTTP/1.1\r\n{asked}\r\n".encode())
        async with asyncio.timeout(SOON):
            seen = -1
            while api.passed == 0 or api.passed != seen:
                seen = api.passed
                await asyncio.sleep(0.3)
        yield


@pytest.fixture
async def events() -> AsyncIterator[tuple[str, Events]]:
    port, api = free_port(), Events()
    async with serving(api, port):
        yield f"127.0.0.1:{port}", api


async def test_events_that_nobody_pays_for_end_for_a_caller_that_reads_nothing(
    market: Market, events: tuple[str, Events]
) -> None:
    where, api = events
    market.seller.egress.allow_also([where])
    market.sell(base=f"http://{where}/base", price_unit=PriceUnit.MINUTE)
    streams, payer = market.gateway._streams, await market.payer()
    clock = Clock.of(streams)
    paid = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/flood"))}
    async with stalled(market.url, "/v1/api/flood", paid, api):
        clock.at += MINUTE + GRACE_SECONDS
        await market.gateway.minutes.look()
        await until(lambda: not streams.live(Side.SERVED), SOON)
        await streams.tick()
    rows = market.rows("SELECT state, reason, seconds FROM stream_session")
    assert [tuple(row) for row in rows] == [("cut", "payment_due", MINUTE + GRACE_SECONDS)]
    assert await market.charged(payer) == PRICE


async def test_a_revoked_key_holds_no_events_that_its_app_does_not_read(
    buyer: BuyerNode, events: tuple[str, Events]
) -> None:
    where, api = events
    buyer.list("api", f"http://{where}/base")
    async with buyer.running() as proxy, node_serving(proxy.proxy) as ws:
        secret = {"Authorization": f"Bearer {SECRET}"}
        async with stalled(ws, "/call/api/flood", secret, api):
            streams = proxy.proxy._streams
            assert streams.live(Side.BOUGHT)
            revoke_key(buyer.engine, "key-1", 2)
            await proxy.proxy.reload()
            await until(lambda: not streams.live(Side.BOUGHT), SOON)
            await streams.tick()
    (row,) = buyer.rows(StreamSession)
    assert (row.state, row.reason) == ("cut", "secret_invalid")
