"""Law 11. Paid answers are cached by nobody, payments and credentials stay where they belong."""

from __future__ import annotations

import pytest

from tests.http.conftest import PRICE, SECRET, Market
from tests.http.proxy_world import SECRET as BEARER
from tests.http.proxy_world import BuyerNode
from tests.laws.x402_seller import X402Seller
from tests.streams.socket_world import socket_market


async def test_no_cache_between_us_and_the_buyer_keeps_a_paid_answer(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/headers")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    for _ in range(2):  # as delivered, and as stored
        answer = await market.client.get(market.url + "/v1/api/headers", headers=headers)
        assert answer.status_code == 200
        assert answer.headers.get_list("cache-control") == ["no-store"]
        for_one_kind = {"cdn-cache-control", "surrogate-control", "x-accel-expires"}
        assert not for_one_kind & {*answer.headers}


async def test_no_payment_reaches_the_upstream(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    hidden = {"x-payment": "old", "payment-response": "forged", "authorization": "Bearer fbx_1"}
    assert (await market.buy(payer, "/v1/api/echo", headers=hidden)).status_code == 200
    told = {name for name, _ in market.upstream.seen["headers"]}
    assert not [name for name in told if "payment" in name or name == "authorization"]


async def test_no_other_spelling_of_a_header_passes_for_ours(market: Market) -> None:
    """An API behind CGI or WSGI reads `X_Original_URL` as `X-Original-URL`."""
    market.sell(
        credential_kind="header", credential_name="X-Api-Key", credential_secret=SECRET.hex()
    )
    payer = await market.payer()
    names = ("Payment_Signature", "X_Original_URL", "X_HTTP-Method_Override", "X_Forwarded_For")
    hidden = dict.fromkeys((*names, "X_Api_Key", "Farebox_Key"), "theirs") | {"X_Own": "kept"}
    assert (await market.buy(payer, "/v1/api/echo", headers=hidden)).status_code == 200
    told = [name for name, value in market.upstream.seen["headers"] if value == "theirs"]
    assert told == []
    assert ["x_own", "kept"] in market.upstream.seen["headers"]


async def test_the_upstreams_credential_never_reaches_the_buyer(market: Market) -> None:
    market.sell(
        credential_kind="header", credential_name="X-Api-Key", credential_secret=SECRET.hex()
    )
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/leak")
    assert answer.status_code == 200
    assert "x-api-key" in answer.text
    told = answer.content + b"".join(name + value for name, value in answer.headers.raw)
    assert SECRET not in told


@pytest.mark.parametrize(("how", "status"), [("compressed", 200), ("always-compressed", 502)])
async def test_no_credential_hides_in_a_compressed_answer(
    market: Market, how: str, status: int
) -> None:
    market.sell(
        credential_kind="header", credential_name="X-Api-Key", credential_secret=SECRET.hex()
    )
    payer = await market.payer()
    wish = {"accept-encoding": "gzip", "accept_encoding": "gzip"}
    answer = await market.buy(payer, f"/v1/api/leak/{how}", headers=wish)
    assert answer.status_code == status
    assert SECRET not in answer.content  # which the client has unpacked
    assert await market.charged(payer) == (PRICE if status == 200 else 0)


@pytest.mark.parametrize("kind", ["header", "query"])
async def test_no_message_tells_the_upstreams_credential(market: Market, kind: str) -> None:
    secret = {"credential_kind": kind, "credential_name": "x-api-key"}
    told = SECRET.decode()
    async with socket_market(market, **secret, credential_secret=SECRET.hex()) as sockets:
        payer = await market.payer()
        connection = await sockets.paid(payer, f"close/4000/{told}")
        assert await connection.recv() == "last words"
        await connection.wait_closed()
        assert (connection.close_code, told in str(connection.close_reason)) == (4000, False)
        connection = await sockets.paid(payer, "echo")
        for said in (f"you said {told}!", b"\xff" + SECRET, "ünharmed", b"\xff\x00"):
            await connection.send(said)
        hidden = "*" * len(SECRET)
        expected = [f"you said {hidden}!", b"\xff" + hidden.encode(), "ünharmed", b"\xff\x00"]
        assert [await connection.recv() for _ in range(4)] == expected
        await connection.close()


async def test_the_proxys_secret_stays_with_the_proxy_and_its_paid_answers_uncached(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    async with buyer.running() as proxy:
        answer = await proxy.call("api/x")
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert not [headers for headers in seller.seen if BEARER in str(headers)]
