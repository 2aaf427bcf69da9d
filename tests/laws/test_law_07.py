"""Law 7. The buyer signs nothing above its limits, whatever a seller asks."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from finance.x402.values import (
    BATCH_SETTLEMENT_SCHEME,
    DepositPayment,
    ExactPayment,
    Payment,
    Receipt,
)
from finance.x402.wire import decode_payment
from node.accounts.audit import SYSTEM
from node.plans.buying.upkeep import Upkeep
from tests.chain_fixtures import ChainProcess
from tests.hanging_up import hanging_up
from tests.http.proxy_world import NETWORK, BuyerNode, buying, left_open, served
from tests.http.scripted_seller import (
    Behave,
    ScriptedSeller,
    charge,
    charges_and_hangs,
    charges_double,
    hangs,
    honest,
    says_its_channel_is_busy,
    takes_it_and_asks_again,
    wants_a_little_less,
)
from tests.laws.plan_buyer import AGREED, LISTING, PRICE, bought, plan_seller, subscriptions
from tests.laws.x402_seller import X402Seller


async def test_nothing_above_the_limit_of_a_call_is_signed(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.limit("call", 5_000)
    seller.price = 5_001
    async with buyer.running() as proxy:
        answer = await proxy.call("api/x")
    assert seller.payments == []
    assert answer.status_code >= 400


async def test_a_price_raised_while_paying_is_held_against_the_limits_again(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.limit("call", 5_000)
    seller.price_when_paid = 1_000_000
    async with buyer.running() as proxy:
        await proxy.call("api/x")
    assert [each.authorization.value for each in seller.signed] == [1_000]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("scheme", "refuses"),
    [
        ("exact", wants_a_little_less),
        ("batch-settlement", says_its_channel_is_busy),
        ("batch-settlement", takes_it_and_asks_again),
    ],
)
async def test_a_call_that_is_refused_signs_no_more_than_its_limit_in_all(
    chain: ChainProcess, tmp_path: Path, scheme: str, refuses: Behave
) -> None:
    """A refusal takes no signature back: each of them may still be charged."""
    buyer, seller = BuyerNode(tmp_path, chain), ScriptedSeller(scheme)
    seller.behave = refuses
    async with buying(buyer, seller) as proxy:
        buyer.limit("call", 1_999)
        await proxy.proxy.reload()
        answer = await proxy.call("x/y")
    assert answer.status_code in (402, 409)
    payloads = [decode_payment(each).payload for each in seller.seen]
    signed: dict[bytes, int] = {}
    for each in payloads:
        if isinstance(each, ExactPayment):
            signed[each.authorization.nonce] = each.authorization.value
        else:
            signed[each.channel_id] = max(signed.get(each.channel_id, 0), each.max_claimable)
    assert 0 < sum(signed.values()) <= 1_999
    buyer.check_books()


async def test_an_authorization_whose_settlement_failed_is_not_followed_by_another(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """It may have timed out and be mined yet. That the offer beside it reads otherwise than the
    one before is no reason to pay again."""
    buyer, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")

    async def not_in_time(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
        this.said = f"offered at {len(this.seen)}"
        return 402, Receipt(False, "", NETWORK.caip2, error_reason="settlement_timed_out")

    async with buying(buyer, seller) as proxy:
        assert (await proxy.call("x/y")).status_code == 200
        seller.behave = not_in_time
        answer = await proxy.call("x/y")
    assert answer.json()["code"] == "payment_refused"
    assert "settlement_timed_out" in answer.json()["detail"]
    assert len(seller.seen) == 2
    assert [each.state for each in buyer.purchases] == ["paid", "unknown"]


async def test_calls_at_once_sign_no_more_than_the_days_limit(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.limit("day", 5_000)
    async with buyer.running() as proxy:
        answers = await asyncio.gather(*(proxy.call("api/x") for _ in range(20)))
    assert len(seller.payments) == 5
    assert [answer.status_code for answer in answers].count(200) == 5


async def test_no_listing_and_no_key_spends_more_than_its_own_limit(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.list("other", seller.base)
    buyer.limit("listing", 2_000, "listing-api")
    buyer.limit("key", 5_000, "key-1")
    async with buyer.running() as proxy:
        for slug, signed in (("api", 2), ("other", 5)):
            for _ in range(4):
                await proxy.call(f"{slug}/x")
            assert len(seller.payments) == signed, slug


async def test_two_processes_together_sign_no_more_than_the_days_limit(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.limit("day", 5_000)
    async with buyer.running() as one, buyer.running() as two:
        for _ in range(4):
            await asyncio.gather(one.call("api/x"), two.call("api/x"))
    assert len(seller.payments) <= 5
    assert buyer.counted("day") <= 5_000


async def test_no_more_than_its_limit_is_put_into_a_channel(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    buyer.limit("deposit", 8_000)
    seller.schemes = (BATCH_SETTLEMENT_SCHEME,)
    async with buyer.running() as proxy:
        await proxy.call("api/asks-little")
        seller.min_deposit = 8_001
        await proxy.call("api/asks-much")
    deposits = [each.deposit_amount for each in seller.signed if isinstance(each, DepositPayment)]
    assert deposits and max(deposits) <= 8_000


async def test_a_retry_sends_the_same_signature_again(buyer: BuyerNode, seller: X402Seller) -> None:
    seller.lost = 1
    async with buyer.running() as proxy:
        lost = await proxy.call("api/x", key="order-1")
    async with buyer.running() as proxy:  # restarted in between
        answer = await proxy.call("api/x", key="order-1")
    assert (lost.status_code >= 500, answer.status_code) == (True, 200)
    assert len(seller.payments) == 2
    assert len(set(seller.payments)) == 1
    assert buyer.booked("spent") == -1_000


async def test_a_call_that_two_processes_make_at_once_is_signed_for_once(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    both = asyncio.Barrier(2)

    async def meet() -> None:
        await both.wait()

    seller.when_asked = meet
    async with buyer.running() as one, buyer.running() as two:
        await asyncio.gather(*(each.call("api/x", key="order-1") for each in (one, two)))
    assert len(set(seller.payments)) == 1


async def test_a_payment_that_left_counts_though_its_seller_is_gone(buyer: BuyerNode) -> None:
    """The seller takes it over the connection of the unpaid request, hangs up, and cannot be
    reached again. It may collect it all the same."""
    required = ScriptedSeller("exact").required()
    unpaid = b"HTTP/1.1 402 Payment Required\r\npayment-required: %b\r\n" % required
    async with hanging_up(unpaid + b"content-length: 0\r\n\r\n") as (port, seen):
        buyer.list("api", f"http://127.0.0.1:{port}")
        async with buyer.running() as proxy:
            answer = await proxy.call("api/x")
    assert answer.status_code == 502
    assert b"payment-signature: " in seen[1].lower()
    assert buyer.counted("day") == buyer.purchases[0].amount_atoms == 1_000
    assert buyer.purchases[0].state == "unknown"


async def test_a_voucher_that_never_left_takes_nothing_from_what_counts_for_the_one_before_it(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """Both are over the same amount. The first was charged; then its seller was not there."""
    buyer, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with AsyncExitStack() as shop:
        buyer.list("x", await shop.enter_async_context(served(seller)))
        async with buyer.running(answer_seconds=2.0) as proxy:
            await left_open(proxy, seller, "x/y", "k", charges_and_hangs)
            await shop.aclose()
            assert (await proxy.call("x/y")).json()["code"] == "seller_unreachable"
    assert buyer.counted("day") == sum(seller.charged.values()) == 1_000


async def test_a_retry_that_meets_a_busy_channel_is_never_paid_anew(buyer: BuyerNode) -> None:
    """It may be busy with the first try, whose answer is still being made."""
    seller = ScriptedSeller()

    async def at_work(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 402, None

    async with buying(buyer, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "order-1")
        seller.behave, seller.busy = at_work, True
        for _ in range(2):
            busy = await proxy.call("x/y", key="order-1")
            assert (busy.status_code, busy.json()["code"]) == (409, "channel_busy")
            assert busy.headers["retry-after"] == "1"
        seller.behave = honest
        # The channel is left alone for a second, and waited for.
        assert (await proxy.call("x/y", key="order-1")).status_code == 200
    assert len(set(seller.seen)) == 1
    assert len(buyer.channels) == 1


async def test_a_retry_that_waits_for_its_channel_learns_what_was_proved_meanwhile(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """The first try was charged, its answer did not come. While the retry waits for the channel,
    the call that has it is told so. This seller keeps no answers."""
    buyer, seller, corrected = BuyerNode(tmp_path, chain), ScriptedSeller(), asyncio.Event()

    async def takes_its_time(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        await corrected.wait()
        return await honest(this, payment)

    async with buying(buyer, seller, answer_seconds=3.0) as proxy:
        await proxy.call("x/1")
        await left_open(proxy, seller, "x/2", "k", charges_and_hangs)
        seller.behave = takes_its_time
        other = asyncio.create_task(proxy.call("x/3"))
        async with asyncio.timeout(10):
            while len(seller.seen) < 3:
                await asyncio.sleep(0.01)
        retry = asyncio.create_task(proxy.call("x/2", key="k"))
        await asyncio.sleep(0.3)
        corrected.set()
        assert (await other).status_code == 200
        assert (await retry).json()["code"] == "answer_lost"
    assert len(buyer.channels) == 1
    assert sum(seller.charged.values()) == -buyer.booked("spent") == 3_000
    buyer.check_books()


async def test_what_a_stopped_channel_may_have_been_charged_is_not_paid_through_another(
    chain: ChainProcess, tmp_path: Path
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        seller.behave = charges_double
        await proxy.call("x/z")
        seller.behave = honest
        retries = [await proxy.call("x/y", key="k") for _ in range(2)]
        assert (await proxy.call("x/y", key="new")).status_code == 200
    assert [each.json().get("code") for each in retries] == ["charge_unknown"] * 2
    assert [channel.state for channel in node.channels].count("stopped") == 1
    assert len({decode_payment(each).payload.channel_id for each in seller.seen[:-1]}) == 1


async def test_a_seller_that_proves_nonsense_is_not_paid_again_for_the_call(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """Neither within the call, though it asks for another price now, nor by its retry."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def nonsense(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        charge(this, payment, 10**9)
        this.price += 1
        return 402, None

    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        seller.behave = nonsense
        retries = [await proxy.call("x/y", key="k") for _ in range(2)]
        assert len(set(seller.seen)) == 1
        assert (await proxy.call("x/z")).status_code == 402
    assert [each.json().get("code") for each in retries] == ["charge_unknown"] * 2
    assert len(set(seller.seen)) == 2


