"""A payment identifier buys one answer, also where the answer is given while it comes."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from finance.x402.extensions import PAYMENT_IDENTIFIER
from finance.x402.wire import decode_response
from tests.http.conftest import PRICE, Market, Payer, free_port, serving
from tests.laws.worlds import second_process
from tests.streams.test_gateway_events import Events

NAME = "order-0123456789abcdef"
LONG = "/v1/api/stream/9/65536"  # above what is held back until it is whole


async def payment(market: Market, payer: Payer, due: int = PRICE, path: str = LONG) -> Any:
    identifier = {PAYMENT_IDENTIFIER: {"info": {"required": False, "id": NAME}}}
    signed = payer.voucher(await market.offer(path), due, extensions=identifier)
    return {"PAYMENT-SIGNATURE": signed}


async def booked(market: Market) -> None:
    """A long answer is booked as delivered after its last byte has left."""
    while market.gateway._desk.in_flight:
        await asyncio.sleep(0.005)


async def test_a_long_answer_is_bought_once_under_its_identifier(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    url = market.url + LONG
    first = await payment(market, payer)
    bought = await market.client.get(url, headers=first)
    assert bought.status_code == 200 and len(bought.content) == 9 * 65536
    await booked(market)
    again = await market.client.get(url, headers=first)
    other = await market.client.get(url, headers=await payment(market, payer, 2 * PRICE))
    assert (again.status_code, again.json()["code"]) == (409, "stream_opened")
    assert again.headers["payment-response"] == bought.headers["payment-response"]
    assert decode_response(again.headers["payment-response"]).charged_amount == PRICE
    assert (other.status_code, other.json()["code"]) == (409, "payment_identifier_conflict")
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


async def test_another_process_sells_no_second_long_answer_under_the_identifier(
    market: Market,
) -> None:
    market.sell()
    payer = await market.payer()
    await market.client.get(market.url + LONG, headers=await payment(market, payer))
    await booked(market)
    headers = await payment(market, payer, 2 * PRICE)
    async with second_process(market) as second:
        refused = await market.client.get(second + LONG, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment_identifier_conflict")
    assert await market.charged(payer) == PRICE


async def test_a_long_answer_that_broke_off_leaves_its_identifier_free(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    breaking = "/v1/api/break/600000"
    headers = await payment(market, payer, path=breaking)
    with pytest.raises(httpx.RemoteProtocolError):
        await market.client.get(market.url + breaking, headers=headers)
    await booked(market)
    assert await market.charged(payer) == 0
    bought = await market.client.get(market.url + LONG, headers=headers)
    assert bought.status_code == 200 and len(bought.content) == 9 * 65536
    assert await market.charged(payer) == PRICE


async def test_a_stream_of_events_is_bought_once_under_its_identifier(market: Market) -> None:
    port, api = free_port(), Events()
    async with serving(api, port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.sell(base=f"http://127.0.0.1:{port}/base")
        payer = await market.payer()
        url = market.url + "/v1/api/ticks"
        headers = await payment(market, payer, path="/v1/api/ticks")
        async with market.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200
            assert await anext(answer.aiter_lines()) == "data: 0"
            again = await market.client.get(url, headers=headers)
            second = await payment(market, payer, 2 * PRICE, "/v1/api/ticks")
            other = await market.client.get(url, headers=second)
        async with asyncio.timeout(5):
            while not api.gone:
                await asyncio.sleep(0.01)
    assert (again.status_code, again.json()["code"]) == (409, "stream_opened")
    assert (other.status_code, other.json()["code"]) == (409, "payment_identifier_conflict")
    assert await market.charged(payer) == PRICE
