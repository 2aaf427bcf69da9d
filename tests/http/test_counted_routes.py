"""Calls are counted by route, status and customer, on both sides: never by raw paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlmodel import col

from catalog.models import Listing
from node.db.engine import writer
from node.usage.calls import route_name
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import PRICE, Market
from tests.http.proxy_world import BuyerNode, served
from tests.http.test_proxy_metering import FreeApi

ANSWERS = {"responses": {"200": {"description": "fine"}}}
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "Weather", "version": "1"},
    "paths": {
        "/forecast/{city}": {"get": ANSWERS, "post": ANSWERS},
        "/forecast/here": {"get": ANSWERS},
    },
}


@pytest.fixture
def node(tmp_path: Path, chain: DevchainProcess) -> BuyerNode:
    return BuyerNode(tmp_path, chain)


def counted(node: BuyerNode) -> dict[tuple[str, str, int], int]:
    """Calls by key, route and status."""
    query = "SELECT key_id, route, status, SUM(calls) FROM call_rollup GROUP BY 1, 2, 3"
    with node.engine.connect() as connection:
        return {(row[0], row[1], row[2]): row[3] for row in connection.execute(text(query))}


def describe(node: BuyerNode, spec: Any, version: int) -> None:
    with writer(node.engine).begin() as connection:
        values = {"spec": json.dumps(spec), "updated_at": version}
        connection.execute(update(Listing).where(col(Listing.slug) == "x").values(values))


async def test_what_is_bought_is_counted_by_the_route_of_its_specification(
    node: BuyerNode,
) -> None:
    async with served(FreeApi()) as base:
        node.list("x", base)
        describe(node, SPEC, 1)
        async with node.running() as proxy:
            for path in ("forecast/lisbon", "forecast/porto?days=3", "forecast/here", "who/knows"):
                await proxy.call(f"x/{path}")
            await proxy.call("x/forecast/lisbon", "POST")
            await proxy.call("x/forecast/lisbon", "DELETE")
    assert counted(node) == {
        ("key-1", "GET /forecast/{city}", 200): 2,
        ("key-1", "GET /forecast/here", 200): 1,
        ("key-1", "POST /forecast/{city}", 200): 1,
        ("key-1", "GET /*", 200): 1,
        ("key-1", "DELETE /*", 200): 1,
    }


def test_a_method_that_somebody_made_up_is_no_route_of_its_own() -> None:
    assert {route_name(method) for method in ("BREW", "X" * 99, "get")} == {"* /*"}


async def test_a_changed_specification_is_counted_by_from_then_on(node: BuyerNode) -> None:
    async with served(FreeApi(404)) as base:
        node.list("x", base)
        async with node.running() as proxy:
            await proxy.call("x/forecast/lisbon")
            describe(node, SPEC, 2)
            await proxy.proxy.reload()
            await proxy.call("x/forecast/lisbon")
    assert counted(node) == {
        ("key-1", "GET /*", 404): 1,
        ("key-1", "GET /forecast/{city}", 404): 1,
    }


async def test_a_call_that_was_refused_here_has_its_route_too(node: BuyerNode) -> None:
    node.list("x", "http://127.0.0.1:9")
    describe(node, SPEC, 1)
    async with node.running() as proxy:
        answer = await proxy.call("x/forecast/lisbon")
    assert counted(node) == {("key-1", "GET /forecast/{city}", answer.status_code): 1}


async def test_what_is_served_is_counted_by_the_priced_route_and_who_paid(market: Market) -> None:
    market.sell()
    market.price("GET", "/free/{x}", 0)
    market.price("*", "/status/{code}", PRICE)
    one, other = await market.payer(1), await market.payer(2)
    for payer, path in ((one, "status/200"), (one, "status/500"), (other, "status/200")):
        await market.buy(payer, f"/v1/api/{path}")
    await market.buy(one, "/v1/api/echo")
    await market.client.get(market.url + "/v1/api/free/1")
    await market.settled()
    rows = market.rows("SELECT key_id, route, status, SUM(calls) FROM call_rollup GROUP BY 1, 2, 3")
    payers = {row[0] for row in market.rows("SELECT payer FROM call WHERE payer IS NOT NULL")}
    assert len(payers) == 2
    found = sorted((bool(row[0]), row[1], row[2], row[3]) for row in rows)
    assert found == [
        (False, "GET /free/{x}", 200, 1),
        (True, "GET /*", 200, 1),
        (True, "GET /status/{code}", 200, 1),
        (True, "GET /status/{code}", 200, 1),
        (True, "GET /status/{code}", 500, 1),
    ]
    assert {row[0] for row in rows} == payers | {""}
