"""Streams that a gateway sells by the minute: each one paid as a call, or the stream ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from catalog.models import PriceUnit
from node.gateway.stream_minutes import AHEAD_MINUTES, GRACE_SECONDS
from node.usage.models import Side
from tests.http.conftest import PRICE, Market, Payer, free_port, serving
from tests.streams.compressed import Clock
from tests.streams.socket_world import SocketMarket, socket_market
from tests.streams.test_gateway_events import Events

MINUTE = 60


@dataclass
class Shop:
    """A WebSocket API sold by the minute, on a clock that the test turns."""

    sockets: SocketMarket
    clock: Clock
    payers: dict[int, Payer] = field(default_factory=dict)

    @property
    def market(self) -> Market:
        return self.sockets.market

    async def open(self, path: str = "echo", **options: Any) -> tuple[ClientConnection, Payer]:
        payer = await self.market.payer(len(self.payers) + 1)
        self.payers[len(self.payers)] = payer
        return await self.sockets.paid(payer, path, **options), payer

    async def pay(self, stream: str, payer: Payer) -> httpx.Response:
        """One minute more, by the payer's next voucher."""
        path = f"/v1/api/.farebox/streams/{stream}"
        return await self.market.buy(payer, path, "POST")

    async def pass_(self, seconds: int) -> None:
        """So long passes, and the gateway has looked."""
        self.clock.at += seconds
        await self.market.gateway.minutes.look()

    def paid_until(self, stream: str) -> int:
        sql = "SELECT paid_until FROM stream_session WHERE id = :id"
        return int(self.market.rows(sql, id=stream)[0][0])


@pytest.fixture
async def shop(market: Market) -> AsyncIterator[Shop]:
    async with socket_market(market, price_unit=PriceUnit.MINUTE) as sockets:
        yield Shop(sockets, Clock.of(market.gateway._streams))


def stream_of(connection: ClientConnection) -> str:
    assert connection.response is not None
    return connection.response.headers["farebox-stream"]


async def lives(connection: ClientConnection) -> bool:
    await connection.send("still there?")
    return await connection.recv() == "still there?"


