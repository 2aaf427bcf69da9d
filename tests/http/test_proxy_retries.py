"""A call that may have been charged is asked for with its own signature until that is known."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import TextClause, text

from finance.buying import onchain
from finance.buying.purchase import END_PURCHASE, INSERT_PURCHASE
from finance.store import Batch
from finance.x402.values import Payment, Receipt
from node.db.engine import writer
from node.db.journal import Journal
from node.proxy.idempotency import KEPT_BYTES
from node.usage.answers import forget_answers
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import BuyerNode, buying, left_open
from tests.http.scripted_seller import (
    ScriptedSeller,
    charge,
    charges_and_hangs,
    charges_double,
    honest,
    keeps,
)


async def test_a_retry_that_fails_does_not_free_the_signature_before_it(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The first try may have been charged; that the second was turned away proves nothing."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def starting(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 503, None

    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        seller.behave = starting
        assert (await proxy.call("x/y", key="k")).status_code == 503
        seller.behave = honest
        assert (await proxy.call("x/y", key="k")).status_code == 200
    assert len(seller.seen) == 3
    assert len(set(seller.seen)) == 1


@pytest.mark.parametrize("scheme", ["batch-settlement", "exact"])
async def test_an_answer_that_broke_off_after_its_charge_is_asked_for_again(
    tmp_path: Path, chain: DevchainProcess, scheme: str
) -> None:
    """The receipt came, the body did not: the seller has the answer, the signature gets it."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller(scheme)
    seller.behave = keeps
    async with buying(node, seller) as proxy:
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


async def test_a_database_that_cannot_be_read_is_said_so_and_nothing_is_paid(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    away = "ALTER TABLE stored_answer RENAME TO away", "ALTER TABLE away RENAME TO stored_answer"
    async with buying(node, seller) as proxy:
        for sql in away:
            with writer(node.engine).begin() as connection:
                connection.execute(text(sql))
            answer = await proxy.call("x/y", key="k")
            if sql == away[0]:
                assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
                assert seller.seen == []
    assert answer.status_code == 200


async def test_a_broken_answer_that_the_seller_did_not_keep_is_not_paid_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller) as proxy:
        seller.breaks_off = True
        assert (await proxy.call("x/y", key="k")).status_code == 502
        seller.breaks_off = False
        lost = [await proxy.call("x/y", key="k") for _ in range(2)]
    assert [each.json()["code"] for each in lost] == ["answer_lost"] * 2
    assert len(set(seller.seen)) == 1
    assert node.booked("spent") == -seller.price
    node.check_books()


