"""Terms are the seller's (law 4), prices cannot be dodged, and errors say what they are."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from x402.extensions.bazaar import extract_discovery_info

from catalog.listings import compile_listing
from finance.store import Batch, Write
from finance.x402.wire import decode_required
from node.gateway.match import RouteTable
from tests.http.conftest import BALANCE, PRICE, Market

CHEAP = 1


async def raw(market: Market, target: str, *headers: str) -> tuple[int, bytes]:
    """Send a request line that no client library would."""
    port = int(market.url.rsplit(":")[-1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {target} HTTP/1.1", "Host: x", "Connection: close", *headers, "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer


@pytest.mark.parametrize(
    "path",
    [
        "/premium/%2e%2e/premium/1",
        "/cheap/../premium/1",
        "/cheap/%2e%2e/premium/1",
        "/cheap/.%2E/premium/1",
        "/cheap/%252e%252e/premium/1",
        "//premium/1",
        "/premium//1",
        "/./premium/1",
        "/cheap%2f..%2fpremium/1",
        "/premium;x/1",
        "/premium%3bx/1",
        "/cheap\\..\\premium/1",
        "/premium./1",
        "/premium%00/1",
        "/premium%zz/1",
    ],
)
async def test_a_price_is_not_dodged_by_an_ambiguous_path(market: Market, path: str) -> None:
    market.sell(price_atoms=CHEAP)
    market.price("*", "/premium/{id}", PRICE)
    status, _ = await raw(market, "/v1/api" + path)
    assert status == 400
    assert market.upstream.total == 0


@pytest.mark.parametrize(
    "path",
    ["/PREMIUM/1", "/Premium/1", "/%70remium/1", "/premium/1/", "/premium/%31", "/premium/."],
)
async def test_a_price_is_not_dodged_by_spelling(market: Market, path: str) -> None:
    market.sell(price_atoms=CHEAP)
    market.price("*", "/premium/{id}", PRICE)
    status, answer = await raw(market, "/v1/api" + path)
    if status == 402:
        header = answer.split(b"payment-required: ")[1].split(b"\r\n")[0]
        assert decode_required(header).accepts[0].amount == str(PRICE)
    else:
        assert status == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "1"},
        {"pay_to": "0x" + "11" * 20},
        {"asset": "0x" + "22" * 20},
        {"network": "eip155:1"},
    ],
)
async def test_terms_a_client_echoes_are_compared_not_believed(
    market: Market, changes: dict[str, Any]
) -> None:
    market.sell()
    payer = await market.payer()
    amount = PRICE if "amount" not in changes else 1
    answer = await market.buy(payer, "/v1/api/echo", amount=amount, changes=changes)
    assert answer.status_code == 402
    assert decode_required(answer.headers["payment-required"]).accepts[0].amount == str(PRICE)
    assert market.upstream.total == 0 and await market.charged(payer) == 0


async def test_a_payment_for_a_cheap_route_buys_no_expensive_one(market: Market) -> None:
    market.sell(price_atoms=CHEAP)
    market.price("GET", "/premium", PRICE)
    payer = await market.payer()
    cheap = await market.offer("/v1/api/other")
    answer = await market.buy(payer, "/v1/api/premium", required=cheap)
    assert answer.status_code == 402 and market.upstream.total == 0


async def test_a_price_change_leaves_admitted_calls_alone(market: Market) -> None:
    listing = market.sell()
    payer = await market.payer()
    running = asyncio.create_task(market.buy(payer, "/v1/api/slow/0.4"))
    await asyncio.sleep(0.2)
    listing.price_atoms = 7 * PRICE
    market.reload()
    assert (await running).status_code == 200
    assert await market.charged(payer) == PRICE
    assert (await market.offer("/v1/api/echo")).accepts[0].amount == str(7 * PRICE)


async def test_a_forged_or_overdrawn_voucher_buys_nothing(market: Market) -> None:
    market.sell()
    payer, thief = await market.payer(1, balance=PRICE - 1), await market.payer(2)
    poor = await market.buy(payer, "/v1/api/echo")
    error = decode_required(poor.headers["payment-required"]).error
    assert error == "invalid_batch_settlement_evm_cumulative_exceeds_balance"
    thief.key = payer.key
    forged = await market.buy(thief, "/v1/api/echo")
    error = decode_required(forged.headers["payment-required"]).error
    assert error == "invalid_batch_settlement_evm_voucher_signature"
    assert market.upstream.total == 0


async def test_a_withdrawal_started_backs_no_new_voucher(market: Market) -> None:
    market.sell()
    changes = {"withdraw_requested_at": int(time.time()), "withdraw_amount_atoms": BALANCE}
    payer = await market.payer(1, **changes)
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 402
    assert market.upstream.total == 0


async def test_above_the_amount_at_risk_vouchers_wait_for_a_claim(market: Market) -> None:
    market.sell(price_atoms=BALANCE // 2)
    payer = await market.payer(balance=10 * BALANCE)
    for _ in range(2):
        assert (await market.buy(payer, "/v1/api/echo")).status_code == 200
    refused = await market.buy(payer, "/v1/api/echo")
    assert refused.status_code == 503
    assert refused.json()["code"] == "amount_at_risk_exceeded"
    assert payer.key_hex in market.claims
    assert await market.charged(payer) == BALANCE


async def test_an_unknown_channel_is_503_while_the_chain_is_down(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    drop = text("DELETE FROM seller_channel")
    await market.journal.commit(Batch([Write(drop, {})]))
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 503 and answer.json()["code"] == "chain_unavailable"


async def test_another_process_charging_the_channel_is_noticed_by_the_guard(
    market: Market,
) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/slow/0.3")
    first = await market.buy(payer, "/v1/api/echo")
    assert first.status_code == 200
    payer.charged = PRICE
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    running = asyncio.create_task(
        market.client.get(market.url + "/v1/api/slow/0.3", headers=headers)
    )
    await asyncio.sleep(0.15)
    other = text("UPDATE seller_channel SET charged_atoms = 0, signed_atoms = 0")
    ledger, calls = text("DELETE FROM ledger_entry"), text("DELETE FROM call")
    rollup = text("DELETE FROM call_rollup")
    writes = [Write(each, {}, rows=None) for each in (other, ledger, calls, rollup)]
    await market.journal.commit(Batch(writes))
    answer = await running
    assert answer.status_code == 402
    extra = decode_required(answer.headers["payment-required"]).accepts[0].extra
    assert extra["channelState"]["chargedCumulativeAmount"] == "0"
    assert await market.charged(payer) == 0


async def test_a_journal_that_cannot_write_delivers_and_charges_nothing(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    with market.journal.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE stored_answer RENAME TO gone")
        connection.commit()
    answer = await market.buy(payer, "/v1/api/echo", required=required)
    assert answer.status_code == 503 and answer.json()["code"] == "store_unavailable"
    with market.journal.engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE gone RENAME TO stored_answer")
        connection.commit()
    assert await market.charged(payer) == 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_paused_listings_and_nodes_say_so(market: Market) -> None:
    listing = market.sell()
    market.paused = True
    answer = await market.client.get(market.url + "/v1/api/echo")
    assert (answer.status_code, answer.json()["code"]) == (503, "node_paused")
    market.paused, listing.paused = False, True
    market.reload()
    answer = await market.client.get(market.url + "/v1/api/echo")
    assert (answer.status_code, answer.json()["code"]) == (503, "listing_paused")
    listing.paused, listing.mode = False, "demo"
    market.reload()
    answer = await market.client.get(market.url + "/v1/api/echo")
    assert (answer.status_code, answer.json()["code"]) == (404, "demo_not_recorded")


async def test_nothing_else_is_served(market: Market) -> None:
    market.sell()
    assert (await market.client.get(market.url + "/healthz")).text == "ok\n"
    assert (await market.client.get(market.url + "/readyz")).status_code == 200
    for path in ("/", "/v1", "/v1/none/x", "/api", "/docs", "/V1/api/echo", "/healthz/x"):
        answer = await market.client.get(market.url + path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["call_id"] == answer.headers["farebox-call-id"]


@pytest.mark.parametrize("of", ["streams/%ff", "%ff"])
async def test_what_is_no_name_of_ours_is_not_found(market: Market, of: str) -> None:
    market.sell()
    answer = await market.client.get(f"{market.url}/v1/api/.farebox/{of}")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_resource")


async def test_what_is_sold_can_be_found(market: Market) -> None:
    spec = {
        "openapi": "3.1.0",
        "paths": {
            "/forecast/{city}": {
                "get": {
                    "parameters": [
                        {
                            "name": "city",
                            "in": "path",
                            "required": True,
                            "schema": {"type": "string"},
                        }
                    ]
                }
            }
        },
    }
    market.sell(spec=json.dumps(spec), tags='["weather"]')
    resource = market.url + "/v1/api/forecast/{city}"
    known = (await market.client.get(market.url + "/.well-known/x402")).json()
    assert resource in known["resources"]
    url = market.url + "/discovery/resources"
    found = (await market.client.get(url, params={"limit": "1", "type": "http"})).json()
    assert found["pagination"] == {"limit": 1, "offset": 0, "total": 2}
    assert found["items"][0]["resource"] == resource
    assert found["items"][0]["extensions"]["bazaar"]["routeTemplate"] == "/v1/api/forecast/:city"
    required = await market.offer("/v1/api/forecast/lisbon")
    assert required.resource is not None and required.resource.url == resource


async def test_a_catalog_finds_what_is_sold_below_a_path_of_its_host(market: Market) -> None:
    """Behind a proxy that serves other things as well; read by the official package."""
    place = [{"name": "city", "in": "path", "required": True, "schema": {"type": "string"}}]
    spec = {"openapi": "3.1.0", "paths": {"/forecast/{city}": {"get": {"parameters": place}}}}
    sale = replace(market.seller.sale, public_url="https://example.com/market/")
    listing = compile_listing(market.sell(spec=json.dumps(spec)))
    offer = next(iter(RouteTable([listing], sale, bytes.fromhex).routes())).offer
    assert offer is not None
    resource = {"url": offer.terms.resource_url}
    paid = {"x402Version": 2, "resource": resource, "extensions": dict(offer.terms.extensions)}
    found = extract_discovery_info(paid, {})
    assert found is not None
    assert found.resource_url == "https://example.com/market/v1/api/forecast/:city"


async def test_no_payment_header_makes_a_5xx_or_a_free_call(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    good = payer.voucher(await market.offer("/v1/api/echo"))
    chance = random.Random(7)
    headers = ["", "=", "e30=", "bnVsbA==", "A" * 20_000, "\xff\xfe", good + "=", good[:-9]]
    for _ in range(300):
        document = bytearray(base64.b64decode(good))
        for _ in range(chance.randint(1, 4)):
            document[chance.randrange(len(document))] = chance.randrange(256)
        headers.append(base64.b64encode(bytes(document)).decode())
    statuses = set()
    for header in headers:
        status, answer = await raw(market, "/v1/api/echo", f"PAYMENT-SIGNATURE: {header}")
        if status == 200:  # a mutation outside of what counts, e.g. in the description
            assert b"payment-response: " in answer
        statuses.add(status)
    twice = f"PAYMENT-SIGNATURE: {good}"
    status, _ = await raw(market, "/v1/api/echo", twice, twice)
    assert statuses <= {200, 402} and status == 402
    assert await market.charged(payer) <= PRICE


async def test_a_websocket_is_refused(market: Market) -> None:
    market.sell()
    status, _ = await raw(
        market,
        "/v1/api/echo",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: x",
        "Sec-WebSocket-Version: 13",
    )
    assert status in (402, 403) and market.upstream.total == 0
