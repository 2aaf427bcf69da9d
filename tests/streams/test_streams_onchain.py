"""Streams opened by a payment that moves money on a real chain: by any x402 client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from catalog.models import PriceUnit
from finance.models import PaymentState
from finance.x402.wire import decode_response
from tests.http.conftest import PRICE, Market, free_port, serving
from tests.http.test_gateway_onchain import header, market, open_seller, world
from tests.recovery.seller_world import Payer, World, usdc_of
from tests.streams.socket_world import SocketMarket, socket_market
from tests.streams.test_gateway_events import Events

__all__ = ["market", "world"]


async def in_chunks() -> AsyncIterator[bytes]:
    yield b'{"topic": "ticks"}'


@pytest.fixture
async def sockets(market: Market) -> AsyncIterator[SocketMarket]:
    market.listings.clear()
    async with socket_market(market) as sockets:
        yield sockets


@asynccontextmanager
async def selling_events(
    market: Market, price_unit: PriceUnit = PriceUnit.CALL
) -> AsyncIterator[Events]:
    port, api = free_port(), Events()
    async with serving(api, port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.listings.clear()
        market.sell(base=f"http://127.0.0.1:{port}/base", price_unit=price_unit)
        yield api


async def test_an_exact_payment_opens_one_stream_once_its_money_has_arrived(
    sockets: SocketMarket, world: World
) -> None:
    required = await sockets.market.offer("/v1/api/echo")
    signed = header(required, world.exact(Payer(world.chain)))["PAYMENT-SIGNATURE"]
    async with sockets.open("echo", signed) as connection:
        receipt = decode_response(connection.response.headers["payment-response"])
        assert receipt.success and receipt.transaction.startswith("0x")
        assert usdc_of(world.chain, world.wallet.address) == PRICE
        await connection.send("paid")
        assert await connection.recv() == "paid"
        assert await _refused(sockets, signed) == (409, "stream_opened")
    assert len(sockets.api.seen) == 1
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_a_socket_whose_money_comes_late_is_opened_when_it_is_asked_for_again(
    world: World,
) -> None:
    async with open_seller(world, 6) as market:
        market.listings.clear()
        async with socket_market(market) as sockets:
            required = await market.offer("/v1/api/echo")
            signed = header(required, world.exact(Payer(world.chain)))["PAYMENT-SIGNATURE"]
            world.chain.rpc("evm_setAutomine", False)
            assert await _refused(sockets, signed) == (504, "settlement_pending")
            world.chain.rpc("evm_setAutomine", True)
            world.chain.rpc("evm_mine")
            async with sockets.open("echo", signed) as connection:
                receipt = decode_response(connection.response.headers["payment-response"])
                assert receipt.success and receipt.transaction.startswith("0x")
                await connection.send("late")
                assert await connection.recv() == "late"
                assert await _refused(sockets, signed) == (409, "stream_opened")
            await market.settled()
            assert market.rows("SELECT status, amount_atoms FROM call") == [(101, PRICE)]
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def _refused(sockets: SocketMarket, signed: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        await sockets.open("echo", signed)
    told = json.loads(refused.value.response.body or b"")
    return told["status"], told["code"]


async def test_a_refused_upgrade_leaves_the_authorization_good(
    sockets: SocketMarket, world: World
) -> None:
    required = await sockets.market.offer("/v1/api/refuse/503")
    signed = header(required, world.exact(Payer(world.chain)))["PAYMENT-SIGNATURE"]
    with pytest.raises(InvalidStatus):
        await sockets.open("refuse/503", signed)
    assert world.count(PaymentState.RELEASED) == 1
    async with sockets.open("echo", signed):
        assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_events_without_end_begin_once_their_deposit_is_on_the_chain(
    market: Market, world: World
) -> None:
    async with selling_events(market) as api:
        deposit = world.deposit(Payer(world.chain), 10 * PRICE)
        headers = header(await market.offer("/v1/api/ticks"), deposit)
        url = market.url + "/v1/api/ticks"
        async with market.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200 and "payment-response" in answer.headers
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: 0"
            again = await market.client.get(url, headers=headers)
            assert (again.status_code, again.json()["code"]) == (409, "stream_opened")
        async with asyncio.timeout(5):
            while not api.gone:
                await asyncio.sleep(0.01)
    channel = world.channel(deposit.channel_id)
    assert (channel.balance_atoms, channel.charged_atoms) == (10 * PRICE, PRICE)


async def test_events_whose_money_comes_late_are_opened_when_they_are_asked_for_again(
    world: World,
) -> None:
    """The first request ends with 504; nothing was given for what is on its way. Nor are they
    given by a request that found the API down, or left before they began."""
    async with open_seller(world, 6) as market, selling_events(market) as api:
        headers = header(await market.offer("/v1/api/ticks"), world.exact(Payer(world.chain)))
        url = market.url + "/v1/api/ticks"
        world.chain.rpc("evm_setAutomine", False)
        late = await market.client.get(url, headers=headers)
        assert (late.status_code, late.json()["code"]) == (504, "settlement_pending")
        world.chain.rpc("evm_setAutomine", True)
        world.chain.rpc("evm_mine")
        api.down = True
        assert (await market.client.get(url, headers=headers)).status_code == 503
        api.down, api.delay_seconds = False, 0.5
        asked = api.asked
        with pytest.raises(httpx.ReadTimeout):
            await market.client.get(url, headers=headers, timeout=0.25)
        await asyncio.sleep(0.5)
        assert api.asked == asked + 1
        async with market.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            receipt = decode_response(answer.headers["payment-response"])
            assert receipt.success and receipt.transaction.startswith("0x")
            assert await anext(answer.aiter_lines()) == "data: 0"
            again = await market.client.get(url, headers=headers)
            assert (again.status_code, again.json()["code"]) == (409, "stream_opened")
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_events_whose_caller_left_before_their_money_came_are_opened_when_asked_for_again(
    market: Market, world: World
) -> None:
    async with selling_events(market):
        headers = header(await market.offer("/v1/api/ticks"), world.exact(Payer(world.chain)))
        url = market.url + "/v1/api/ticks"
        world.chain.rpc("evm_setAutomine", False)
        asked = asyncio.create_task(market.client.get(url, headers=headers))
        await until(lambda: world.count(PaymentState.SENT))
        asked.cancel()
        await asyncio.sleep(0.2)
        world.chain.rpc("evm_setAutomine", True)
        world.chain.rpc("evm_mine")
        await until(lambda: world.count(PaymentState.CONFIRMED))
        await asyncio.sleep(0.5)  # its first request has ended
        async with market.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            assert await anext(answer.aiter_lines()) == "data: 0"
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not holds():
            await asyncio.sleep(0.05)


async def test_events_asked_for_in_chunks_are_opened_late_with_what_was_asked(world: World) -> None:
    async with open_seller(world, 6) as market, selling_events(market) as api:
        required = await market.offer("/v1/api/ticks", "POST")
        headers = header(required, world.exact(Payer(world.chain)))
        url = market.url + "/v1/api/ticks"
        world.chain.rpc("evm_setAutomine", False)
        late = await market.client.post(url, headers=headers, content=in_chunks())
        assert (late.status_code, late.json()["code"]) == (504, "settlement_pending")
        world.chain.rpc("evm_setAutomine", True)
        world.chain.rpc("evm_mine")
        again = {"headers": headers, "content": in_chunks()}
        async with market.client.stream("POST", url, **again) as answer:
            assert answer.status_code == 200
            assert await anext(answer.aiter_lines()) == "data: 0"
        assert api.asked == 2


async def test_minutes_whose_money_is_on_its_way_prolong_a_stream_one_at_a_time(
    market: Market, world: World
) -> None:
    """It may never come: a wallet signs for as many as it likes."""
    async with selling_events(market, PriceUnit.MINUTE):
        opening = header(await market.offer("/v1/api/ticks"), world.exact(Payer(world.chain)))
        async with market.client.stream(
            "GET", market.url + "/v1/api/ticks", headers=opening
        ) as answer:
            until = int(answer.headers["farebox-paid-until"])
            path = f"/v1/api/.farebox/streams/{answer.headers['farebox-stream']}"
            payer, required = Payer(world.chain, PRICE), await market.offer(path, "POST")
            minutes = [header(required, world.exact(payer)) for _ in range(2)]
            world.chain.rpc("evm_setAutomine", False)
            paying = asyncio.create_task(market.client.post(market.url + path, headers=minutes[0]))
            while not world.count(PaymentState.SENT):
                await asyncio.sleep(0.01)
            second = await market.client.post(market.url + path, headers=minutes[1])
            world.chain.rpc("evm_setAutomine", True)
            world.chain.rpc("evm_mine")
            assert (second.status_code, second.json()["code"]) == (409, "paid_ahead")
            assert (await paying).json()["paid_until"] == until + 60
            assert (await market.client.get(market.url + path)).json()["paid_until"] == until + 60
            assert world.count(PaymentState.RELEASED) == 1