async def test_a_long_answer_that_broke_off_is_asked_for_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """It is too long to be kept here. The seller takes back what it charged for the half of it."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def takes_back(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
        receipt = charge(this, payment)
        this.charged[payment.payload.channel_id] -= this.price
        return 200, receipt

    async with buying(node, seller) as proxy:
        await proxy.call("x/before")
        seller.body = bytes(3 * KEPT_BYTES)
        seller.behave, seller.breaks_off = takes_back, True
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                await proxy.call("x/y", key="k")
        seller.behave, seller.breaks_off = honest, False
        whole, again = [await proxy.call("x/y", key="k") for _ in range(2)]
    assert (whole.status_code, whole.content) == (200, seller.body)
    assert (again.status_code, again.json()["code"]) == (409, "answer_not_kept")
    assert len(set(seller.seen)) == 2
    assert sum(seller.charged.values()) == -node.booked("spent") == 2 * seller.price
    node.check_books()


async def test_a_call_whose_answer_is_kept_no_more_is_not_paid_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/y", key="k")).status_code == 200
        assert forget_answers(node.engine, int(time.time()) + 1) == 1
        again = await proxy.call("x/y", key="k")
    assert (again.status_code, again.json()["code"]) == (409, "answer_not_kept")
    assert len(seller.seen) == 1


async def test_an_error_that_was_charged_for_is_the_answer(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def charges_for_nothing(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
        return 404, charge(this, payment)

    seller.behave = charges_for_nothing
    async with buying(node, seller) as proxy:
        answers = [await proxy.call("x/y", key="k") for _ in range(2)]
    assert [each.status_code for each in answers] == [404, 404]
    assert answers[1].headers["farebox-replayed"] == "true"
    assert len(seller.seen) == 1
    assert node.booked("spent") == -seller.price


async def test_an_answer_that_came_with_a_wrong_receipt_is_kept_and_not_paid_again(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    seller.behave = charges_double
    async with buying(node, seller) as proxy:
        answers = [await proxy.call("x/y", key="k") for _ in range(2)]
    assert [each.json() for each in answers] == [{"served": True}] * 2
    assert answers[1].headers["farebox-replayed"] == "true"
    assert len(seller.seen) == 1


async def test_a_retry_that_is_answered_for_nothing_costs_nothing(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The seller had failed, and charged another call over the same amount. By now it is free."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def fails(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 500, None

    async def is_free(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 200, None

    async with buying(node, seller) as proxy:
        answers = []
        for behave, path, key in (
            (fails, "x/1", "k"),
            (honest, "x/2", None),
            (is_free, "x/1", "k"),
        ):
            seller.behave = behave
            answers.append(await proxy.call(path, key=key))
    assert [each.status_code for each in answers] == [500, 200, 200]
    assert [each.headers["farebox-cost"] for each in answers] == ["0", "0.001", "0"]
    assert sum(each.charged_atoms for each in node.purchases) == seller.price
    node.check_books()


async def test_an_authorization_that_ran_out_unused_is_paid_anew(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")

    async def too_late(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        seller.behave = honest
        return 402, None

    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        seller.behave = too_late
        monkeypatch.setattr(onchain, "EXPIRED_SECONDS", -600)
        assert (await proxy.call("x/y", key="k")).status_code == 200
    assert len(seller.seen) == 3
    assert len(set(seller.seen)) == 2
    assert node.booked("spent") == -seller.price


async def test_a_call_that_is_cut_off_while_its_answer_comes_is_booked(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Its channel serves the next call, and its key still gets the answer."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    seller.behave = keeps
    async with buying(node, seller) as proxy:
        seller.pauses = True
        cut = asyncio.create_task(proxy.ask("x/y", "k"))
        async with asyncio.timeout(10):
            while not seller.seen:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # its head is here
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        seller.pauses = False
        seller.hang.set()
        answers = [await proxy.call("x/y", key=key) for key in ("after", "k")]
    assert [each.status_code for each in answers] == [200, 200]
    assert len(node.channels) == 1
    assert node.booked("spent") == -2 * seller.price
    node.check_books()


@pytest.mark.parametrize("statement", [INSERT_PURCHASE, END_PURCHASE])
async def test_a_call_that_is_cut_off_while_it_is_written_leaves_its_channel_right(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch, statement: TextClause
) -> None:
    """Be it what it signs, or what it was charged."""
    node, seller, commit = BuyerNode(tmp_path, chain), ScriptedSeller(), Journal.commit

    async def commit_and_cut(journal: Journal, batch: Batch) -> None:
        if any(write.statement is statement for write in batch.writes):
            asyncio.get_running_loop().call_soon(cut.cancel)
        await commit(journal, batch)

    seller.behave = keeps
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/y")).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "commit", commit_and_cut)
            cut = asyncio.create_task(proxy.ask("x/y", "k"))
            await asyncio.gather(cut, return_exceptions=True)
            # It waits for nothing more once it has been written what it was charged.
            assert cut.cancelled() == (statement is INSERT_PURCHASE)
        calls = (("x/z", "after"), ("x/y", "k"), ("x/z", "last"))
        answers = [await proxy.call(path, key=key) for path, key in calls]
    assert [each.status_code for each in answers] == [200] * 3
    assert len(node.channels) == 1
    assert sum(seller.charged.values()) == -node.booked("spent") == 4 * seller.price
    node.check_books()


async def test_a_call_after_a_lost_answer_needs_no_higher_limit_than_its_price(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Its first voucher is refused: the one before it, over the same amount, was charged."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        node.limit("call", 1_000)
        await proxy.proxy.reload()
        await left_open(proxy, seller, "x/1", "k", charges_and_hangs)
        assert (await proxy.call("x/2")).status_code == 200
    assert len(seller.seen) == 3
    assert sum(seller.charged.values()) == -node.booked("spent") == 2_000
    node.check_books()
