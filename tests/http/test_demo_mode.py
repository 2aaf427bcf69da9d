"""Demo mode: recorded answers for free, whatever state node and listing are in."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from catalog.listings import compile_listings
from catalog.models import Sample
from finance.x402.wire import decode_required
from tests.http.conftest import PRICE, Market
from tests.publishing_world import SCRIPT

SPEC = json.dumps(
    {
        "openapi": "3.1.0",
        "info": {"title": "x", "version": "1"},
        "paths": {
            path: {method: {"responses": {"200": {"description": "ok"}}}}
            for path, method in (("/forecast/{city}", "get"), ("/reports", "post"))
        },
    }
)
DEMO = {"Farebox-Demo": "1"}
BODY = json.dumps({"city": "lisbon", "note": SCRIPT}).encode()


def sample(target: str = "/forecast/lisbon?days=3", method: str = "GET", **fields: Any) -> Sample:
    values = {
        "id": f"smp-{method}-{target}",
        "listing_id": "id-api",
        "method": method,
        "template": "/forecast/{city}",
        "target": target,
        "request_headers": "[]",
        "status": 200,
        "headers": json.dumps([["content-type", "application/json"]]),
        "body": BODY,
        "latency_us": 1,
        "recorded_at": 1_700_000_000,
        **fields,
    }
    return Sample(**values)


def sell(market: Market, *samples: Sample, **fields: Any) -> None:
    market.sell(spec=SPEC, **fields)
    market.gateway.reload(compile_listings(market.listings, market.prices, samples))


async def ask(market: Market, path: str, method: str = "GET", **headers: str) -> Any:
    return await market.client.request(
        method, f"{market.url}/v1/api{path}", headers=headers or DEMO
    )


async def test_demo_answer_is_the_recorded_one_and_says_so(market: Market) -> None:
    sell(market, sample())
    answer = await ask(market, "/forecast/lisbon?days=3")
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["farebox-demo"] == "true"
    assert answer.headers["farebox-demo-recorded-at"] == "1700000000"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "payment-response" not in answer.headers


async def test_exact_request_first_then_its_path_then_its_operation(market: Market) -> None:
    sell(
        market,
        sample("/forecast/lisbon?days=3", body=b"exact"),
        sample("/forecast/porto", body=b"porto", recorded_at=1_800_000_000),
    )
    assert (await ask(market, "/forecast/lisbon?days=3")).text == "exact"
    assert (await ask(market, "/forecast/lisbon?days=9")).text == "exact"
    assert (await ask(market, "/forecast/oslo")).text == "porto"


@pytest.mark.parametrize("state", ["node", "listing", "both"])
async def test_demo_goes_on_while_nothing_is_sold(market: Market, state: str) -> None:
    sell(market, sample(), paused=state != "node")
    market.paused = state != "listing"
    assert (await ask(market, "/forecast/lisbon")).content == BODY
    paid = await market.client.get(f"{market.url}/v1/api/forecast/lisbon")
    assert paid.status_code == 503


async def test_listing_in_demo_mode_needs_no_header_and_goes_on_while_the_node_is_paused(
    market: Market,
) -> None:
    sell(market, sample(), mode="demo")
    market.paused = True
    answer = await market.client.get(f"{market.url}/v1/api/forecast/lisbon")
    assert (answer.content, answer.headers["farebox-demo"]) == (BODY, "true")


async def test_demo_request_never_reaches_the_upstream_or_the_books(market: Market) -> None:
    """Not even with a payment in it: that voucher still buys its call afterwards."""
    sell(market, sample())
    payer = await market.payer()
    required = await market.offer("/v1/api/forecast/lisbon")
    header = payer.voucher(required)
    for path in ("/forecast/lisbon", "/nothing/recorded", "/reports"):
        await ask(market, path, **DEMO, **{"PAYMENT-SIGNATURE": header})
        await ask(market, path, "POST", **DEMO)
    await market.settled()
    assert market.upstream.total == 0
    assert market.rows("SELECT COUNT(*) FROM call")[0][0] == 0
    assert await market.charged(payer) == 0
    paid = await ask(market, "/forecast/lisbon", **{"PAYMENT-SIGNATURE": header})
    assert paid.status_code == 200 and "farebox-demo" not in paid.headers
    assert await market.charged(payer) == PRICE


async def test_paid_answer_never_passes_for_a_demo_one(market: Market) -> None:
    sell(market, sample())
    answer = await market.client.get(
        f"{market.url}/v1/api/forecast/lisbon", headers={"Farebox-Demo": "0"}
    )
    assert answer.status_code == 402
    assert decode_required(answer.headers["payment-required"]).accepts


async def test_missing_sample_says_which_operations_have_one(market: Market) -> None:
    sell(market, sample())
    for path, method in (("/reports", "POST"), ("/elsewhere", "GET")):
        answer = await ask(market, path, method, **DEMO)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (404, "demo_not_recorded")
        assert problem["operations"] == ["GET /forecast/{city}"]
        assert answer.headers["farebox-demo"] == "true"


async def test_head_and_empty_bodies_are_framed_right(market: Market) -> None:
    sell(market, sample(), sample("/reports", "POST", template="/reports", status=204, body=b""))
    head = await ask(market, "/forecast/lisbon", "HEAD", **DEMO)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(BODY)
    empty = await ask(market, "/reports", "POST", **DEMO)
    assert (empty.status_code, empty.content) == (204, b"")


async def test_buyers_see_in_the_directory_that_demo_is_there(market: Market) -> None:
    sell(market, sample())
    found = (await market.client.get(f"{market.url}/discovery/resources")).json()
    own = found["items"][0]["extensions"]["farebox"]
    assert own == {
        "listing": "api",
        "base": f"{market.url}/v1/api",
        "demo": ["GET /forecast/{city}"],
    }


async def test_price_change_never_alters_a_call_already_admitted(market: Market) -> None:
    listing = market.sell()
    payer = await market.payer()
    slow = asyncio.create_task(market.buy(payer, "/v1/api/slow/0.4"))
    while not market.upstream.total:
        await asyncio.sleep(0.01)
    listing.price_atoms = 50 * PRICE
    market.reload()
    answer = await slow
    assert answer.status_code == 200
    assert await market.charged(payer) == PRICE
    assert int((await market.offer("/v1/api/echo")).accepts[0].amount) == 50 * PRICE


async def test_samples_are_looked_up_not_worked_on(market: Market) -> None:
    """Fifty samples of the largest size cost a call no more than one."""
    many = [sample(f"/forecast/c{n}", body=b"x" * 262_144) for n in range(50)]
    sell(market, *many)
    begun = time.process_time()
    for n in range(20):
        answer = await ask(market, f"/forecast/c{n}")
        assert len(answer.content) == 262_144
    assert (time.process_time() - begun) / 20 < 0.1
