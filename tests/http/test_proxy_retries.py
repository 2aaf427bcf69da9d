"""A call that may have been charged is asked for with its own signature until that is known."""

from __future__ import annotations

from pathlib import Path

from finance.x402.values import Payment, Receipt
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, served
from tests.http.scripted_seller import ScriptedSeller, honest


async def test_a_retry_that_fails_does_not_free_the_signature_before_it(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The first try may have been charged; that the second was turned away proves nothing."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def hangs(this: ScriptedSeller, _: Payment) -> tuple[int, Receipt | None]:
        await this.hang.wait()
        return 200, None

    async def starting(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 503, None

    async with served(seller) as base:
        node.list("x", base)
        async with node.running(answer_seconds=0.5) as proxy:
            seller.behave = hangs
            assert (await proxy.call("x/y", key="k")).status_code == 504
            seller.hang.set()
            seller.behave = starting
            assert (await proxy.call("x/y", key="k")).status_code == 503
            seller.behave = honest
            assert (await proxy.call("x/y", key="k")).status_code == 200
    assert len(seller.seen) == 3
    assert len(set(seller.seen)) == 1
