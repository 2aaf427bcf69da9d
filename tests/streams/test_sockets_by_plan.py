"""WebSockets by a plan, through two nodes: its hours count, and nothing more is paid."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from node.plans.terms import Beyond
from node.usage.quotas import Meter
from tests.http.plans_world import Seller
from tests.http.proxy_world import SECRET
from tests.http.subscriber_world import Subscriber
from tests.http.test_subscriptions import buyer, chain, seller
from tests.streams.socket_world import Api, node_serving, running_api

__all__ = ["buyer", "chain", "seller"]  # fixtures


@pytest.fixture
async def api(seller: Seller) -> AsyncIterator[Api]:
    """The seller's API speaks WebSocket."""
    async with running_api() as api:
        seller.market.seller.egress.allow_also([api.url.removeprefix("http://")])
        seller.market.listings.clear()
        seller.market.sell(base=f"{api.url}/base")
        yield api


def open_socket(node: str) -> Any:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return connect(f"{node}/call/api/echo", additional_headers=headers, proxy=None)


@pytest.mark.parametrize("beyond", list(Beyond))
async def test_a_socket_by_plan_uses_its_hours_and_is_paid_beyond_only_where_that_is_allowed(
    buyer: Subscriber, seller: Seller, api: Api, beyond: Beyond
) -> None:
    hours = 31 * 3_600
    plan = seller.plan(stream_seconds=hours, beyond="pay")
    subscription_id = await buyer.subscribed(plan, beyond=beyond)
    before = buyer.usdc
    async with node_serving(buyer.running.proxy) as node:
        async with open_socket(node) as socket:
            headers = socket.response.headers
            assert (headers["farebox-scheme"], headers["farebox-cost"]) == ("plan", "0")
            await socket.send("by plan")
            assert await socket.recv() == "by plan"
            await asyncio.sleep(1.1)
        await _used(buyer, subscription_id)
        assert all("farebox" not in name.lower() for name in api.seen[0].headers)
        assert (buyer.usdc, buyer.node.channels, len(buyer.paid)) == (before, [], 1)
        subject = f"sub:{(await buyer.view(subscription_id)).seller_id}"
        now = int(buyer.clock())
        seller.gate.quotas.reserve(subject, Meter.STREAM_SECONDS, 10**9, None, now)
        if beyond is Beyond.PAY:
            async with open_socket(node) as socket:
                assert socket.response.headers["farebox-cost"] == "0.001"
                await socket.send("paid")
                assert await socket.recv() == "paid"
        else:
            for _ in range(2):
                with pytest.raises(InvalidStatus) as refused:
                    await open_socket(node)
                answer = refused.value.response
                assert (answer.status_code, b"quota_exceeded" in (answer.body or b"")) == (
                    402,
                    True,
                )
                assert "payment-required" not in answer.headers
            assert buyer.node.channels == []


async def test_a_socket_by_plan_ends_with_what_is_paid(
    buyer: Subscriber, seller: Seller, api: Api
) -> None:
    await buyer.subscribed(seller.plan(grace_days=0), renews=False)
    async with node_serving(buyer.running.proxy) as node, open_socket(node) as socket:
        await asyncio.sleep(2.1)
        await socket.send("paid")
        assert await socket.recv() == "paid"
        await buyer.month_passes()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        assert (socket.close_code, socket.close_reason) == (4402, "payment_due")


async def _used(buyer: Subscriber, subscription_id: str) -> None:
    """The seller counts the seconds that it was open, soon after it is over."""
    for _ in range(100):
        await buyer.all.look(subscription_id)
        view = await buyer.view(subscription_id)
        if view.used_stream_seconds:
            break
        await asyncio.sleep(0.1)
    assert 1 <= view.used_stream_seconds <= 60
    assert view.used_calls == 1
