"""Only what was delivered is charged (law 3)."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from finance.store import Batch, Write
from finance.x402.wire import decode_required
from tests.http.conftest import PRICE, SECRET, Market, Payer, free_port


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 301, 304])
async def test_an_error_or_redirect_of_the_upstream_costs_nothing(
    market: Market, status: int
) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, f"/v1/api/status/{status}")
    assert answer.status_code == status
    assert "payment-response" not in answer.headers
    assert await market.charged(payer) == 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200
    assert await market.charged(payer) == PRICE


async def test_a_not_modified_answer_costs_nothing(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/etag", headers={"If-None-Match": '"v1"'})
    assert (answer.status_code, answer.content) == (304, b"")
    assert await market.charged(payer) == 0


@pytest.mark.parametrize("path", ["redirect", "redirect/by-path"])
async def test_a_redirect_is_not_followed_and_points_at_the_gateway(
    market: Market, path: str
) -> None:
    market.sell(credential_kind="query", credential_name="key", credential_secret=SECRET.hex())
    payer, ours = await market.payer(), market.url + "/v1/api"
    answer = await market.buy(payer, f"/v1/api/{path}?a=1")
    assert answer.status_code == 302
    assert answer.headers["location"] == f"{ours}/echo?a=1"
    assert answer.headers["link"] == f"<{ours}/page/2>; rel=next, <{ours}>; rel=first"
    assert list(market.upstream.calls) == [f"/base/{path}"]
    assert await market.charged(payer) == 0


async def test_a_path_of_an_api_at_the_root_of_its_host_becomes_one_at_the_gateway(
    market: Market,
) -> None:
    market.sell(base=market.upstream_url, price_atoms=0)
    answer = await market.client.get(market.url + "/v1/api/redirect/by-path")
    assert answer.headers["location"] == market.url + "/v1/api/base/echo"


async def test_an_unreachable_upstream_is_504_and_costs_nothing(market: Market) -> None:
    market.sell(base=f"http://127.0.0.1:{free_port()}")
    market.seller.egress.allow_also(["127.0.0.1"])  # only the port is wrong
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 504
    assert answer.json()["code"] == "upstream_unreachable"
    assert await market.charged(payer) == 0


async def test_an_upstream_with_an_international_name_is_asked_for_by_that_name(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not by one that an older reading makes of it: the credential would go there."""
    names, look_up = [], socket.getaddrinfo

    def asked(host: Any, *rest: Any, **options: Any) -> Any:
        names.append(host)
        return look_up("127.0.0.1" if host != "127.0.0.1" else host, *rest, **options)

    port = market.upstream_url.rpartition(":")[2]
    market.seller.egress.allow_also([f"xn--fa-hia.example:{port}"])
    market.sell(base=f"http://faß.example:{port}/base", price_atoms=0)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", asked)
        answer = await market.client.get(market.url + "/v1/api/echo")
    assert answer.status_code == 200
    assert {name for name in names if "example" in name} == {"xn--fa-hia.example"}


async def test_a_private_upstream_is_refused_unless_the_operator_allows_it(
    market: Market,
) -> None:
    for base in (
        "http://127.0.0.1:1",
        "http://localhost:1",
        "http://169.254.169.254",
        "http://[::1]:1",
    ):
        market.listings.clear()
        market.sell(base=base)
        payer = await fresh(market)
        answer = await market.buy(payer, "/v1/api/echo")
        assert answer.status_code == 504, base
        assert base.split("//")[1] not in answer.text
        assert await market.charged(payer) == 0


async def fresh(market: Market) -> Payer:
    count = market.rows("SELECT count(*) FROM seller_channel")[0][0]
    return await market.payer(int(count) + 1)