async def test_a_retry_that_meets_another_price_is_not_charged_twice(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """The first try was charged, its answer did not come. The seller now wants more and does not
    look at old vouchers; but it proves what it has charged on the channel of that try."""
    buyer, seller, both = BuyerNode(tmp_path, chain), ScriptedSeller(), asyncio.Barrier(2)

    async def together(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        await both.wait()
        return await honest(this, payment)

    async with buying(buyer, seller, answer_seconds=3.0) as proxy:
        seller.behave = together
        await asyncio.gather(proxy.call("x/1"), proxy.call("x/2"))
        assert len(buyer.channels) == 2
        seller.behave = hangs
        other = asyncio.create_task(proxy.call("x/3"))
        async with asyncio.timeout(10):
            while len(seller.seen) < 3:
                await asyncio.sleep(0.01)
        seller.behave = charges_and_hangs
        assert (await proxy.call("x/4", key="k")).status_code == 504
        await other
        seller.hang.set()
        seller.behave, seller.price = honest, 2_000
        again = [await proxy.call("x/4", key="k") for _ in range(2)]
    assert [each.json().get("code") for each in again] == ["answer_lost"] * 2
    assert sum(seller.charged.values()) == -buyer.booked("spent") == 3_000
    buyer.check_books()


async def test_a_renewal_above_the_agreed_price_is_not_signed(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    plan_seller(seller)
    async with buyer.running() as running:
        plans = subscriptions(buyer, running)
        subscription_id = await bought(plans)
        assert len(seller.payments) == 1
        seller.price = PRICE + 1
        outcome = await plans.renew(SYSTEM, subscription_id, PRICE)
        assert (outcome.state, outcome.code) == ("failed", "price_above_agreed")
        assert len(seller.payments) == 1
        seller.price = PRICE
        outcome = await plans.renew(SYSTEM, subscription_id, PRICE)
    assert (outcome.state, len(seller.payments)) == ("done", 2)


async def test_an_order_that_lost_its_answer_sends_the_same_signature_again(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    plan_seller(seller)
    seller.lost = 1
    async with buyer.running() as running:
        plans = subscriptions(buyer, running)
        made, lost = await plans.subscribe(SYSTEM, LISTING, "pro", AGREED)
    async with buyer.running() as running:  # restarted in between
        plans = subscriptions(buyer, running)
        order = (await plans.read(made)).orders[0]
        outcome = await plans.carry_out(order.id, patient=True)
        again = await plans.carry_out(order.id, patient=True)
    assert (lost.state, outcome.state, again.state) == ("open", "done", "done")
    assert len(seller.payments) == 2
    assert len(set(seller.payments)) == 1


async def test_an_order_given_up_while_it_is_sent_is_not_signed(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    """Another process of the node is told to, before the seller has named its price."""
    plan_seller(seller)
    async with buyer.running() as running:
        plans, others = (subscriptions(buyer, running) for _ in range(2))
        subscription_id, order_id = await plans.order(SYSTEM, LISTING, "pro", AGREED)

        async def give_up() -> None:
            outcome = await others.give_up(SYSTEM, subscription_id)
            assert (outcome.state, outcome.charged_atoms) == ("given_up", 0)

        seller.when_asked = give_up
        await plans.carry_out(order_id)
    assert (await plans.read(subscription_id)).orders[0].state == "given_up"
    assert (seller.payments, buyer.booked("spent")) == ([], 0)


async def test_a_month_is_not_paid_again_because_its_seller_gives_another_date(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    plan_seller(seller, end=int(time.time()) - 60)
    async with buyer.running() as running:
        plans = subscriptions(buyer, running)
        subscription_id = await bought(plans)
        await Upkeep(plans).run()
    assert (await plans.read(subscription_id)).state == "grace"
    assert len(seller.payments) == 1
