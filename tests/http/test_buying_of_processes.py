"""Calls bought by several processes on one PostgreSQL: each pays through channels of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, Running, official_seller


async def _bought(*proxies: Running) -> list[int]:
    answers = await asyncio.gather(*(each.call("x/paid/hello") for each in proxies))
    return [answer.status_code for answer in answers]


async def test_two_processes_buy_from_one_seller_and_the_money_of_one_that_is_gone_is_used(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path
) -> None:
    node = BuyerNode(tmp_path, chain, url=postgres_url)
    with official_seller(chain) as base:
        node.list("x", base)
        async with node.running() as one:
            assert await _bought(one) == [200]
            async with node.running() as other:
                for _ in range(3):
                    assert await _bought(one, other) == [200, 200]
            assert len(node.channels) == 2
            assert await _bought(one, one) == [200, 200]
    assert len(node.channels) == 2
    assert sum(channel.charged_atoms for channel in node.channels) == 9_000
    node.check_books()
