"""Sellers that bill what was not bought, or do not answer: nobody else is hurt by them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import text

from finance.buying.models import SpendCounter
from finance.buying.recovery import settle_exact
from finance.money import Usdc
from finance.x402.values import ExactPayment
from finance.x402.wire import decode_payment, encode_payment
from node.accounts.audit import SYSTEM
from node.accounts.models import AuditEntry
from node.gateway.app import Gateway
from node.plans.buying.errors import NotPossibleNow, SellerSaysNo
from node.plans.terms import Beyond
from node.usage.windows import window_of
from tests.http.conftest import free_port, serving
from tests.http.plans_world import Seller
from tests.http.proxy_world import served
from tests.http.scripted_seller import ScriptedSeller
from tests.http.subscriber_world import DAY, LISTING, Subscriber
from tests.http.test_subscriptions import agreed_to, buyer, chain, seller

__all__ = ["buyer", "chain", "seller"]  # fixtures


async def test_what_a_hostile_seller_bills_neither_counts_nor_stops_the_others(
    buyer: Subscriber, seller: Seller
) -> None:
    plan, write = seller.plan(price=3_000_000), seller.world.engine.begin
    subscription_id, other = await buyer.subscribed(plan), await _second(buyer, plan)
    await _look_at_all(buyer)
    mine, theirs = buyer.bills
    with write() as connection:
        # Of the other's payment, of payments that were none, of more than a sum can hold.
        sold = "SELECT subscription_id FROM invoice WHERE number = :number"
        its_id = connection.execute(text(sold), {"number": mine.number}).scalar_one()
        copied = "INSERT INTO invoice SELECT :id, side, :number, :id, NULL, :of, listing_id,"
        copied += " listing_name, plan_name, :seller, buyer, buyer_name, buyer_email,"
        copied += " period_start, period_end, lines, :atoms, chain_id, tx_hash, paid_at"
        copied += " FROM invoice WHERE number = :mine"
        stranger, much = "0x" + "77" * 20, 2**63 - 1
        forged = [(theirs.number, stranger, theirs.amount_atoms), ("X-1", mine.seller, much)]
        forged += [(f"Y-{n}", mine.seller, mine.amount_atoms) for n in range(30)]
        forged += [("Z", stranger.upper(), much), (theirs.number.lower(), theirs.seller, 1)]
        for at, (number, who, atoms) in enumerate(forged, 1_000):
            row = {"id": at, "number": number, "of": its_id, "mine": mine.number}
            connection.execute(text(copied), row | {"seller": who, "atoms": atoms})
    await _look_at_all(buyer)
    assert [each.number for each in buyer.bills] == [mine.number, theirs.number]
    for each in (subscription_id, other):
        assert (await buyer.view(each)).sync_failed == ""


@pytest.mark.parametrize("free_before", [False, True])
async def test_a_month_is_not_paid_again_because_the_seller_gives_another_date(
    buyer: Subscriber, seller: Seller, free_before: bool
) -> None:
    plan = seller.plan(price=3_000_000, grace_days=14)
    first = seller.plan("Free", 0, calls=31) if free_before else plan
    subscription_id = await buyer.subscribed(first, month_atoms=3_000_000)
    if free_before:
        upgraded = await buyer.all.upgrade(SYSTEM, subscription_id, plan.id, 3_000_000)
        assert upgraded.state == "done"
    orders = len(buyer.orders)
    with seller.world.engine.begin() as connection:
        earlier = "UPDATE subscription_period SET ends_at = :now, starts_at = :now - 60"
        connection.execute(text(earlier), {"now": int(time.time()) - 1})
    await seller.gate.refresh([row[0] for row in seller.rows("SELECT id FROM subscription")])
    await buyer.all.look(subscription_id)
    for _ in range(2):
        await buyer.upkeep.run()
    assert (await buyer.view(subscription_id)).state == "grace"
    assert (len(buyer.paid), len(buyer.orders)) == (1, orders)
    assert "It is not paid again by itself" in buyer.incidents()["renewal_failed"]


async def test_one_subscription_in_trouble_does_not_stop_the_renewals_of_others(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(price=3_000_000)
    broken, sound = await buyer.subscribed(plan), await _second(buyer, plan)
    end = (await buyer.view(sound)).paid_until
    buyer.clock.ahead = end - int(time.time()) - DAY // 2
    buyer.write("UPDATE bought_subscription SET next_plan = '{' WHERE id = :id", id=broken)
    with pytest.raises(msgspec.DecodeError):  # the job is seen to fail, at its end
        await buyer.upkeep.run()
    assert (await buyer.view(sound)).paid_until == window_of(end).end
    assert buyer.paid[2:] == [3_000_000]


async def test_an_order_is_given_up_when_what_was_signed_can_be_charged_no_more(
    buyer: Subscriber, seller: Seller
) -> None:
    plan, before = seller.plan(), buyer.usdc
    silent = ScriptedSeller("exact", price=1_000)
    silent.behave = _takes_and_is_silent
    async with served(silent) as url:
        subscription_id, order_id = await buyer.all.order(SYSTEM, LISTING, plan.id, agreed_to(plan))
        buyer.write("UPDATE bought_subscription SET base_url = :url", url=url)
        assert (await buyer.all.carry_out(order_id)).state == "open"
        outcome = await buyer.all.give_up(SYSTEM, subscription_id)
        assert outcome.state == "giving_up"
        assert "may be charged until" in outcome.detail and "UTC" in outcome.detail
        with pytest.raises(NotPossibleNow):
            await buyer.subscribe(plan)
        for _ in range(3):
            await buyer.upkeep.run()
        assert len(silent.seen) == 1  # not sent again
        _expire(buyer)
        await settle_exact(buyer.running.proxy.buyer)
        await buyer.upkeep.run()
    view = await buyer.view(subscription_id)
    assert (view.state, view.orders[0].state, view.orders[0].charged_atoms) == (
        "failed",
        "given_up",
        0,
    )
    assert (buyer.usdc, len(silent.seen)) == (before, 1)
    assert [row.spent_atoms for row in buyer.node.rows(SpendCounter)] == [0, 0, 0]
    audit = [row.action for row in buyer.node.rows(AuditEntry)]
    assert audit[-2:] == ["subscription.give_up", "subscription.given_up"]
    with pytest.raises(NotPossibleNow):
        await buyer.all.give_up(SYSTEM, subscription_id)
    await buyer.subscribed(plan)


async def test_an_order_that_was_charged_for_nothing_is_given_up_and_says_so(
    buyer: Subscriber, seller: Seller
) -> None:
    plan, before = seller.plan(), buyer.usdc
    # Nothing is signed where nobody answers: it is given up at once.
    first, order_id = await buyer.all.order(SYSTEM, LISTING, plan.id, agreed_to(plan))
    buyer.write("UPDATE bought_subscription SET base_url = 'http://127.0.0.1:9/v1/api'")
    assert (await buyer.all.carry_out(order_id, patient=True)).state == "open"
    outcome = await buyer.all.give_up(SYSTEM, first)
    assert (outcome.state, outcome.charged_atoms) == ("given_up", 0)
    # An answer that cannot be read, to an order that was paid.
    subscription_id, order_id = await buyer.all.order(SYSTEM, LISTING, plan.id, agreed_to(plan))
    with seller.world.engine.begin() as connection:
        connection.execute(text("UPDATE plan SET name = 'Pro' || char(7)"))
    assert (await buyer.all.carry_out(order_id)).code == "answer_unreadable"
    buyer.clock.ahead = 3_600
    await buyer.upkeep.run()
    assert [each.state for each in buyer.orders if each.id == order_id] == ["open"]
    price = before - buyer.usdc
    outcome = await buyer.all.give_up(SYSTEM, subscription_id)
    assert (outcome.state, outcome.charged_atoms) == ("given_up", price)
    view = await buyer.view(subscription_id)
    assert view.orders[0].tx_hash and f"{Usdc(price)} USDC were charged" in view.orders[0].detail
    assert (view.state, buyer.incidents(), buyer.paid) == ("failed", {}, [price])


async def test_what_is_cancelled_is_not_renewed_by_an_order_that_waits_for_its_seller(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    end, paid = (await buyer.view(subscription_id)).paid_until, buyer.paid
    buyer.clock.ahead = end - int(time.time()) - DAY // 2
    buyer.write("UPDATE bought_subscription SET base_url = 'http://127.0.0.1:9/v1/api'")
    buyer.write("UPDATE listing SET base_url = 'http://127.0.0.1:9/v1/api'")
    await buyer.upkeep.run()
    assert buyer.orders[-1].state == "open"
    with pytest.raises(NotPossibleNow, match="under way"):
        await buyer.all.choose(SYSTEM, subscription_id, True, 0, Beyond.PAY)
    with pytest.raises(SellerSaysNo, match="not renewed any more all the same"):
        await buyer.all.cancel(SYSTEM, subscription_id)
    for table in ("bought_subscription", "listing"):
        buyer.write(f"UPDATE {table} SET base_url = :url", url=f"{seller.url}/v1/api")
    buyer.clock.ahead += 900
    await buyer.upkeep.run()
    view = await buyer.view(subscription_id)
    assert (buyer.paid, view.paid_until) == (paid, end)
    assert {each.kind: each.state for each in view.orders} == {
        "subscribe": "done",
        "renewal": "given_up",
    }


@pytest.mark.parametrize(("renews", "agreed"), [(False, 3_000_000), (True, 1_000_000)])
async def test_what_is_chosen_while_the_job_waits_for_another_seller_holds(
    buyer: Subscriber, seller: Seller, renews: bool, agreed: int
) -> None:
    plan = seller.plan(price=3_000_000)
    slow, other = await buyer.subscribed(plan), await _second(buyer, plan)
    end, paid = (await buyer.view(other)).paid_until, buyer.paid
    buyer.clock.ahead = end - int(time.time()) - DAY // 2
    buyer.write("UPDATE bought_subscription SET synced_at = :now", now=int(buyer.clock()))
    front, port = _Slow(seller.market.gateway), free_port()
    async with serving(front, port):
        _turn_to(buyer, slow, port)
        run = asyncio.create_task(buyer.upkeep.run())
        await front.arrived.wait()
        await buyer.all.choose(SYSTEM, other, renews, agreed, Beyond.PAY)
        front.go_on.set()
        await run
    assert (buyer.paid, (await buyer.view(other)).paid_until) == (paid, end)
    assert ("renewal_failed" in buyer.incidents()) is renews  # dearer than agreed


async def test_a_month_renewed_by_hand_while_the_job_waits_for_another_seller_is_used(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(price=3_000_000, grace_days=0)
    slow, other = await buyer.subscribed(plan), await _second(buyer, plan)
    buyer.write("UPDATE bought_subscription SET renews = false, synced_at = :now", now=2**31)
    await buyer.month_passes()
    front, port = _Slow(seller.market.gateway), free_port()
    async with serving(front, port):
        _turn_to(buyer, slow, port)
        run = asyncio.create_task(buyer.upkeep.run())
        await front.arrived.wait()
        assert (await buyer.all.renew(SYSTEM, other, 3_000_000)).state == "done"
        front.go_on.set()
        await run
    assert (await buyer.view(other)).state == "active"
    assert (await buyer.running.call("more/echo")).headers["farebox-scheme"] == "plan"


async def test_a_renewal_that_failed_and_is_paid_by_hand_is_trouble_no_more(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000), month_atoms=1_000_000)
    buyer.clock.ahead = (await buyer.view(subscription_id)).paid_until - int(time.time()) - DAY // 2
    await buyer.upkeep.run()
    assert "renewal_failed" in buyer.incidents()
    assert (await buyer.all.renew(SYSTEM, subscription_id, 3_000_000)).state == "done"
    await buyer.upkeep.run()
    assert buyer.incidents() == {}


async def test_a_renewal_that_is_being_paid_by_hand_is_no_trouble(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000))
    buyer.clock.ahead = (await buyer.view(subscription_id)).paid_until - int(time.time()) - DAY // 2
    by_hand = asyncio.create_task(buyer.all.renew(SYSTEM, subscription_id, 3_000_000))
    while len(buyer.orders) < 2:
        await asyncio.sleep(0.005)
    await buyer.upkeep.run()
    assert (await by_hand).state == "done"
    assert buyer.incidents() == {}


async def test_a_look_in_the_middle_of_a_rotation_does_not_lose_the_new_key(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    front, port = _SlowRotation(seller.market.gateway), free_port()
    async with serving(front, port):
        there = f"http://127.0.0.1:{port}/v1/api"
        buyer.write("UPDATE bought_subscription SET base_url = :url", url=there)
        rotation = asyncio.create_task(buyer.all.rotate(SYSTEM, subscription_id))
        await front.arrived.wait()
        assert (await buyer.all.look(subscription_id)).problem == ""
        front.go_on.set()
        with suppress(SellerSaysNo):
            await rotation
        assert (await buyer.all.look(subscription_id)).problem == ""
    buyer.write("UPDATE bought_subscription SET base_url = :url", url=f"{seller.url}/v1/api")
    await buyer.running.proxy.reload()
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"


async def test_a_month_that_went_by_while_the_node_was_off_is_paid_by_no_order_left_open(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000))
    end, paid = (await buyer.view(subscription_id)).paid_until, buyer.paid
    at = end - DAY // 2
    args = SYSTEM, subscription_id, 3_000_000, at, end
    await asyncio.to_thread(buyer.all.ordering.renewal, *args)
    for _ in range(2):
        await buyer.month_passes()
    begun = window_of(int(time.time())).start
    before = window_of(begun - 1).start
    buyer.write(
        "UPDATE bought_order SET slot = :slot WHERE kind = 'renewal'", slot=f"renewal:{before}"
    )
    buyer.write("UPDATE bought_subscription SET paid_until = :before", before=before)
    for _ in range(2):
        await buyer.upkeep.run()
    view = await buyer.view(subscription_id)
    assert (buyer.paid, view.state) == (paid, "lapsed")
    assert {each.kind: each.state for each in view.orders} == {
        "subscribe": "done",
        "renewal": "given_up",
    }
    assert (await buyer.all.renew(SYSTEM, subscription_id, 3_000_000)).state == "done"


async def test_an_old_answer_of_the_seller_does_not_end_what_was_renewed_since(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000, grace_days=0))
    await buyer.month_passes()
    front, port = _SlowAnswers(seller.market.gateway), free_port()
    async with serving(front, port):
        there = f"http://127.0.0.1:{port}/v1/api"
        for table in ("bought_subscription", "listing"):
            buyer.write(f"UPDATE {table} SET base_url = :url", url=there)
        await buyer.running.proxy.reload()
        look = asyncio.create_task(buyer.all.look(subscription_id))
        await front.arrived.wait()
        assert (await buyer.all.renew(SYSTEM, subscription_id, 3_000_000)).state == "done"
        front.go_on.set()
        assert (await look).problem == ""
        await buyer.upkeep.run()
        assert (await buyer.view(subscription_id)).state == "active"
        assert (await buyer.call()).headers["farebox-scheme"] == "plan"


class _Slow:
    """The gateway, which answers only when it is told to."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.arrived.set()
            await self.go_on.wait()
        await self._gateway(scope, receive, send)


