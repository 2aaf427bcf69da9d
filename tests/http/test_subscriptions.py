"""Plans bought by a node from a node, over a real chain: paid once, used, renewed, ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.accounts.audit import SYSTEM
from node.plans.buying.changing import Wanted
from node.plans.buying.errors import NotPossibleNow, SellerSaysNo, SubscriptionInvalid
from node.plans.buying.models import BoughtRequest
from node.plans.buying.ordering import Agreed
from node.plans.ending import When, end_subscription
from node.plans.errors import EndRefused
from node.plans.models import Invoice
from node.plans.requests import grant
from node.plans.terms import Beyond, first_stretch, upgrade_stretch
from node.usage.quotas import Meter
from node.usage.windows import window_of
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import free_port, serving
from tests.http.plans_world import Seller, open_seller
from tests.http.subscriber_world import DAY, LISTING, Subscriber, make_buyer, open_subscriber
from tests.recovery.seller_world import World
from tests.streams.test_gateway_events import Events


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


@pytest.fixture
async def seller(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[Seller]:
    folder = tmp_path / "seller"
    folder.mkdir()
    async with World(chain, folder) as world:
        async with open_seller(world) as seller:
            yield seller
        world.assert_books_balance()


@pytest.fixture
async def buyer(seller: Seller, tmp_path: Path) -> AsyncIterator[Subscriber]:
    folder = tmp_path / "buyer"
    folder.mkdir()
    node = make_buyer(folder, seller)
    async with open_subscriber(node, seller) as subscriber:
        yield subscriber
        node.check_books()


async def test_a_plan_is_paid_once_and_its_calls_cost_nothing_more(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(calls=1_000)
    before = buyer.usdc
    subscription_id = await buyer.subscribed(plan)
    price = first_stretch(plan.deal, int(buyer.clock())).price_atoms
    assert (buyer.usdc, buyer.paid) == (before - price, [price])
    answer = await buyer.call()
    assert (answer.status_code, answer.headers["farebox-scheme"]) == (200, "plan")
    assert answer.headers["farebox-cost"] == "0"
    assert answer.headers["cache-control"] == "no-store"
    assert buyer.usdc == before - price
    await buyer.all.look(subscription_id)
    view = await buyer.view(subscription_id)
    assert (view.state, view.used_calls, view.plan_name) == ("active", 1, "Pro")
    assert view.payments[0].charged_atoms == price


async def test_calls_beyond_the_quota_are_paid_one_by_one_where_the_operator_said_so(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(price=60_000_000, calls=60, beyond="pay")
    await buyer.subscribed(plan)
    calls = first_stretch(plan.deal, int(time.time())).calls
    assert calls is not None
    schemes = [(await buyer.call()).headers["farebox-scheme"] for _ in range(calls)]
    assert schemes == ["plan"] * calls
    beyond = await buyer.call()
    assert (beyond.status_code, beyond.headers["farebox-cost"]) == (200, "0.001")
    assert beyond.headers["farebox-scheme"] == "batch-settlement"
    again = await buyer.call()
    assert (again.status_code, again.headers["farebox-cost"]) == (200, "0.001")


@pytest.mark.parametrize("who", ["buyer", "seller"])
async def test_calls_beyond_the_quota_are_refused_unpaid_where_either_side_said_so(
    buyer: Subscriber, seller: Seller, who: str
) -> None:
    plan = seller.plan(calls=1, beyond="stop" if who == "seller" else "pay")
    await buyer.subscribed(plan, beyond=Beyond.STOP if who == "buyer" else Beyond.PAY)
    assert (await buyer.call()).status_code == 200
    before = buyer.usdc
    for _ in range(3):
        told = await buyer.call()
        assert (told.status_code, told.json()["code"]) == (402, "quota_exceeded")
        assert told.json()["resets_at"] == window_of(int(time.time())).end
        assert "payment-required" not in told.headers
    assert (buyer.usdc, len(buyer.node.channels)) == (before, 0)


async def test_stream_hours_end_apart_from_calls(buyer: Subscriber, seller: Seller) -> None:
    port, api = free_port(), Events()
    async with serving(api, port):
        seller.market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        seller.market.listings.clear()
        seller.market.sell(base=f"http://127.0.0.1:{port}/base")
        subscription_id = await buyer.subscribed(seller.plan(stream_seconds=31 * 3))
        stream = {"accept": "text/event-stream"}
        opened = await buyer.call("short", headers=stream)
        assert (opened.status_code, opened.headers["farebox-scheme"]) == (200, "plan")
        gate, seller_id = seller.gate, (await buyer.view(subscription_id)).seller_id
        subject = f"sub:{seller_id}"
        gate.quotas.reserve(subject, Meter.STREAM_SECONDS, 10**6, None, int(time.time()))
        for _ in range(2):
            told = await buyer.call("short", headers=stream)
            assert (told.status_code, told.json()["code"]) == (402, "quota_exceeded")
        unannounced = await buyer.call("short")
        assert (unannounced.status_code, unannounced.json()["meter"]) == (402, "stream_seconds")
        seller.market.listings.clear()
        seller.market.sell()
        assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    assert len(buyer.paid) == len(buyer.node.purchases) == 1


async def test_nothing_is_paid_above_what_was_agreed_to(buyer: Subscriber, seller: Seller) -> None:
    plan = seller.plan()
    before = buyer.usdc
    with pytest.raises(SubscriptionInvalid):
        await buyer.subscribe(plan, now_atoms=1)
    subscription_id, order_id = await buyer.all.order(SYSTEM, LISTING, plan.id, agreed_to(plan))
    buyer.write("UPDATE bought_order SET most_atoms = most_atoms - 1")
    outcome = await buyer.all.carry_out(order_id)
    assert (outcome.state, outcome.code) == ("failed", "price_above_agreed")
    assert (buyer.usdc, buyer.node.purchases) == (before, [])
    assert (await buyer.view(subscription_id)).state == "failed"


async def test_a_plan_above_the_limits_is_not_bought(buyer: Subscriber, seller: Seller) -> None:
    plan = seller.plan()
    buyer.write("UPDATE spend_limit SET limit_atoms = 5 WHERE scope = 'call'")
    await buyer.running.proxy.reload()
    _, outcome = await buyer.subscribe(plan)
    assert (outcome.state, outcome.code) == ("failed", "limit_exceeded_call")
    assert buyer.node.purchases == []
    buyer.write("UPDATE spend_limit SET limit_atoms = 100000000 WHERE scope = 'call'")
    await buyer.running.proxy.reload()
    await buyer.subscribed(plan)


async def test_a_listing_has_one_subscription_at_a_time(buyer: Subscriber, seller: Seller) -> None:
    plan = seller.plan()
    results = await asyncio.gather(
        *(buyer.subscribe(plan) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(each, NotPossibleNow) for each in results) == 4
    assert len(buyer.paid) == 1


async def test_a_renewal_is_told_before_and_paid_once_within_the_last_day(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(price=3_000_000)
    subscription_id = await buyer.subscribed(plan)
    end = (await buyer.view(subscription_id)).paid_until
    await buyer.upkeep.run()
    assert "renewal_soon" not in buyer.incidents() or end - time.time() < 3 * DAY
    buyer.clock.ahead = end - int(time.time()) - 2 * DAY
    await buyer.upkeep.run()
    assert "is renewed for 3 USDC" in buyer.incidents()["renewal_soon"]
    assert len(buyer.paid) == 1
    buyer.clock.ahead = end - int(time.time()) - DAY // 2
    for _ in range(3):
        await buyer.upkeep.run()
    assert buyer.paid[1:] == [3_000_000]
    assert buyer.incidents() == {}
    await buyer.all.look(subscription_id)
    view = await buyer.view(subscription_id)
    assert view.paid_until == window_of(end).end
    assert [each.kind for each in view.changes] == ["renewed", "subscribed", "ordered"]


async def test_a_month_is_paid_once_however_often_and_by_whom_it_is_renewed(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000))
    await buyer.month_passes()
    month = buyer.all.ordering.month(subscription_id, int(buyer.clock()))
    renewals = [buyer.all.renew(SYSTEM, subscription_id, 3_000_000, month) for _ in range(5)]
    await asyncio.gather(*renewals, buyer.upkeep.run(), return_exceptions=True)
    await buyer.upkeep.run()
    assert buyer.paid[1:] == [3_000_000]
    assert (await buyer.view(subscription_id)).state == "active"


async def test_a_page_to_renew_that_is_sent_again_does_not_buy_another_month(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(price=3_000_000))
    await buyer.month_passes()
    month = buyer.all.ordering.month(subscription_id, int(buyer.clock()))
    renewed = await buyer.all.renew(SYSTEM, subscription_id, 3_000_000, month)
    assert renewed.state == "done"
    with pytest.raises(NotPossibleNow, match="paid already"):
        await buyer.all.renew(SYSTEM, subscription_id, 3_000_000, month)
    with pytest.raises(NotPossibleNow, match="Look at it again"):
        await buyer.all.renew(SYSTEM, subscription_id, 3_000_000, month - 31 * DAY)
    assert buyer.paid[1:] == [3_000_000]


async def test_a_call_sent_twice_under_one_key_uses_the_plan_once(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    answers = [await buyer.call(key="once") for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert answers[1].headers["farebox-replayed"] == "true"
    assert answers[0].content == answers[1].content
    await buyer.all.look(subscription_id)
    assert (await buyer.view(subscription_id)).used_calls == 1


@pytest.mark.parametrize("beyond", list(Beyond))
async def test_a_seller_that_takes_no_key_is_paid_only_where_that_was_allowed(
    buyer: Subscriber, seller: Seller, beyond: Beyond
) -> None:
    await buyer.subscribed(seller.plan(beyond="pay"), beyond=beyond)
    right = buyer.held[0].secret_sealed
    wrong = buyer.node.keys.seal(b"fbs_of-nobody")
    buyer.write("UPDATE bought_subscription SET secret_sealed = :wrong", wrong=wrong)
    await buyer.running.proxy.plans.reload()
    answers = [await buyer.call() for _ in range(2)]
    if beyond is Beyond.PAY:
        assert [each.headers["farebox-cost"] for each in answers] == ["0.001", "0.001"]
    else:
        assert {each.json()["code"] for each in answers} == {"subscription_refused"}
        assert buyer.node.channels == []
    buyer.write("UPDATE bought_subscription SET secret_sealed = :right", right=right)
    await buyer.upkeep.run()  # asks the seller at once, and the key is tried again
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"


async def test_a_renewal_dearer_than_agreed_is_not_paid_and_lapses(
    buyer: Subscriber, seller: Seller
) -> None:
    plan = seller.plan(price=3_000_000, grace_days=3)
    subscription_id = await buyer.subscribed(plan)
    buyer.write("UPDATE bought_subscription SET agreed_atoms = 2999999")
    await buyer.month_passes()
    assert (await buyer.view(subscription_id)).state in ("grace", "lapsed")
    begun = window_of(int(time.time())).start
    buyer.clock.ahead = begun + DAY - int(time.time())
    await buyer.upkeep.run()
    assert (await buyer.view(subscription_id)).state == "grace"
    assert "agreed" in buyer.incidents()["renewal_failed"]
    await buyer.upkeep.run()
    assert [each.tries for each in buyer.orders if each.kind == "renewal"] == [1]
    buyer.clock.ahead += 6 * 3600
    await buyer.upkeep.run()
    assert [each.tries for each in buyer.orders if each.kind == "renewal"] == [2]
    buyer.clock.ahead = begun + 4 * DAY - int(time.time())
    await buyer.upkeep.run()
    assert len(buyer.paid) == 1
    assert list(buyer.incidents()) == ["subscription_lapsed"]
    assert (await buyer.view(subscription_id)).state == "lapsed"
    # Late, and by hand: it buys the present month, and its key is good again.
    outcome = await buyer.all.renew(SYSTEM, subscription_id, 3_000_000)
    assert (outcome.state, buyer.paid[1:]) == ("done", [3_000_000])
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"


async def test_an_upgrade_costs_the_rest_of_the_month_and_counts_at_once(
    buyer: Subscriber, seller: Seller
) -> None:
    small, large = seller.plan("S", 1_000_000, calls=30), seller.plan("L", 9_000_000, calls=3_000)
    subscription_id = await buyer.subscribed(small)
    quote = await buyer.all.quote_upgrade(subscription_id, large.id)
    expected = upgrade_stretch(small.deal, large.deal, int(time.time())).price_atoms
    assert quote.price_atoms == expected
    outcome = await buyer.all.upgrade(SYSTEM, subscription_id, large.id, quote.price_atoms)
    assert (outcome.state, outcome.charged_atoms) == ("done", expected)
    view = await buyer.view(subscription_id)
    assert (view.plan_name, view.next_price_atoms) == ("L", 9_000_000)


async def test_a_smaller_plan_is_bought_by_the_next_renewal(
    buyer: Subscriber, seller: Seller
) -> None:
    small, large = seller.plan("S", 1_000_000), seller.plan("L", 9_000_000)
    subscription_id = await buyer.subscribed(large)
    await buyer.all.choose_plan(SYSTEM, subscription_id, small.id)
    view = await buyer.view(subscription_id)
    assert view.next_plan is not None
    assert (view.plan_name, view.next_plan.name, view.next_price_atoms) == ("L", "S", 1_000_000)
    await buyer.all.choose_plan(SYSTEM, subscription_id, None)
    assert (await buyer.view(subscription_id)).next_plan is None


async def test_what_is_cancelled_is_good_to_its_end_and_never_paid_again(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    await buyer.all.cancel(SYSTEM, subscription_id)
    assert (await buyer.view(subscription_id)).state == "cancelled"
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    await buyer.month_passes()
    await buyer.upkeep.run()
    view = await buyer.view(subscription_id)
    assert (view.state, len(buyer.paid)) == ("ended", 1)
    assert (await buyer.call()).headers["farebox-scheme"] == "batch-settlement"


async def test_what_the_seller_ends_is_served_to_the_end_of_what_is_paid_and_never_renewed(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    seller_id, engine = buyer.held[0].seller_id, seller.world.engine
    given = (engine, seller_id, "The API  closes.")
    with pytest.raises(EndRefused) as refused:
        await asyncio.to_thread(end_subscription, *given, When.NOW, int(time.time()), SYSTEM)
    assert refused.value.code == "paid_until_end"
    now = int(time.time())
    until = await asyncio.to_thread(end_subscription, *given, When.PERIOD_END, now, SYSTEM)
    assert until == window_of(now).end
    with pytest.raises(EndRefused):
        await asyncio.to_thread(end_subscription, *given, When.PERIOD_END, now, SYSTEM)
    await buyer.all.look(subscription_id)
    await buyer.all.look(subscription_id)
    view = await buyer.view(subscription_id)
    assert (view.state, view.renews, view.next_billing_at) == ("cancelled", False, None)
    told = [each.text for each in view.changes if each.kind == "seller_ends"]
    assert len(told) == 1 and told[0].endswith("Its reason: The API closes.")
    assert buyer.incidents() == {"seller_ends": told[0]}
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    buyer.clock.ahead = until - 3_600 - int(time.time())
    await buyer.upkeep.run()  # its last day: nothing is renewed
    assert [each.kind for each in buyer.orders] == ["subscribe"]
    buyer.clock.ahead = 0
    await buyer.month_passes()
    await buyer.upkeep.run()
    assert ((await buyer.view(subscription_id)).state, len(buyer.paid)) == ("ended", 1)
    assert (await buyer.call()).headers["farebox-scheme"] == "batch-settlement"
    trail = seller.rows("SELECT actor_name, after FROM audit_entry WHERE action = 'customer.end'")
    assert [row[0] for row in trail] == [SYSTEM.name] and "The API closes." in trail[0][1]


async def test_a_free_plan_that_the_seller_ends_at_once_is_over_at_once(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan("Free", 0, calls=10))
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    seller_id, now = buyer.held[0].seller_id, int(time.time())
    given = (seller.world.engine, seller_id, "Abuse", When.NOW, now, SYSTEM)
    assert await asyncio.to_thread(end_subscription, *given) == now
    await seller.gate.refresh([seller_id])
    await buyer.all.look(subscription_id)
    await buyer.upkeep.run()
    view = await buyer.view(subscription_id)
    assert (view.state, view.paid_until) == ("ended", now)
    assert "Abuse" in buyer.incidents()["seller_ends"]
    assert (await buyer.call()).headers["farebox-scheme"] == "batch-settlement"


async def test_a_new_key_replaces_the_old_one(buyer: Subscriber, seller: Seller) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    old = buyer.node.keys.unseal(buyer.held[0].secret_sealed)
    await buyer.all.rotate(SYSTEM, subscription_id)
    assert buyer.node.keys.unseal(buyer.held[0].secret_sealed) != old
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"


async def test_a_rotation_that_was_cut_off_ends_with_the_key_the_seller_has(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    sealed = buyer.node.keys.seal(b"fbs_never-arrived")
    buyer.write("UPDATE bought_subscription SET new_secret_sealed = :sealed", sealed=sealed)
    await buyer.all.look(subscription_id)
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    await buyer.all.rotate(SYSTEM, subscription_id)
    assert buyer.node.keys.unseal(buyer.held[0].secret_sealed) == b"fbs_never-arrived"
    assert buyer.held[0].new_secret_sealed == ""
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"


async def test_requests_and_invoices_of_the_seller_are_kept_here_too(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan(calls=1), name="Kim")
    now = int(time.time())
    wanted = Wanted("A fair is coming up.", Meter.CALLS, 500, now + DAY)
    assert await buyer.all.ask(SYSTEM, subscription_id, wanted)
    row = buyer.node.rows(BoughtRequest)[0]
    assert (row.state, bool(row.seller_id)) == ("open", True)
    engine = seller.world.engine
    await asyncio.to_thread(
        grant, engine, int(row.seller_id), 500, now + DAY, "Enjoy.", now, SYSTEM
    )
    await buyer.all.look(subscription_id)
    request = (await buyer.view(subscription_id)).requests[0]
    assert (request.state, request.answer) == ("granted", "Enjoy.")
    assert "granted" in buyer.incidents()["request_answered"]
    invoice: Any = buyer.node.rows(Invoice)[0]
    assert (invoice.side, invoice.amount_atoms) == ("bought", buyer.paid[0])
    await buyer.all.look(subscription_id)
    assert len(buyer.node.rows(Invoice)) == 1


async def test_a_free_plan_is_had_by_a_signature(buyer: Subscriber, seller: Seller) -> None:
    subscription_id = await buyer.subscribed(seller.plan("Free", 0, calls=10))
    assert (await buyer.call()).headers["farebox-scheme"] == "plan"
    assert buyer.node.purchases == []
    view = await buyer.view(subscription_id)
    assert (view.state, view.next_billing_at) == ("active", None)


async def test_a_key_is_shown_to_no_other_address(buyer: Subscriber, seller: Seller) -> None:
    await buyer.subscribed(seller.plan())
    buyer.write("UPDATE listing SET base_url = base_url || '/moved'")
    await buyer.running.proxy.reload()
    source = buyer.running.proxy._sources["api"]
    assert buyer.running.proxy.plans.find(source) is None
    with pytest.raises(NotPossibleNow):
        await buyer.all.renew(SYSTEM, buyer.held[0].id, 10**9)


async def test_a_seller_that_does_not_answer_is_named_and_nothing_is_lost(
    buyer: Subscriber, seller: Seller
) -> None:
    subscription_id = await buyer.subscribed(seller.plan())
    buyer.write("UPDATE bought_subscription SET base_url = 'http://127.0.0.1:9/v1/api'")
    assert "cannot be reached" in (await buyer.all.look(subscription_id)).problem
    with pytest.raises(SellerSaysNo):
        await buyer.all.cancel(SYSTEM, subscription_id)
    view = await buyer.view(subscription_id)
    assert (view.state, view.renews) == ("active", False)


def agreed_to(plan: Any) -> Agreed:
    price = first_stretch(plan.deal, int(time.time())).price_atoms
    return Agreed(price, plan.deal.price_atoms)
