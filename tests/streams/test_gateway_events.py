"""Streams of events (SSE) through the gateway: they come as they happen, and are counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from node.usage.models import Side
from tests.http.conftest import PRICE, SECRET, Market, Payer, free_port, serving


class Events:
    """An API with events: `/ticks` without end, `/silent`, `/break` after one, `/early` before
    one, `/short` a few, `/flood` more than anybody reads. `passed` counts events, `gone` those who
    left. While it is `down` it answers 503."""

    def __init__(self) -> None:
        self.gone, self.asked, self.passed = 0, 0, 0
        self.down, self.delay_seconds = False, 0.0
        self.next = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        kind = scope["path"].split("/")[2]
        self.asked += 1
        if self.down:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await asyncio.sleep(self.delay_seconds)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        if kind == "early":
            headers.append((b"content-length", b"100"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await receive()
        leaving = asyncio.create_task(receive())
        try:
            await getattr(self, f"do_{kind}")(send, leaving)
        finally:
            leaving.cancel()

    async def event(self, send: Any, text: str) -> None:
        body = f"data: {text}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        self.passed += 1

    async def do_ticks(self, send: Any, leaving: asyncio.Task[Any]) -> None:
        number = 0
        while not leaving.done():
            await self.event(send, str(number))
            number += 1
            await asyncio.wait(
                {leaving, asyncio.create_task(self.next.wait())}, return_when="FIRST_COMPLETED"
            )
            self.next.clear()
        self.gone += 1

    async def do_flood(self, send: Any, leaving: asyncio.Task[Any]) -> None:
        while not leaving.done():
            await self.event(send, "x" * 65_536)
            await asyncio.sleep(0)  # a line that is gone takes everything at once
        self.gone += 1

    async def do_break(self, send: Any, leaving: asyncio.Task[Any]) -> None:
        await self.event(send, "one")
        await asyncio.sleep(0.2)  # and no end: the server cuts the connection

    async def do_early(self, send: Any, leaving: asyncio.Task[Any]) -> None:
        return  # and no end, before any event

    async def do_short(self, send: Any, leaving: asyncio.Task[Any]) -> None:
        await self.event(send, "one")
        await asyncio.sleep(0.1)
        await self.event(send, "two")
        await send({"type": "http.response.body", "body": b""})


class Shop:
    """The market with events for sale."""

    def __init__(self, market: Market, api: Events) -> None:
        self.market, self.api = market, api

    @contextlib.asynccontextmanager
    async def listen(self, payer: Payer, kind: str) -> AsyncIterator[tuple[httpx.Response, Any]]:
        required = await self.market.offer(f"/v1/api/{kind}")
        headers = {"PAYMENT-SIGNATURE": payer.voucher(required), "Accept": "text/event-stream"}
        request = self.market.client.stream(
            "GET", f"{self.market.url}/v1/api/{kind}", headers=headers
        )
        async with request as answer:
            payer.charged = await self.market.charged(payer)
            yield answer, answer.aiter_lines()

    async def sessions(self) -> list[tuple[object, ...]]:
        await self.market.gateway._streams.tick()
        return [
            tuple(row)
            for row in self.market.rows("SELECT kind, state, reason, payer FROM stream_session")
        ]


@pytest.fixture
async def shop(market: Market) -> AsyncIterator[Shop]:
    port, api = free_port(), Events()
    async with serving(api, port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.sell(base=f"http://127.0.0.1:{port}/base")
        yield Shop(market, api)


async def test_events_arrive_one_by_one_while_the_channel_serves_other_calls(shop: Shop) -> None:
    payer = await shop.market.payer()
    async with shop.listen(payer, "ticks") as (answer, lines):
        assert "payment-response" in answer.headers and payer.charged == PRICE
        assert await anext(lines) == "data: 0"
        shop.api.next.set()
        assert [await anext(lines), await anext(lines)] == ["", "data: 1"]
        async with shop.listen(payer, "short") as (_, short):
            assert [line async for line in short] == ["data: one", "", "data: two", ""]
        assert ("sse", "open", "", payer_hex(payer)) in await shop.sessions()
    await until(lambda: shop.api.gone == 1)  # a silent stream whose listener left is let go
    await until(lambda: not shop.market.gateway._streams.live(Side.SERVED))
    found = {row[2]: row[0:2] for row in await shop.sessions()}
    assert found == {"caller_closed": ("sse", "ended"), "server_closed": ("sse", "ended")}
    assert await shop.market.charged(payer) == 2 * PRICE


async def test_events_of_an_api_with_a_credential_arrive_as_they_happen(shop: Shop) -> None:
    """Its credential is blotted out of what passes; nothing else is held back for that."""
    base = shop.market.listings.pop().base_url
    secret = {"credential_name": "x-api-key", "credential_secret": SECRET.hex()}
    shop.market.sell(base=base, credential_kind="header", **secret)
    payer = await shop.market.payer()
    async with shop.listen(payer, "ticks") as (_, lines):
        for number in range(3):
            async with asyncio.timeout(5):
                assert [await anext(lines), await anext(lines)] == [f"data: {number}", ""]
            shop.api.next.set()


async def test_events_that_break_off_before_the_first_cost_nothing(shop: Shop) -> None:
    payer = await shop.market.payer()
    async with shop.listen(payer, "early") as (answer, _):
        assert answer.status_code == 502
    assert await shop.market.charged(payer) == 0
    assert await shop.sessions() == []


async def test_events_that_break_off_later_are_seen_to_break_off(shop: Shop) -> None:
    payer = await shop.market.payer()
    with pytest.raises(httpx.RemoteProtocolError):
        async with shop.listen(payer, "break") as (_, lines):
            assert await anext(lines) == "data: one"
            async for _ in lines:
                pass
    (row,) = await shop.sessions()
    assert row[:3] == ("sse", "cut", "server_lost") and row[3] is not None
    assert await shop.market.charged(payer) == PRICE


async def test_a_node_that_stops_ends_events_cleanly(shop: Shop) -> None:
    payer = await shop.market.payer()
    async with shop.listen(payer, "ticks") as (_, lines):
        assert await anext(lines) == "data: 0"
        await shop.market.gateway._streams.close_all()
        assert [line async for line in lines] == [""]  # an end, not an error
    assert (await shop.sessions())[0][1:3] == ("cut", "node_stopped")
    assert await shop.market.charged(payer) == PRICE


def payer_hex(payer: Payer) -> str:
    return "0x" + payer.config.payer.hex()


async def until(condition: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