async def closed_with(connection: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(10):
            await connection.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_the_opening_pays_the_first_minute_and_says_until_when(shop: Shop) -> None:
    required = await shop.market.offer("/v1/api/echo")
    base = f"{shop.market.url}/v1/api"
    assert required.extensions
    assert required.extensions["farebox"] == {"unit": "minute", "base": base}
    connection, payer = await shop.open()
    assert connection.response is not None
    headers = connection.response.headers
    assert headers["farebox-stream"] == headers["farebox-call-id"]
    assert int(headers["farebox-paid-until"]) == shop.clock.at + MINUTE
    assert payer.charged == PRICE
    await connection.close()


async def test_a_stream_goes_on_for_as_long_as_each_minute_is_paid(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    for minute in range(1, 6):
        await shop.pass_(MINUTE - 15)
        paid = await shop.pay(stream, payer)
        assert paid.status_code == 200
        assert paid.json() == {
            "stream": stream,
            "paid_until": shop.paid_until(stream),
            "minute_atoms": PRICE,
        }
        assert payer.charged == (minute + 1) * PRICE
        await shop.pass_(15 + GRACE_SECONDS - 1)
        assert await lives(connection)
        shop.clock.at -= GRACE_SECONDS - 1
    rows = shop.market.rows("SELECT path, status, amount_atoms FROM call ORDER BY at_ms, id")
    minutes = [(f"/.farebox/streams/{stream}", 200, PRICE)] * 5
    assert [tuple(row) for row in rows] == [("/echo", 101, PRICE), *minutes]
    await connection.close()


async def test_a_stream_that_nobody_pays_for_ends_after_the_grace_with_the_reason(
    shop: Shop,
) -> None:
    connection, payer = await shop.open()
    await shop.pass_(MINUTE + GRACE_SECONDS - 1)
    assert await lives(connection)
    await shop.pass_(1)
    assert await closed_with(connection) == (4402, "payment_due")
    await _until(lambda: bool(shop.sockets.api.ended))
    assert shop.sockets.api.ended == [(4402, "payment_due")]
    await shop.market.gateway._streams.tick()
    row = shop.market.rows("SELECT state, reason, seconds FROM stream_session")[0]
    assert tuple(row) == ("cut", "payment_due", MINUTE + GRACE_SECONDS)
    assert payer.charged == PRICE


async def test_a_minute_of_a_stream_that_has_ended_costs_nothing(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    offer = await shop.market.offer(f"/v1/api/.farebox/streams/{stream}", "POST")
    await connection.close()
    await _until(lambda: shop.market.gateway._streams.find(stream) is None)
    unpaid = await shop.market.client.post(f"{shop.market.url}/v1/api/.farebox/streams/{stream}")
    assert (unpaid.status_code, unpaid.json()["code"]) == (410, "stream_over")
    paid = await shop.market.buy(
        payer, f"/v1/api/.farebox/streams/{stream}", "POST", required=offer
    )
    assert (paid.status_code, paid.json()["code"]) == (410, "stream_over")
    assert await shop.market.charged(payer) == PRICE
    again, _ = await shop.open()  # and its voucher is still good for something else
    assert await shop.market.charged(payer) == PRICE
    await again.close()


async def test_a_minute_is_bought_once_however_often_it_is_asked_for(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    path = f"/v1/api/.farebox/streams/{stream}"
    header = payer.voucher(await shop.market.offer(path, "POST"))
    answers = [
        await shop.market.client.post(shop.market.url + path, headers={"PAYMENT-SIGNATURE": header})
        for _ in range(3)
    ]
    assert [each.status_code for each in answers] == [200] * 3
    assert len({each.text for each in answers}) == 1
    assert await shop.market.charged(payer) == 2 * PRICE
    assert shop.paid_until(stream) == shop.clock.at + 2 * MINUTE
    await connection.close()


async def test_no_more_than_some_minutes_are_taken_ahead(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    for _ in range(AHEAD_MINUTES - 1):
        assert (await shop.pay(stream, payer)).status_code == 200
    refused = await shop.pay(stream, payer)
    assert (refused.status_code, refused.json()["code"]) == (409, "paid_ahead")
    assert int(refused.headers["retry-after"]) == MINUTE
    assert await shop.market.charged(payer) == AHEAD_MINUTES * PRICE
    await connection.close()


async def test_vouchers_of_several_channels_at_once_each_buy_their_minute(shop: Shop) -> None:
    connection, _ = await shop.open()
    stream = stream_of(connection)
    payers = [await shop.market.payer(seed) for seed in range(20, 28)]
    answers = await asyncio.gather(*(shop.pay(stream, each) for each in payers))
    good = [each for each in answers if each.status_code == 200]
    assert len(good) == AHEAD_MINUTES - 1
    charged = [await shop.market.charged(each) for each in payers]
    assert sum(charged) == len(good) * PRICE
    assert shop.paid_until(stream) == shop.clock.at + AHEAD_MINUTES * MINUTE
    await connection.close()


async def test_a_new_price_does_not_alter_a_stream_that_is_open(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    shop.market.listings[0].price_atoms = 7 * PRICE
    shop.market.listings[0].price_unit = PriceUnit.CALL
    shop.market.reload()
    assert (await shop.pay(stream, payer)).status_code == 200
    assert await shop.market.charged(payer) == 2 * PRICE
    later, other = await shop.open()
    assert other.charged == 7 * PRICE and later.response is not None
    assert "farebox-stream" not in later.response.headers
    await shop.pass_(10 * MINUTE)
    assert await closed_with(connection) == (4402, "payment_due")
    assert await lives(later)
    await later.close()


async def test_a_payment_at_the_last_moment_is_waited_for_once(shop: Shop) -> None:
    connection, payer = await shop.open()
    stream = stream_of(connection)
    shop.clock.at += MINUTE + GRACE_SECONDS
    minutes, seen = shop.market.gateway.minutes, asyncio.Event()
    sell = minutes._sell

    async def slow(stream_id: str, call: Any) -> Any:
        made = await sell(stream_id, call)
        await minutes.look()  # while the charge is on its way
        seen.set()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minutes, "_sell", slow)
        assert (await shop.pay(stream, payer)).status_code == 200
    assert seen.is_set() and await lives(connection)
    await shop.pass_(MINUTE)
    assert await closed_with(connection) == (4402, "payment_due")


async def test_how_a_stream_stands_is_told_for_free(shop: Shop) -> None:
    connection, _ = await shop.open()
    url = f"{shop.market.url}/v1/api/.farebox/streams/{stream_of(connection)}"
    told = await shop.market.client.get(url)
    assert told.json()["state"] == "open"
    assert told.json()["paid_until"] == shop.clock.at + MINUTE
    await connection.close()
    await _until(lambda: shop.market.gateway._streams.find(stream_of(connection)) is None)
    assert (await shop.market.client.get(url)).json()["state"] == "over"
    assert shop.market.rows("SELECT count(*) FROM call")[0][0] == 1


async def test_a_minute_belongs_to_its_own_listing_and_stream(shop: Shop) -> None:
    connection, _ = await shop.open()
    shop.market.sell("other")
    for path in (f"other/.farebox/streams/{stream_of(connection)}", "api/.farebox/streams/nobody"):
        answer = await shop.market.client.post(f"{shop.market.url}/v1/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "stream_unknown")
    stream = stream_of(connection)
    spelled = f"%{ord(stream[0]):02x}{stream[1:]}"  # another spelling of the same id
    answer = await shop.market.client.post(f"{shop.market.url}/v1/api/.farebox/streams/{spelled}")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_resource")
    await connection.close()


class Liar:
    """An API that speaks as if it were a gateway."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"farebox-stream", b"x" * 32), (b"farebox-paid-until", b"9")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"plain"})


async def test_nothing_of_an_upstream_makes_a_buyer_go_on_paying(market: Market) -> None:
    port = free_port()
    async with serving(Liar(), port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.sell(base=f"http://127.0.0.1:{port}")
        answer = await market.buy(await market.payer(), "/v1/api/anything")
    assert (answer.status_code, answer.text) == (200, "plain")
    assert not {"farebox-stream", "farebox-paid-until"} & set(answer.headers)


async def test_a_route_by_the_minute_that_answers_no_stream_is_charged_once(
    market: Market,
) -> None:
    market.sell(price_unit=PriceUnit.MINUTE)
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 200 and "farebox-stream" not in answer.headers
    assert payer.charged == PRICE
    assert market.gateway._streams.by_minute(Side.SERVED) == []


# Events


@contextlib.asynccontextmanager
async def listening(market: Market, payer: Payer, path: str) -> AsyncIterator[httpx.Response]:
    required = await market.offer(path)
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required), "Accept": "text/event-stream"}
    async with market.client.stream("GET", market.url + path, headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        payer.charged = await market.charged(payer)
        yield answer


async def test_events_that_nobody_pays_for_end_with_an_event_that_says_so(
    market: Market,
) -> None:
    port, api = free_port(), Events()
    async with serving(api, port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.sell(base=f"http://127.0.0.1:{port}/base", price_unit=PriceUnit.MINUTE)
        clock = Clock.of(market.gateway._streams)
        payer = await market.payer()
        async with listening(market, payer, "/v1/api/ticks") as answer:
            stream = answer.headers["farebox-stream"]
            assert int(answer.headers["farebox-paid-until"]) == clock.at + MINUTE
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: 0"
            minute = f"/v1/api/.farebox/streams/{stream}"
            assert (await market.buy(payer, minute, "POST")).status_code == 200
            clock.at += MINUTE + GRACE_SECONDS
            await market.gateway.minutes.look()
            api.next.set()
            assert [await anext(lines) for _ in range(2)] == ["", "data: 1"]
            clock.at += MINUTE
            await market.gateway.minutes.look()
            rest = [line async for line in lines]
        await _until(lambda: api.gone == 1)
    assert rest == ["", "event: farebox", 'data: {"code":"payment_due"}', ""]
    assert await market.charged(payer) == 2 * PRICE
    await market.gateway._streams.tick()
    row = market.rows("SELECT state, reason FROM stream_session")[0]
    assert tuple(row) == ("cut", "payment_due")


async def _until(condition: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
