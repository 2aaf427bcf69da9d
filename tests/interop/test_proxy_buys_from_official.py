"""Our proxy buys from the official FastAPI middleware with the official facilitator."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from finance.buying.policy import BuyingPolicy
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, official_seller

PRICE = 1000


@pytest.fixture(scope="module")
def seller(chain: DevchainProcess) -> Iterator[str]:
    with official_seller(chain, PRICE) as base:
        yield base


@pytest.fixture
def node(tmp_path: Path, chain: DevchainProcess, seller: str) -> Iterator[BuyerNode]:
    node = BuyerNode(tmp_path, chain)
    node.list("weather", f"{seller}/paid")
    yield node
    node.check_books()


async def test_calls_are_paid_through_one_channel_that_is_opened_and_topped_up(
    node: BuyerNode,
) -> None:
    async with node.running(BuyingPolicy(deposit_calls=10)) as proxy:
        for number in range(25):
            answer = await proxy.call(f"weather/forecast?day={number}")
            assert answer.status_code == 200, answer.text
            assert answer.json()["city"] == "Lisbon"
            assert answer.headers["farebox-cost"] == "0.001"
            assert answer.headers["farebox-scheme"] == "batch-settlement"
            assert answer.headers["cache-control"] == "no-store"
    (channel,) = node.channels
    assert channel.charged_atoms == channel.signed_atoms == 25 * PRICE
    assert channel.balance_atoms == node.booked("deposited") == 40 * PRICE
    assert [row.state for row in node.purchases] == ["paid"] * 25


async def test_calls_at_once_use_a_channel_each(node: BuyerNode) -> None:
    async with node.running(BuyingPolicy(channel_wait_seconds=60)) as proxy:
        await asyncio.gather(*(proxy.call("weather/now") for _ in range(4)))
        answers = await asyncio.gather(*(proxy.call("weather/now") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(row.charged_atoms for row in node.channels) == 44 * PRICE
    assert len(node.channels) <= 16


async def test_exact_is_paid_where_it_is_preferred(node: BuyerNode) -> None:
    async with node.running(BuyingPolicy(prefer=("exact",))) as proxy:
        answer = await proxy.call("weather/now", "POST", json={"city": "Lisbon"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["farebox-scheme"] == "exact"
    (purchase,) = node.purchases
    assert purchase.state == "paid"
    assert purchase.tx_hash is not None
    assert node.booked("spent") == -PRICE


async def test_a_node_that_lost_its_database_finds_its_channel_again(
    node: BuyerNode, tmp_path: Path
) -> None:
    async with node.running() as proxy:
        for _ in range(3):
            assert (await proxy.call("weather/now")).status_code == 200
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    reborn = BuyerNode(fresh, node.chain)
    reborn.keys = node.keys
    reborn.list("weather", next(iter(node.purchases)).url.removesuffix("/now"))
    async with reborn.running() as proxy:
        answer = await proxy.call("weather/now")
    assert answer.status_code == 200, answer.text
    (channel,) = reborn.channels
    assert channel.channel_id == node.channels[0].channel_id
    assert channel.charged_atoms == 4 * PRICE
    assert reborn.booked("spent") == -4 * PRICE
