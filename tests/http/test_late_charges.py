"""What was spent is what the pages say, also where it is known only after a call has ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from finance.x402.values import Payment, Receipt
from node.usage.call_list import CallFilter, CallLine, read_calls
from node.usage.dashboard import read_dashboard
from node.usage.models import Side
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, Running, buying, left_open
from tests.http.scripted_seller import ScriptedSeller, charge, charges_and_hangs, honest, keeps


def shown(node: BuyerNode) -> tuple[CallLine, ...]:
    """The page of calls; the first page says the same of their cost."""
    calls = read_calls(node.engine, CallFilter(Side.BOUGHT), None, 100).calls
    page = read_dashboard(node.engine, Side.BOUGHT, int(time.time()))
    assert page.day.amount_atoms == page.ever.amount_atoms == -node.booked("spent")
    assert page.day.amount_atoms == sum(each.amount_atoms for each in calls)
    assert page.day.calls == page.ever.calls == len(calls)
    return tuple(reversed(calls))


async def test_a_call_that_timed_out_shows_what_it_is_proved_to_have_cost(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The next call on its channel is told that its amount is taken."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/1", "k", charges_and_hangs)
        (lost,) = shown(node)
        assert (lost.status, lost.amount_atoms) == (504, 0)
        assert (await proxy.call("x/2")).status_code == 200
    lost, after = shown(node)
    assert (lost.status, lost.scheme, lost.amount_atoms) == (504, "batch-settlement", 1_000)
    assert (after.status, after.amount_atoms) == (200, 1_000)
    node.check_books()


async def test_an_answer_without_a_receipt_shows_what_it_is_proved_to_have_cost(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def forgets(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        charge(this, payment)
        return 200, None

    async with buying(node, seller) as proxy:
        seller.behave = forgets
        assert (await proxy.call("x/1")).status_code == 200
        seller.behave = honest
        assert (await proxy.call("x/2")).status_code == 200
    assert [each.amount_atoms for each in shown(node)] == [1_000, 1_000]
    node.check_books()


async def test_a_retry_whose_own_charge_is_proved_to_it_says_that_its_answer_is_lost(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """This seller keeps no answers, and says what it has charged."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/1", "k", charges_and_hangs)
        again = [await proxy.call("x/1", key="k") for _ in range(2)]
    assert [each.json()["code"] for each in again] == ["answer_lost"] * 2
    assert [(each.status, each.amount_atoms) for each in shown(node)] == [(504, 1_000)] + [
        (502, 0)
    ] * 2
    node.check_books()


async def test_what_is_proved_while_another_price_is_paid_shows_at_the_call_that_was_charged(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The first voucher of the second call, at the old price, was over the same amount."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/1", "k", charges_and_hangs)
        seller.price = 2_000
        assert (await proxy.call("x/1")).status_code == 200
    assert [(each.status, each.amount_atoms) for each in shown(node)] == [
        (504, 1_000),
        (200, 2_000),
    ]
    node.check_books()


async def test_a_charged_call_that_nobody_journaled_is_journaled_by_its_proof(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Whoever made it was cut off between its signature and its end."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    seller.behave = charges_and_hangs
    async with buying(node, seller) as proxy:
        cut = asyncio.create_task(proxy.ask("x/cities/paris"))
        async with asyncio.timeout(10):
            while not seller.charged:
                await asyncio.sleep(0.01)
        cut.cancel()
        await asyncio.gather(cut, return_exceptions=True)
        seller.hang.set()
        assert shown(node) == ()
        seller.behave = honest
        assert (await proxy.call("x/after")).status_code == 200
    lost, _ = shown(node)
    assert (lost.method, lost.path, lost.route) == ("GET", "/cities/paris", "GET /*")
    assert (lost.status, lost.error, lost.amount_atoms) == (502, "answer_lost", 1_000)
    assert (lost.listing, lost.key_id) == ("x", "key-1")
    node.check_books()


async def test_an_answer_that_is_given_again_costs_nothing_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """It broke off after its charge: the call that broke off has cost, its repetition not."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    seller.behave = keeps
    async with buying(node, seller) as proxy:
        seller.breaks_off = True
        assert (await proxy.call("x/y", key="k")).status_code == 502
        assert [each.amount_atoms for each in shown(node)] == [1_000]
        seller.breaks_off = False
        assert (await proxy.call("x/y", key="k")).status_code == 200
    assert [each.amount_atoms for each in shown(node)] == [1_000, 0]
    node.check_books()


async def test_a_charge_shows_at_the_call_whose_answer_it_bought(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Two were signed over the same amount, the first was charged: a proof cannot tell which."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await _lose_two(proxy, seller)
        seller.behave = keeps
        assert (await proxy.call("x/after")).status_code == 200
        assert [each.amount_atoms for each in shown(node)] == [0, 1_000, 1_000]
        assert (await proxy.call("x/1", key="first")).status_code == 200
    assert [each.amount_atoms for each in shown(node)] == [0, 0, 1_000, 1_000]
    assert [each.status for each in shown(node)] == [504, 503, 200, 200]
    node.check_books()


async def _lose_two(proxy: Running, seller: ScriptedSeller) -> None:
    """The first is charged and its answer kept; the second fails."""

    async def hangs_and_keeps(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        kept = await keeps(this, payment)
        await this.hang.wait()
        return kept

    async def fails(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 503, None

    await left_open(proxy, seller, "x/1", "first", hangs_and_keeps)
    seller.behave = fails
    assert (await proxy.call("x/2", key="second")).status_code == 503