async def test_a_slow_upstream_is_504_and_costs_nothing(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/slow/10")
    assert answer.status_code == 504 and answer.json()["code"] == "upstream_timeout"
    assert await market.charged(payer) == 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


@pytest.mark.parametrize("size", [1_000, 400_000])
async def test_an_answer_that_breaks_off_costs_nothing(market: Market, size: int) -> None:
    market.sell()
    payer = await market.payer()
    path = f"/v1/api/break/{size}"
    if size < 256 * 1024:
        assert (await market.buy(payer, path)).status_code == 502
    else:  # longer than is held back: the caller sees it break off
        with pytest.raises(httpx.RemoteProtocolError):
            await market.buy(payer, path)
    await until(lambda: not market.rows("SELECT 1 FROM seller_channel WHERE streaming_atoms > 0"))
    assert await market.charged(payer) == 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_an_api_that_gives_no_answer_has_failed_in_the_books(market: Market) -> None:
    """As one that answers with an error: its owner sees it among the errors, and is told."""
    market.sell()
    market.sell("free", price_atoms=0)
    market.sell("gone", base=f"http://127.0.0.1:{free_port()}")
    market.seller.egress.allow_also(["127.0.0.1"])
    payer = await market.payer()
    for path in ("/v1/gone/echo", "/v1/api/break/1000"):
        assert (await market.buy(payer, path)).status_code >= 502
    with pytest.raises(httpx.RemoteProtocolError):
        await market.buy(payer, "/v1/api/break/400000")
    assert (await market.client.get(market.url + "/v1/free/break/1000")).status_code == 502
    await market.settled()
    known = "SELECT path, status, error, payer, amount_atoms FROM call"
    who = "0x" + payer.config.payer.hex()
    assert {tuple(row) for row in market.rows(known)} == {
        ("/echo", 504, "upstream_unreachable", who, 0),
        ("/break/1000", 502, "upstream_failed", who, 0),
        ("/break/400000", 502, "upstream_failed", who, 0),
        ("/break/1000", 502, "upstream_failed", None, 0),
    }
    assert tuple(market.rows("SELECT SUM(calls), SUM(errors) FROM call_rollup")[0]) == (4, 4)


async def test_a_long_answer_is_streamed_and_charged_once(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/stream/50/20000")
    assert len(answer.content) == 1_000_000 and "payment-response" in answer.headers
    await until(lambda: bool(market.rows("SELECT 1 FROM call WHERE status = 200")))
    (row,) = market.rows("SELECT charged_atoms, streaming_atoms FROM seller_channel")
    assert tuple(row) == (PRICE, 0)


async def test_a_caller_may_ask_again_as_soon_as_it_has_a_long_answer(market: Market) -> None:
    """The database takes its time to note that it was given whole."""
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    address = market.url + "/v1/api/stream/200/65536"
    busy = sqlite3.connect(str(market.journal.engine.url.database), isolation_level=None)
    async with market.client.stream("GET", address, headers=headers) as answer:
        busy.execute("BEGIN IMMEDIATE")
        assert len(await answer.aread()) == 200 * 65536
    payer.charged = PRICE
    again = asyncio.create_task(market.buy(payer, "/v1/api/echo", required=required))
    await asyncio.sleep(0.3)
    busy.execute("ROLLBACK")
    busy.close()
    assert (await again).status_code == 200
    assert await market.charged(payer) == 2 * PRICE


async def test_a_stream_cut_by_a_crash_is_taken_back_at_the_next_start(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    await market.buy(payer, "/v1/api/echo")
    cut = text("UPDATE seller_channel SET streaming_atoms = charged_atoms")
    await market.journal.commit(Batch([Write(cut, {})]))
    undo = text("DELETE FROM call"), text("DELETE FROM call_rollup")
    await market.journal.commit(Batch([Write(each, {}, rows=None) for each in undo]))
    await market.gateway.start()
    assert await market.charged(payer) == 0


async def test_a_caller_who_leaves_pays_nothing_and_keeps_the_voucher(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/slow/0.6")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    with pytest.raises(httpx.ReadTimeout):
        await market.client.get(market.url + "/v1/api/slow/0.6", headers=headers, timeout=0.25)
    await asyncio.sleep(0.6)
    assert await market.charged(payer) == 0
    answer = await market.client.get(market.url + "/v1/api/slow/0.6", headers=headers)
    assert answer.status_code == 200
    assert await market.charged(payer) == PRICE


async def test_a_caller_who_leaves_at_once_pays_nothing(market: Market) -> None:
    """Sooner than a call is watched: it is asked just before the charge."""
    market.sell()
    payer = await market.payer()
    header = payer.voucher(await market.offer("/v1/api/slow/0.05"))
    _, writer = await asyncio.open_connection("127.0.0.1", int(market.url.rsplit(":")[-1]))
    writer.write(
        f"GET /v1/api/slow/0.05 HTTP/1.1\r\nHost: x\r\nPAYMENT-SIGNATURE: {header}\r\n\r\n".encode()
    )
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.transport.abort()
    await asyncio.sleep(0.3)
    assert market.upstream.total == 1
    assert await market.charged(payer) == 0


async def test_head_costs_what_get_costs(market: Market) -> None:
    market.sell(price_atoms=1)
    market.price("GET", "/huge/{n}", PRICE)
    unpaid = await market.client.head(market.url + "/v1/api/huge/5000")
    assert unpaid.status_code == 402 and unpaid.content == b""
    required = decode_required(unpaid.headers["payment-required"])
    assert required.accepts[0].amount == str(PRICE)
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/huge/5000", method="HEAD", required=required)
    assert answer.status_code == 200 and answer.content == b""
    assert answer.headers["content-length"] == "5000"
    assert await market.charged(payer) == PRICE


async def test_a_free_route_needs_no_payment_and_is_booked(market: Market) -> None:
    market.sell()
    market.price("GET", "/free/{x}", 0)
    answer = await market.client.get(market.url + "/v1/api/free/1")
    assert answer.status_code == 200
    await market.settled()
    assert [tuple(r) for r in market.rows("SELECT status, amount_atoms FROM call")] == [(200, 0)]
    assert market.rows("SELECT calls, paid FROM call_rollup")[0] == (1, 0)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_413_and_costs_nothing(
    market: Market, chunked: bool
) -> None:
    market.sell()
    payer = await market.payer()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield b"x" * 65_536

    content = chunks() if chunked else b"x" * (80 * 65_536)
    answer = await market.buy(payer, "/v1/api/echo", method="POST", content=content)
    assert answer.status_code == 413
    assert await market.charged(payer) == 0


async def until(condition: object, seconds: float = 3) -> None:
    """Wait until `condition()` holds."""
    assert callable(condition)
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come about")
