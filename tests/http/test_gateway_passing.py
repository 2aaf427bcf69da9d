"""What passes through the gateway, either way, is what was meant: heads, bodies, no secrets."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.http.conftest import PRICE, SECRET, Market


async def test_a_preflight_is_answered_without_the_upstream(market: Market) -> None:
    market.sell()
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Headers": "x-a"}
    answer = await market.client.options(market.url + "/v1/api/echo", headers=headers)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-headers"] == "x-a"
    assert market.upstream.total == 0
    market.price("OPTIONS", "/echo", PRICE)
    assert (await market.client.options(market.url + "/v1/api/echo")).status_code == 402


async def test_a_page_may_look_for_what_is_sold(market: Market) -> None:
    """The official clients send `Content-Type` with it, and so a browser asks first."""
    wish = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "content-type",
    }
    url, page = market.url + "/discovery/resources", {"Origin": "https://shop.example"}
    asked = await market.client.options(url, headers=page | wish)
    assert (asked.status_code, asked.headers["access-control-allow-headers"]) == (
        204,
        "content-type",
    )
    assert asked.headers["access-control-allow-origin"] == "*"
    for any_ in ({}, page):  # a cache gives pages what it was given without one
        found = await market.client.get(url, headers=any_)
        assert found.headers["cache-control"] == "max-age=60"
        assert found.headers.get_list("access-control-allow-origin") == ["*"]
    found = await market.client.get(url, headers=page | {"Content-Type": "application/json"})
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "*")


async def test_a_page_that_may_pay_may_read_what_it_paid_for(market: Market) -> None:
    market.sell()
    market.sell("free", price_atoms=0)
    page, path = {"origin": "https://any.example"}, "/v1/api/headers"
    asked = await market.client.get(market.url + path, headers=page)
    paid = await market.buy(await market.payer(), path, headers=page)
    free = await market.client.get(market.url + "/v1/free/headers", headers=page)
    allowed = [each.headers.get_list("access-control-allow-origin") for each in (asked, paid, free)]
    assert allowed == [["*"], ["*"], ["https://only.example"]]
    assert "PAYMENT-RESPONSE" in paid.headers["access-control-expose-headers"]


async def test_headers_pass_as_they_should(market: Market) -> None:
    market.sell(
        credential_kind="header", credential_name="X-Api-Key", credential_secret=SECRET.hex()
    )
    payer = await market.payer()
    sent = {
        "Authorization": "Bearer mine",
        "Connection": "keep-alive, X-Drop",
        "X-Drop": "1",
        "X-Api-Key": "forged",
        "X-HTTP-Method-Override": "DELETE",
        "X-Original-URL": "/admin",
        "X-Forwarded-For": "1.2.3.4",
        "Farebox-Cost": "0",
        "X-Kept": "yes",
    }
    await market.buy(payer, "/v1/api/echo", headers=sent)
    seen = dict(map(tuple, market.upstream.seen["headers"]))
    assert seen["x-api-key"] == SECRET.decode()
    assert seen["host"] == market.upstream_url.split("//")[1]
    assert seen["x-forwarded-for"] == "127.0.0.1" and seen["x-kept"] == "yes"
    assert seen["x-forwarded-host"] == market.url.split("//")[1]
    for name in (
        "authorization",
        "payment-signature",
        "farebox-cost",
        "x-drop",
        "x-http-method-override",
        "x-original-url",
    ):
        assert name not in seen, name
    answer = await market.buy(payer, "/v1/api/headers")
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert "x-hop" not in answer.headers and answer.headers["x-end"] == "2"
    assert answer.headers["payment-response"] != "forged"
    assert answer.headers["farebox-call-id"] != "forged"


async def test_headers_of_one_line_end_here_however_many_list_them(market: Market) -> None:
    market.sell(price_atoms=0)
    listed = [("Connection", "X-One"), ("Connection", "Keep-Alive, X-Two")]
    headers = httpx.Headers([*listed, ("X-One", "1"), ("X-Two", "2"), ("X-Kept", "yes")])
    await market.client.get(market.url + "/v1/api/echo", headers=headers)
    seen = dict(map(tuple, market.upstream.seen["headers"]))
    assert seen["x-kept"] == "yes" and not {"x-one", "x-two"} & set(seen)
    answer = await market.client.get(market.url + "/v1/api/hops")
    assert answer.headers["x-end"] == "2" and not {"x-hop", "x-leap"} & set(answer.headers)


@pytest.mark.parametrize("kind", ["header", "query"])
async def test_the_upstreams_credential_never_reaches_the_buyer(market: Market, kind: str) -> None:
    market.sell(credential_kind=kind, credential_name="x-api-key", credential_secret=SECRET.hex())
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/leak?q=1")
    assert answer.status_code == 200
    assert SECRET not in answer.content and "x-told" not in answer.headers
    assert SECRET.decode() not in str(answer.headers)
    assert json.loads(answer.content)["query"].startswith("q=1")


@pytest.mark.parametrize("how", ["as-php", "as-html", "as-it-is"])
async def test_a_credential_is_found_however_it_is_written(market: Market, how: str) -> None:
    secret = b'Key abc/def"ghi+j<k&l\\mnop'
    market.sell(
        credential_kind="header", credential_name="x-api-key", credential_secret=secret.hex()
    )
    answer = await market.buy(await market.payer(), f"/v1/api/leak/{how}")
    assert answer.status_code == 200 and "***" in answer.text
    assert "mnop" not in answer.text and "abc" not in answer.text


async def test_a_credential_that_ends_in_a_blank_takes_no_other_header(market: Market) -> None:
    secret = (SECRET + b" ").hex()
    market.sell(credential_kind="header", credential_name="x-api-key", credential_secret=secret)
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/leak")
    assert answer.headers["content-type"] == "application/json"
    assert SECRET not in answer.content and "x-told" not in answer.headers


async def test_a_short_credential_takes_no_header_that_has_it_in_a_word(market: Market) -> None:
    market.sell(
        credential_kind="header", credential_name="x-api-key", credential_secret=b"on".hex()
    )
    answer = await market.buy(await market.payer(), "/v1/api/leak")
    assert answer.headers["content-type"] == "application/json"
    assert "x-told" not in answer.headers


async def test_encoded_bodies_pass_untouched(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    header = payer.voucher(await market.offer("/v1/api/gzip"))
    async with market.client.stream(
        "GET", market.url + "/v1/api/gzip", headers={"PAYMENT-SIGNATURE": header}
    ) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == b"plain text " * 20


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 10, 200_000, 3_000_000])
async def test_request_bodies_arrive_whole(market: Market, size: int, chunked: bool) -> None:
    market.sell()
    payer = await market.payer()
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, size, 65_536):
            yield body[at : at + 65_536]

    content = chunks() if chunked else body
    answer = await market.buy(payer, "/v1/api/echo", method="POST", content=content)
    assert answer.status_code == 200
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
