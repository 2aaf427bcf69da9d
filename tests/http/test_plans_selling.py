"""Plans sold at a gateway over a real chain: bought, used, counted, renewed, changed, ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from finance.models import PaymentState
from finance.x402.wire import decode_required
from node.accounts.audit import SYSTEM
from node.plans.clerk import Clerk
from node.plans.requests import grant, read_requests, refuse
from node.plans.terms import first_stretch, share_of
from node.usage.quotas import Meter
from node.usage.windows import window_of
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import free_port, serving
from tests.http.plans_world import BELOW, ECHO, LISTING, Seller, open_seller
from tests.recovery.seller_world import World, usdc_of
from tests.streams.test_gateway_events import Events


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


@pytest.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


@pytest.fixture
async def seller(world: World) -> AsyncIterator[Seller]:
    async with open_seller(world) as seller:
        yield seller


async def test_plans_are_shown_with_what_the_rest_of_the_month_costs(seller: Seller) -> None:
    free, pro = seller.plan("Free", 0, calls=10), seller.plan("Pro", 3_000_001)
    answer = await seller.market.client.get(seller.url + BELOW + "/plans")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    shown, now = answer.json(), int(time.time())
    assert [plan["id"] for plan in shown["plans"]] == [free.id, pro.id]
    stretch = first_stretch(pro.deal, now)
    month = window_of(now)
    assert shown["month"] == {"start": month.start, "end": month.end}
    assert shown["plans"][1]["now"] == {
        "price_atoms": stretch.price_atoms,
        "calls": stretch.calls,
        "stream_seconds": None,
        "until": month.end,
    }
    assert seller.rows("SELECT count(*) FROM call")[0][0] == 0


async def test_a_plan_is_paid_once_and_serves_from_the_moment_its_answer_leaves(
    seller: Seller,
) -> None:
    plan = seller.plan(calls=1_000)
    customer = await seller.subscribe(plan)
    price = first_stretch(plan.deal, int(time.time())).price_atoms
    assert usdc_of(seller.world.chain, seller.world.wallet.address) == price
    answer = await seller.call(customer)
    assert answer.status_code == 200, answer.text
    assert "payment-response" not in answer.headers and b"farebox-key" not in answer.content.lower()
    seen = await seller.look(customer)
    assert (seen["state"], seen["used"]["calls"]) == ("active", 1)
    assert seen["period"]["price_atoms"] == price
    row = seller.rows("SELECT scheme, payer, amount_atoms FROM call WHERE path = '/echo'")[0]
    assert tuple(row) == ("plan", "sub:" + customer.id, 0)
    assert seller.rows("SELECT used FROM quota_usage")[0][0] == 1


async def test_each_payment_has_one_invoice_with_its_transaction(seller: Seller) -> None:
    first, second = await seller.subscribe(seller.plan()), await seller.subscribe(seller.plan("B"))
    invoice = (await seller.look(first))["invoices"][0]
    paid = seller.rows("SELECT tx_hash, charge_atoms FROM onchain_payment ORDER BY created_at")
    year = time.strftime("%Y", time.gmtime())
    assert invoice["number"] == f"FB-{year}-000001"
    assert invoice["tx_hash"] in {row[0] for row in paid} and invoice["buyer"] == first.payer.hex
    assert sum(line["amount_atoms"] for line in invoice["lines"]) == invoice["amount_atoms"]
    assert (await seller.look(second))["invoices"][0]["number"] == f"FB-{year}-000002"
    share = share_of(int(time.time()))
    if share.left < share.days:
        assert f"{share.left} of {share.days} days" in invoice["lines"][0]["text"]


async def test_the_same_payment_twice_buys_one_subscription(seller: Seller) -> None:
    plan, customer = seller.plan(), seller.customer()
    path, body = f"{BELOW}/plans/{plan.id}", {"key_hash": customer.key_hash}
    payment = await seller.payment(path, customer)
    answers = await asyncio.gather(*(seller.pay(path, customer, body, payment) for _ in range(20)))
    ids = {a.json()["subscription"]["id"] for a in answers if a.status_code == 200}
    assert len(ids) == 1 and {a.status_code for a in answers} <= {200, 409}
    again = await seller.pay(path, customer, body, payment)
    assert again.status_code == 200 and again.json()["subscription"]["id"] in ids
    assert seller.rows("SELECT count(*) FROM subscription_period")[0][0] == 1


async def test_five_hundred_calls_at_once_against_a_hundred_left_let_a_hundred_through(
    seller: Seller,
) -> None:
    plan = seller.plan(calls=100 * share_of(int(time.time())).days)
    customer = await seller.subscribe(plan)
    left = first_stretch(plan.deal, int(time.time())).calls
    assert left is not None
    used = left - 100
    held, now = seller.gate._by_id[customer.id], int(time.time())
    (await seller.gate.claim(held, now, amount=used)).commit()
    answers = await asyncio.gather(*(seller.call(customer) for _ in range(500)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses == {200: 100, 402: 400}
    refused = next(answer for answer in answers if answer.status_code == 402)
    problem = refused.json()
    assert "payment-required" not in refused.headers
    assert (problem["code"], problem["meter"], problem["limit"]) == (
        "quota_exceeded",
        "calls",
        left,
    )
    assert problem["resets_at"] == window_of(int(time.time())).end and problem["ways"]
    assert seller.rows("SELECT used FROM quota_usage")[0][0] == 100


async def test_beyond_the_quota_a_call_can_be_paid_where_the_plan_says_so(seller: Seller) -> None:
    """As often as anybody's: the calls a minute are those of the plan."""
    customer = await seller.subscribe(seller.plan(calls=1, beyond="pay", per_minute=1))
    assert (await seller.call(customer)).status_code == 200
    offer = await seller.call(customer)
    assert offer.status_code == 402
    required = decode_required(offer.headers["payment-required"])
    assert required.error == "quota_exceeded"
    payer = await seller.market.payer()
    header = payer.voucher(required)
    paid = await seller.call(customer, **{"PAYMENT-SIGNATURE": header})
    assert paid.status_code == 200 and "payment-response" in paid.headers


