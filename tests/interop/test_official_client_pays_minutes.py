"""The official x402 client keeps a stream going that a node sells by the minute: each further
minute is one call like any other, paid by either scheme."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm.batch_settlement.client import InMemoryClientChannelStorage

from tests.chain_fixtures import DevchainProcess
from tests.interop.official_buyer import (
    batch_scheme,
    client,
    exact_scheme,
    new_account,
    plain,
    receipt_of,
    with_rpc,
)
from tests.interop.seller_node import PRICE, SellerNode, served_in_thread, wait_until

MINUTE = 60


class Ticks:
    """Events without end."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await receive()
        leaving = asyncio.create_task(receive())
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
            await asyncio.wait({leaving}, timeout=0.2)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SellerNode]:
    folder: Path = tmp_path_factory.mktemp("seller")
    with (
        DevchainProcess() as chain,
        served_in_thread(Ticks()) as api,
        SellerNode(folder, chain) as node,
    ):
        sold = ("--upstream", api, "--price", "0.001/minute")
        node.farebox("listing", "add", "Ticker", *sold)
        offered = f"{node.gateway_url}/v1/ticker/now"
        wait_until(lambda: httpx.get(offered).status_code == 402, 10, "the node sells it")
        yield node


@pytest.fixture
def three_minutes(node: SellerNode) -> Iterator[None]:
    """What has been earned at the end, wherever one looks."""
    before = node.earned()
    yield
    node.claim()
    assert node.earned().since(before) == (3 * PRICE,) * 4
    assert node.reconcile() == []


@pytest.mark.parametrize("scheme", ["exact", "batch-settlement"])
async def test_an_official_client_pays_a_minute_by_hand(
    node: SellerNode, scheme: str, three_minutes: None
) -> None:
    account = new_account(node)
    if scheme == "exact":
        paying = client(exact_scheme(plain(account)))
    else:
        storage = InMemoryClientChannelStorage()
        paying = client(batch_scheme(with_rpc(account, node), storage=storage))
    base = f"{node.gateway_url}/v1/ticker"
    async with x402HttpxClient(paying, timeout=60) as http:
        headers = {"Accept": "text/event-stream"}
        async with http.stream("GET", f"{base}/now", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            stream = answer.headers["farebox-stream"]
            until = int(answer.headers["farebox-paid-until"])
            for minutes in (1, 2):
                paid = await http.post(f"{base}/.farebox/streams/{stream}")
                assert paid.status_code == 200, paid.text
                assert paid.json()["paid_until"] == until + minutes * MINUTE
                assert receipt_of(paid).success
            async for line in answer.aiter_lines():
                assert line == "data: tick"
                break
        while (await http.get(f"{base}/.farebox/streams/{stream}")).json()["state"] != "over":
            await asyncio.sleep(0.1)
        late = await http.post(f"{base}/.farebox/streams/{stream}")
        assert (late.status_code, late.json()["code"]) == (410, "stream_over")
