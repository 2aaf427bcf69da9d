"""Plans bought by several processes on one PostgreSQL: each order is signed for once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from node.accounts.audit import SYSTEM
from tests.http.plans_world import Seller
from tests.http.proxy_world import BuyerNode, served
from tests.http.scripted_seller import ScriptedSeller
from tests.http.subscriber_world import LISTING, open_subscriber
from tests.http.test_subscriptions import agreed_to, chain, seller

__all__ = ["chain", "seller"]  # fixtures


class _AsksAtOnce(ScriptedSeller):
    """Tells its price once both have asked for it, and takes every payment without a word."""

    def __init__(self) -> None:
        super().__init__("exact", price=1_000)
        self.behave = _takes_and_is_silent
        self._both = asyncio.Barrier(2)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if b"payment-signature" not in dict(scope["headers"]):
            async with asyncio.timeout(10):
                await self._both.wait()
        await super().__call__(scope, receive, send)


async def test_an_order_that_two_processes_carry_out_at_once_is_signed_for_once(
    seller: Seller, postgres_url: str, tmp_path: Path
) -> None:
    plan, node = seller.plan(), BuyerNode(tmp_path, seller.world.chain, url=postgres_url)
    node.list("api", f"{seller.url}/v1/api")
    async with open_subscriber(node, seller) as one, open_subscriber(node, seller) as other:
        _, order_id = await one.all.order(SYSTEM, LISTING, plan.id, agreed_to(plan))
        silent = _AsksAtOnce()
        async with served(silent) as url:
            one.write("UPDATE bought_subscription SET base_url = :url", url=url)
            outcomes = await asyncio.gather(
                *(each.all.carry_out(order_id) for each in (one, other))
            )
        assert {each.state for each in outcomes} == {"open"}
        assert len({*silent.seen}) == 1 == len(node.purchases)


async def _takes_and_is_silent(_: ScriptedSeller, __: Any) -> tuple[int, None]:
    return 500, None