async def test_a_payment_beside_a_plan_that_serves_stays_unused(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    payer = await seller.market.payer()
    header = payer.voucher(await seller.market.offer(ECHO))
    answer = await seller.call(customer, **{"PAYMENT-SIGNATURE": header})
    assert answer.status_code == 200 and "payment-response" not in answer.headers
    assert await seller.market.charged(payer) == 0


async def test_what_the_upstream_refused_or_broke_off_is_an_error_that_is_not_counted(
    seller: Seller,
) -> None:
    customer = await seller.subscribe(seller.plan())
    assert (await seller.call(customer, "/v1/api/status/500")).status_code == 500
    assert (await seller.call(customer, "/v1/api/break/1000")).status_code == 502
    with pytest.raises(httpx.RemoteProtocolError):
        await seller.call(customer, "/v1/api/break/400000")
    await seller.market.settled()
    assert (await seller.look(customer))["used"]["calls"] == 0
    failed = "SELECT count(*) FROM call WHERE status >= 500 AND payer = :who"
    summed = "SELECT SUM(calls), SUM(errors) FROM call_rollup WHERE key_id = :who"
    assert seller.rows(failed, who="sub:" + customer.id)[0][0] == 3
    assert tuple(seller.rows(summed, who="sub:" + customer.id)[0]) == (3, 3)


async def test_a_long_answer_is_booked_with_all_that_was_given(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    answer = await seller.call(customer, "/v1/api/stream/8/50000")
    assert (answer.status_code, len(answer.content)) == (200, 400_000)
    given = "SELECT status, bytes_out FROM call WHERE payer = :who"
    summed = "SELECT SUM(calls), SUM(errors), SUM(bytes_out) FROM call_rollup WHERE key_id = :who"
    whole = {given: (200, 400_000), summed: (1, 0, 400_000)}
    async with asyncio.timeout(10):  # booked behind its last byte
        while {sql: tuple(seller.rows(sql, who="sub:" + customer.id)[0]) for sql in whole} != whole:
            await asyncio.sleep(0.01)
    assert (await seller.look(customer))["used"]["calls"] == 1


async def test_calls_come_no_faster_than_the_plan_says(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan(per_minute=5))
    answers = [await seller.call(customer, origin="https://any.example") for _ in range(6)]
    assert [a.status_code for a in answers] == [200] * 5 + [429]
    assert answers[0].headers["ratelimit-limit"] == "5"
    assert int(answers[5].headers["retry-after"]) >= 1
    for answer in answers:  # a page may read how many are left, too
        assert "RateLimit-Remaining" in answer.headers["access-control-expose-headers"]
    assert (await seller.look(customer))["per_minute_now"] == 5


async def test_a_paid_month_is_served_while_a_low_balance_pauses_but_not_against_the_operator(
    seller: Seller,
) -> None:
    customer = await seller.subscribe(seller.plan())
    market, listing = seller.market, seller.market.listings[0]
    market.paused = True  # by itself
    assert (await seller.call(customer)).status_code == 200
    for path in (ECHO, f"{BELOW}/subscriptions/{customer.id}/renewal"):
        headers = customer.headers if "renewal" in path else {}
        sold = await market.client.post(seller.url + path, headers=headers)
        assert (sold.status_code, sold.json()["code"]) == (503, "node_paused")
    market.closed = True  # by hand
    told = await seller.call(customer)
    assert (told.status_code, told.json()["code"]) == (503, "node_paused")
    assert int(told.headers["retry-after"]) > 0
    market.paused = market.closed = False
    listing.paused = True
    market.reload()
    told = await seller.call(customer)
    assert (told.status_code, told.json()["code"]) == (503, "listing_paused")
    assert (await seller.look(customer))["used"]["calls"] == 1


async def test_a_key_is_good_for_its_own_listing_only(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    seller.market.sell("other")
    for path, secret in (("/v1/other/echo", customer.secret), (ECHO, "guessed")):
        answer = await seller.market.client.get(seller.url + path, headers={"Farebox-Key": secret})
        assert (answer.status_code, answer.json()["code"]) == (401, "subscription_key_invalid")


async def test_a_free_plan_is_had_once_by_whoever_signs(seller: Seller) -> None:
    plan = seller.plan("Free", 0, calls=31)
    customer = await seller.subscribe(plan)
    assert (await seller.call(customer)).status_code == 200
    second = seller.customer()
    second.payer = customer.payer
    assert (await seller.take_free(plan, second)).json()["code"] == "subscription_exists"
    stranger = seller.customer()
    stolen = {"payer": customer.payer.hex, "signature": "0x" + "11" * 65}
    answer = await seller.market.client.post(
        f"{seller.url}{BELOW}/plans/{plan.id}", json={"key_hash": stranger.key_hash, **stolen}
    )
    assert (answer.status_code, answer.json()["code"]) == (403, "signature_invalid")
    assert (await seller.ask("DELETE", customer)).status_code == 200
    assert (await seller.take_free(plan, second)).status_code == 200
    assert seller.rows("SELECT count(*) FROM invoice")[0][0] == 0


async def test_who_left_a_free_plan_for_one_that_lapsed_can_have_a_free_one_again(
    seller: Seller,
) -> None:
    free, pro = seller.plan("Free", 0, calls=31), seller.plan(grace_days=0)
    customer = await seller.subscribe(free)
    path = f"{BELOW}/subscriptions/{customer.id}/upgrade/{pro.id}"
    assert (await seller.pay(path, customer)).status_code == 200
    begun = window_of(int(time.time())).start
    with seller.world.engine.begin() as connection:
        earlier = "UPDATE subscription_period SET starts_at = :begun - 9, ends_at = :begun"
        connection.execute(text(earlier), {"begun": begun})
    await seller.gate.refresh([customer.id])
    assert (await seller.look(customer))["state"] == "lapsed"
    again = seller.customer()
    again.payer = customer.payer
    answer = await seller.take_free(free, again)
    assert answer.status_code == 200, answer.text
    assert (await seller.take_free(free, seller.customer())).status_code == 200
    third = seller.customer()
    third.payer = customer.payer
    assert (await seller.take_free(free, third)).json()["code"] == "subscription_exists"


async def test_a_wish_for_a_free_plan_whose_answer_was_lost_finds_its_subscription(
    seller: Seller,
) -> None:
    plan, other = seller.plan("Free", 0, calls=31), seller.plan("Other", 0, calls=5)
    customer = seller.customer()
    first = (await seller.take_free(plan, customer)).json()["subscription"]
    again = await seller.take_free(plan, customer)
    assert again.status_code == 200
    assert again.json()["subscription"]["id"] == first["id"]
    assert seller.rows("SELECT count(*) FROM subscription")[0][0] == 1
    assert (await seller.take_free(other, customer)).json()["code"] == "subscription_exists"
    customer.id = first["id"]
    assert (await seller.ask("DELETE", customer)).status_code == 200
    assert (await seller.take_free(plan, customer)).json()["code"] == "subscription_exists"


async def test_a_renewal_buys_the_next_month_once(seller: Seller) -> None:
    plan = seller.plan()
    customer = await seller.subscribe(plan)
    path = f"{BELOW}/subscriptions/{customer.id}/renewal"
    answer = await seller.pay(path, customer)
    assert answer.status_code == 200, answer.text
    month = window_of(window_of(int(time.time())).end)
    rows = seller.rows(
        "SELECT starts_at, ends_at, price_atoms FROM subscription_period WHERE number=2"
    )
    assert tuple(rows[0]) == (month.start, month.end, plan.deal.price_atoms)
    again = await seller.ask("POST", customer, "/renewal", {})
    assert (again.status_code, again.json()["code"]) == (409, "already_renewed")
    seen = await seller.look(customer)
    assert seen["next"] == {"at": month.end, "price_atoms": plan.deal.price_atoms}


async def test_two_renewals_paid_at_once_buy_one_month(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    path = f"{BELOW}/subscriptions/{customer.id}/renewal"
    payments = [await seller.payment(path, customer) for _ in range(5)]
    before = usdc_of(seller.world.chain, customer.payer.hex)
    answers = await asyncio.gather(*(seller.pay(path, customer, None, each) for each in payments))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] == 1 and statuses[409] == 4, [a.text for a in answers]
    assert before - usdc_of(seller.world.chain, customer.payer.hex) == 3_000_000
    assert seller.world.count(PaymentState.RELEASED) == 4


async def test_an_upgrade_costs_and_gives_the_rest_of_the_month_at_once(seller: Seller) -> None:
    small, large = seller.plan("S", 1_000_000, calls=100), seller.plan("L", 4_000_000, calls=700)
    customer = await seller.subscribe(small)
    path = f"{BELOW}/subscriptions/{customer.id}/upgrade/{large.id}"
    answer = await seller.pay(path, customer)
    assert answer.status_code == 200, answer.text
    share = share_of(int(time.time()))
    seen = await seller.look(customer)
    assert seen["plan"]["id"] == large.id and seen["period"]["calls"] == sum(
        -(-calls * share.left // share.days) for calls in (100, 600)
    )
    down = await seller.ask("POST", customer, f"/upgrade/{small.id}", {})
    assert (down.status_code, down.json()["code"]) == (409, "plan_not_an_upgrade")


async def test_a_downgrade_waits_for_the_renewal(seller: Seller) -> None:
    small, large = seller.plan("S", 1_000_000), seller.plan("L", 4_000_000)
    customer = await seller.subscribe(large)
    answer = await seller.ask("PUT", customer, "/plan", {"plan_id": small.id})
    seen = answer.json()["subscription"]
    assert seen["plan"]["id"] == large.id and seen["next_plan"]["id"] == small.id
    assert seen["next"]["price_atoms"] == 1_000_000
    assert (await seller.ask("PUT", customer, "/plan", {"plan_id": None})).status_code == 200
    assert (await seller.look(customer))["next_plan"] is None
    await seller.ask("PUT", customer, "/plan", {"plan_id": small.id})
    path = f"{BELOW}/subscriptions/{customer.id}/renewal"
    assert (await seller.pay(path, customer)).status_code == 200
    seen = await seller.look(customer)
    assert seen["plan"]["id"] == large.id and seen["next"]["price_atoms"] == 1_000_000


async def test_a_cancelled_subscription_serves_until_its_end_and_is_not_renewed(
    seller: Seller,
) -> None:
    customer = await seller.subscribe(seller.plan())
    assert (await seller.ask("DELETE", customer)).json()["subscription"]["state"] == "cancelled"
    assert (await seller.call(customer)).status_code == 200
    refused = await seller.ask("POST", customer, "/renewal", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "subscription_cancelled")
    assert (await seller.ask("DELETE", customer)).status_code == 409


async def test_a_rotated_key_replaces_the_old_one_at_once(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    old, customer.secret = customer.secret, "another-secret"
    new_hash, customer.secret = customer.key_hash, old
    answer = await seller.ask("PUT", customer, "/key", {"key_hash": new_hash})
    assert answer.status_code == 200, answer.text
    assert (await seller.call(customer)).status_code == 401
    customer.secret = "another-secret"
    assert (await seller.call(customer)).status_code == 200


async def test_an_unpaid_month_is_served_in_grace_then_calls_cost_again(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan(grace_days=3, calls=31))
    month, now = window_of(int(time.time())), int(time.time())
    for ended, state, status in ((now - 60, "grace", 200), (now - 4 * 86_400, "lapsed", 402)):
        move = text("UPDATE subscription_period SET starts_at = :start, ends_at = :end")
        with seller.world.engine.begin() as connection:
            connection.execute(move, {"start": ended - 86_400, "end": ended})
        await seller.gate.load()
        assert (await seller.look(customer))["state"] == state
        assert (await seller.call(customer)).status_code == status
    path = f"{BELOW}/subscriptions/{customer.id}/renewal"
    assert (await seller.pay(path, customer)).status_code == 200
    seen = await seller.look(customer)
    assert seen["state"] == "active" and seen["period"]["end"] == month.end
    assert seen["period"]["calls"] == 31 and (await seller.call(customer)).status_code == 200


async def test_a_price_change_leaves_what_is_paid_as_it_was(seller: Seller) -> None:
    plan = seller.plan(calls=3_100)
    customer = await seller.subscribe(plan)
    before = (await seller.look(customer))["period"]
    with seller.world.engine.begin() as connection:
        connection.execute(text("UPDATE plan SET price_atoms = 9000000, calls = 1"))
    await seller.gate.load()
    seen = await seller.look(customer)
    assert seen["period"] == before and seen["plan"]["calls"] == 3_100
    assert seen["next"]["price_atoms"] == 9_000_000


async def test_an_override_is_asked_for_granted_and_lifts_the_quota(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan(calls=1))
    now = int(time.time())
    asked = {"kind": "override", "meter": "calls", "cap": 3, "until": now + 900, "text": "Launch"}
    answer = await seller.ask("POST", customer, "/requests", asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["subscription"]["requests"][0]["state"] == "open"
    engine = seller.world.engine
    request = read_requests(engine, customer.id)[0]
    grant(engine, request.id, 3, now + 900, "Good luck", now, SYSTEM)
    await seller.gate.load()
    assert [(await seller.call(customer)).status_code for _ in range(4)] == [200, 200, 200, 402]
    told = (await seller.look(customer))["requests"][0]
    assert (told["state"], told["answer"]) == ("granted", "Good luck")
    await seller.ask("POST", customer, "/requests", {**asked, "text": "More"})
    refuse(engine, read_requests(engine, customer.id)[0].id, "Not now", now, SYSTEM)
    assert (await seller.look(customer))["requests"][0]["state"] == "refused"
    actions = [row[0] for row in seller.rows("SELECT action FROM audit_entry ORDER BY id")]
    assert actions[-3:] == ["request.answer", "override.grant", "request.answer"]


async def test_customers_cannot_fill_the_sellers_desk(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    words = {"kind": "support", "text": "Hello"}
    answers = [await seller.ask("POST", customer, "/requests", words) for _ in range(21)]
    assert [a.status_code for a in answers] == [200] * 20 + [409]


HOSTILE = (
    b"",
    b"[",
    b"null",
    b"[]",
    b'{"key_hash": 7}',
    b'{"key_hash": "zz"}',
    b'{"key_hash": "%b"}' % (b"G" * 64),
    b'{"key_hash": "%b", "name": "a\\u0000b"}' % (b"a" * 64),
    b'{"key_hash": "%b", "name": "a\\u202eb"}' % (b"a" * 64),
    b'{"key_hash": "%b", "name": "%b"}' % (b"a" * 64, b"x" * 201),
    b'{"key_hash": "%b", "more": 1}' % (b"a" * 64),
    b"\xff\xfe",
    b'"' + b"x" * 20_000 + b'"',
    b"[" * 10_000,
)


async def test_a_hostile_order_is_refused_and_costs_nothing(seller: Seller) -> None:
    plan, customer = seller.plan(), seller.customer()
    path = f"{BELOW}/plans/{plan.id}"
    payment = await seller.payment(path, customer)
    before = usdc_of(seller.world.chain, customer.payer.hex)
    for body in HOSTILE:
        answer = await seller.market.client.post(
            seller.url + path, headers={"PAYMENT-SIGNATURE": payment}, content=body
        )
        assert answer.status_code == 400, (body, answer.text)
        assert json.loads(answer.content)["code"] == "request_invalid"
    assert usdc_of(seller.world.chain, customer.payer.hex) == before
    assert seller.rows("SELECT count(*) FROM subscription")[0][0] == 0


async def test_who_has_no_key_learns_nothing_of_a_subscription(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    other = await seller.subscribe(seller.plan("Other"))
    other.id = customer.id
    for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/renewal"), ("PUT", "/key")):
        answer = await seller.ask(method, other, below)
        assert (answer.status_code, answer.json()["code"]) == (401, "subscription_key_invalid")


async def test_whose_first_payment_failed_may_try_again_with_the_same_key(seller: Seller) -> None:
    plan = seller.plan()
    customer = await seller.subscribe(plan)
    again = await seller.pay(f"{BELOW}/plans/{plan.id}", customer, {"key_hash": customer.key_hash})
    assert (again.status_code, again.json()["code"]) == (409, "subscription_exists")
    with seller.world.engine.begin() as connection:
        connection.execute(
            text("UPDATE onchain_payment SET state = 'failed' WHERE state = 'confirmed'")
        )
    await seller.gate.load()
    assert (await seller.call(customer)).status_code == 401
    await seller.subscribe(plan, customer)
    assert (await seller.call(customer)).status_code == 200
    with seller.world.engine.begin() as connection:  # the books, as they were
        connection.execute(
            text("UPDATE onchain_payment SET state = 'confirmed' WHERE state = 'failed'")
        )


async def test_streams_of_a_subscriber_take_their_time_from_its_quota(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan(stream_seconds=31 * 3))
    held = seller.gate.find(customer.secret.encode(), LISTING)
    assert held is not None
    port, api = free_port(), Events()
    async with serving(api, port):
        seller.market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        seller.market.listings.clear()
        seller.market.sell(base=f"http://127.0.0.1:{port}/base")
        headers, url = {**customer.headers, "accept": "text/event-stream"}, f"{seller.url}/v1/api/"
        client = seller.market.client
        async with client.stream("GET", url + "ticks", headers=headers) as answer:
            assert answer.status_code == 200
            async with asyncio.timeout(10):
                while (await seller.look(customer))["used"]["stream_seconds"] < 1:
                    await asyncio.sleep(0.1)
            now = int(time.time())
            limit = held.limit(Meter.STREAM_SECONDS, now) or 0
            seller.gate.quotas.reserve(held.subject, Meter.STREAM_SECONDS, limit, None, now)
            refused = await client.get(url + "short", headers=headers)
            assert (refused.status_code, refused.json()["meter"]) == (402, "stream_seconds")
            lines = answer.aiter_lines()  # what is open goes on
            assert await anext(lines) == "data: 0"
        left, called = api.gone, (await seller.look(customer))["used"]["calls"]
        for headers in (customer.headers, {**customer.headers, "accept": "Text/Event-Stream"}):
            async with client.stream("GET", url + "ticks", headers=headers) as answer:
                told = json.loads(await answer.aread())
            assert (answer.status_code, told["meter"]) == (402, "stream_seconds")
            assert "payment-required" not in answer.headers
        async with asyncio.timeout(5):
            while api.gone == left:  # the upstream is let go
                await asyncio.sleep(0.01)
        assert (await seller.look(customer))["used"]["calls"] == called
    counted = "SELECT payer FROM stream_session"
    assert [row[0] for row in seller.rows(counted)] == ["sub:" + customer.id]


async def test_a_stream_that_nobody_announced_is_paid_where_its_hours_are_used_up(
    seller: Seller,
) -> None:
    customer = await seller.subscribe(seller.plan(stream_seconds=31, beyond="pay"))
    subject = "sub:" + customer.id
    seller.gate.quotas.reserve(subject, Meter.STREAM_SECONDS, 31, None, int(time.time()))
    port, api = free_port(), Events()
    async with serving(api, port):
        seller.market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        seller.market.listings.clear()
        seller.market.sell(base=f"http://127.0.0.1:{port}/base")
        ticks = "/v1/api/ticks"
        offer = await seller.call(customer, ticks)
        assert (offer.status_code, offer.headers["farebox-meter"]) == (402, "stream_seconds")
        required = decode_required(offer.headers["payment-required"])
        assert required.error == "quota_exceeded"
        payer = await seller.market.payer()
        headers = {**customer.headers, "PAYMENT-SIGNATURE": payer.voucher(required)}
        client = seller.market.client
        async with client.stream("GET", seller.url + ticks, headers=headers) as answer:
            assert answer.status_code == 200 and "payment-response" in answer.headers
        assert (await seller.look(customer))["used"]["calls"] == 0
        body = {"content": b"x" * 300_000}
        late = await client.post(seller.url + ticks, headers=headers, **body)
        # What was passed on as it came cannot be sent again: nothing is paid unheard.
        assert (late.status_code, late.json()["code"]) == (402, "quota_exceeded")
        assert "Accept: text/event-stream" in late.json()["detail"]


async def test_an_invoice_follows_its_payment_into_another_transaction(seller: Seller) -> None:
    customer = await seller.subscribe(seller.plan())
    clerk, before = Clerk(seller.world.engine), (await seller.look(customer))["invoices"][0]
    assert clerk.issue() == 0
    moved = text("UPDATE onchain_payment SET tx_hash = :tx")
    with seller.world.engine.begin() as connection:
        connection.execute(moved, {"tx": "0x" + "ee" * 32})
    clerk.issue()
    after = (await seller.look(customer))["invoices"]
    assert after == [{**before, "tx_hash": "0x" + "ee" * 32}]
