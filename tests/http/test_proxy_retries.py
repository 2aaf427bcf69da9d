"""A call that may have been charged is asked for with its own signature until that is known."""

from __future__ import annotations

from pathlib import Path

from finance.x402.values import Payment, Receipt
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, served
from tests.http.scripted_seller import ScriptedSeller, honest, keeps


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


async def test_an_answer_that_broke_off_after_its_charge_is_asked_for_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The receipt came, the body did not: the seller has the answer, the signature gets it."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    seller.behave = keeps
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            assert (await proxy.call("x/y", key="before")).status_code == 200
            seller.breaks_off = True
            for _ in range(2):
                broken = await proxy.call("x/y", key="k")
                assert (broken.status_code, broken.json()["code"]) == (502, "seller_failed")
                assert "charged" in broken.json()["detail"]
            seller.breaks_off = False
            answers = [await proxy.call("x/y", key="k") for _ in range(2)]
            assert (await proxy.call("x/y", key="after")).status_code == 200
    assert [each.status_code for each in answers] == [200, 200]
    assert answers[0].json() == {"served": True}
    assert answers[0].headers["farebox-cost"] == answers[1].headers["farebox-cost"] == "0.001"
    assert len(set(seller.seen)) == 3
    assert node.booked("spent") == -3 * seller.price
    assert sum(each.amount_atoms for each in node.calls) == 3 * seller.price
    node.check_books()


async def test_a_broken_answer_that_the_seller_did_not_keep_is_not_paid_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            seller.breaks_off = True
            assert (await proxy.call("x/y", key="k")).status_code == 502
            seller.breaks_off = False
            lost = [await proxy.call("x/y", key="k") for _ in range(2)]
    assert [each.json()["code"] for each in lost] == ["answer_lost"] * 2
    assert len(set(seller.seen)) == 1
    assert node.booked("spent") == -seller.price
    node.check_books()