class _SlowAnswers(_Slow):
    """The gateway, whose answers to what costs nothing come late."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        said: list[Any] = []

        async def keep(message: Any) -> None:
            said.append(message)

        asked = scope["type"] == "http" and scope["method"] == "GET"
        await self._gateway(scope, receive, keep if asked else send)
        if asked:
            self.arrived.set()
            await self.go_on.wait()
        for message in said:
            await send(message)


class _SlowRotation:
    """The gateway, which changes a key only when it is told to, and then says nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def lose(_: Any) -> None:
            return None

        if scope["method"] != "PUT":
            await self._gateway(scope, receive, send)
            return
        self.arrived.set()
        await self.go_on.wait()
        await self._gateway(scope, receive, lose)


async def _takes_and_is_silent(_: ScriptedSeller, __: Any) -> tuple[int, None]:
    return 500, None


def _expire(buyer: Subscriber) -> None:
    """The signature's hour passes: its end is written back in time."""
    (row,) = buyer.node.purchases
    payment = decode_payment(row.payment_header)
    assert isinstance(payment.payload, ExactPayment)
    over = replace(payment.payload.authorization, valid_before=int(time.time()) - 600)
    expired = replace(payment.payload, authorization=over)
    header = encode_payment(payment.accepted, expired, payment.resource).decode()
    buyer.write("UPDATE purchase SET payment_header = :header", header=header)


async def _second(buyer: Subscriber, plan: Any) -> str:
    """The same seller's API, found at a second address of its own."""
    node, url = buyer.node, f"{buyer.seller.url}/v1/api"
    node.list("more", url)
    await buyer.running.proxy.reload()
    made, outcome = await buyer.all.subscribe(SYSTEM, "listing-more", plan.id, agreed_to(plan))
    assert outcome.state == "done", outcome
    return made


def _turn_to(buyer: Subscriber, subscription_id: str, port: int) -> None:
    """Its seller is asked again there, before the others are kept."""
    there = {"url": f"http://127.0.0.1:{port}/v1/api", "id": subscription_id}
    asked = "UPDATE bought_subscription SET synced_at = 0, renews = false, base_url = :url"
    buyer.write(f"{asked} WHERE id = :id", **there)


async def _look_at_all(buyer: Subscriber) -> None:
    for each in buyer.held:
        assert (await buyer.all.look(each.id)).problem == ""
