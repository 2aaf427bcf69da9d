"""What an integrator's key may do through the proxy, and what is counted of it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from finance.x402.values import Payment, Receipt
from node.accounts.audit import COMMAND
from node.db.engine import writer
from node.usage.keys import create_key, list_keys
from node.usage.metering import QuotaUsage, RateHits
from node.usage.models import ConsumerKey
from node.usage.overrides import end_override, grant_override
from node.usage.quotas import Meter
from node.usage.tiers import UsageTiers, change_tiers
from node.usage.windows import window_of
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import SECRET, BuyerNode, Running, buying, served
from tests.http.scripted_seller import ScriptedSeller


class FreeApi:
    """Somebody's API that asks for nothing and answers as a test says."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.served = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.served += 1
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def node(tmp_path: Path, chain: DevchainProcess) -> Iterator[BuyerNode]:
    node = BuyerNode(tmp_path, chain)
    yield node
    node.check_books()


def choose(node: BuyerNode, **values: Any) -> None:
    """Change the one key of the node, as `change_key` does."""
    with writer(node.engine).begin() as connection:
        connection.execute(update(ConsumerKey).values(values))


def quota(node: BuyerNode, calls: int) -> None:
    tiers = UsageTiers(free_calls=calls, pro_calls=10_000_000)
    change_tiers(node.engine, tiers, COMMAND, int(time.time()))


def used(node: BuyerNode) -> list[tuple[str, int]]:
    return [(row.subject, row.used) for row in node.rows(QuotaUsage)]


async def test_500_calls_at_once_of_an_integrator_with_100_left_are_100_answers(
    node: BuyerNode,
) -> None:
    api = FreeApi()
    choose(node, integrator=True)
    quota(node, 100)
    async with served(api) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answers = await asyncio.gather(*(proxy.call("x/y") for _ in range(500)))
        async with node.running() as proxy:
            answers.append(await proxy.call("x/y"))
    refused = [answer for answer in answers if answer.status_code == 402]
    assert (len(answers) - len(refused), api.served) == (100, 100)
    assert used(node) == [("key:key-1", 100)]
    told = refused[0].json()
    assert refused[0].headers["content-type"] == "application/problem+json"
    assert "payment-required" not in refused[0].headers
    assert (told["code"], told["meter"], told["limit"]) == ("quota_exceeded", "calls", 100)
    assert told["resets_at"] == window_of(int(time.time())).end
    assert told["ways"] == ["wait", "upgrade_tier", "ask_override"]


async def test_an_internal_key_is_neither_counted_nor_stopped(node: BuyerNode) -> None:
    quota(node, 0)
    async with served(FreeApi()) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answers = [await proxy.call("x/y") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert used(node) == []


async def test_a_paid_call_counts_once_and_one_that_failed_is_given_back(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    choose(node, integrator=True)
    quota(node, 2)
    async with served(seller) as base:
        node.list("x", base)
        node.list("gone", "http://127.0.0.1:9")
        async with node.running() as proxy:
            unreachable = [await proxy.call("gone/y") for _ in range(3)]
            paid = [await proxy.call("x/y") for _ in range(3)]
    assert [answer.status_code for answer in unreachable] == [504] * 3
    assert [answer.status_code for answer in paid] == [200, 200, 402]
    assert len(seller.seen) == 2
    assert used(node) == [("key:key-1", 2)]


async def test_a_seller_that_fails_for_nothing_uses_nothing_up(node: BuyerNode) -> None:
    choose(node, integrator=True)
    quota(node, 1)
    async with served(FreeApi(500)) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answers = [await proxy.call("x/y") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [500] * 3
    assert used(node) == []


async def test_an_answer_shown_again_is_not_counted_again(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")
    choose(node, integrator=True)
    quota(node, 1)
    async with buying(node, seller) as proxy:
        first = await proxy.call("x/y", key="same")
        again = await proxy.call("x/y", key="same")
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["farebox-replayed"] == "true"
    assert used(node) == [("key:key-1", 1)]


async def test_a_caller_that_hangs_up_leaves_no_part_of_the_quota_held(node: BuyerNode) -> None:
    seller = ScriptedSeller("exact")

    async def hang(own: ScriptedSeller, _payment: Payment) -> tuple[int, Receipt | None]:
        await own.hang.wait()
        return 500, None

    seller.behave = hang
    choose(node, integrator=True)
    quota(node, 1)
    async with served(seller) as base:
        node.list("x", base)
        async with node.running(answer_seconds=2.0) as proxy:
            late = await proxy.call("x/y")
            held = proxy.proxy.gate.quotas.used("key:key-1", Meter.CALLS, int(time.time()))
        seller.hang.set()
    assert late.status_code == 504
    assert held == 0


async def test_an_override_lifts_the_cap_until_it_ends_by_itself(node: BuyerNode) -> None:
    choose(node, integrator=True)
    quota(node, 1)
    now = int(time.time())
    async with served(FreeApi()) as base:
        node.list("x", base)
        async with node.running() as proxy:
            codes = [(await proxy.call("x/y")).status_code for _ in range(2)]
            grant_override(node.engine, Meter.CALLS, None, now + 6, "backfill", now, COMMAND)
            await proxy.proxy.reload()
            codes += [(await proxy.call("x/y")).status_code for _ in range(3)]
            while int(time.time()) < now + 6:
                await asyncio.sleep(0.1)
            codes.append((await proxy.call("x/y")).status_code)
            now = int(time.time())
            made = grant_override(node.engine, Meter.CALLS, 5, now + 60, "more", now, COMMAND)
            await proxy.proxy.reload()
            codes += [(await proxy.call("x/y")).status_code for _ in range(2)]
            end_override(node.engine, made, now, COMMAND)
            await proxy.proxy.reload()
            codes.append((await proxy.call("x/y")).status_code)
    assert codes == [200, 402, 200, 200, 200, 402, 200, 402, 402]


async def test_more_calls_a_minute_than_the_key_has_are_429_and_counted_together(
    node: BuyerNode,
) -> None:
    api = FreeApi()
    choose(node, per_minute=5)
    async with buying(node, api) as proxy:
        answers = await asyncio.gather(*(proxy.call("x/y") for _ in range(40)))
    passed = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(passed), len(refused), api.served) == (5, 35, 5)
    assert min(int(answer.headers["ratelimit-remaining"]) for answer in passed) == 0
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"5"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert refused[0].json()["code"] == "rate_limited"
    assert sum(row.hits for row in node.rows(RateHits)) == 35
    assert len(node.calls) == 5


async def test_a_key_reaches_its_listings_and_no_other(node: BuyerNode) -> None:
    api = FreeApi()
    choose(node, scopes="listing-x")
    async with served(api) as base:
        node.list("x", base)
        node.list("other", base)
        async with node.running() as proxy:
            own, other = await proxy.call("x/y"), await proxy.call("other/y")
    assert (own.status_code, other.status_code, api.served) == (200, 403, 1)
    assert other.json()["code"] == "listing_out_of_scope"


async def test_when_a_key_was_last_seen_is_known_soon_after(node: BuyerNode) -> None:
    before = int(time.time())
    async with served(FreeApi()) as base:
        node.list("x", base)
        async with node.running() as proxy:
            await proxy.call("x/y")
    assert before <= (list_keys(node.engine)[0].last_used_at or 0) <= int(time.time())


async def test_ten_thousand_keys_are_no_slower_than_ten(node: BuyerNode) -> None:
    """Looking a key up, and holding and counting its part of the quota."""
    choose(node, integrator=True)
    quota(node, 10_000_000)

    async def seconds(proxy: Running) -> float:
        find, gate = proxy.proxy._keys.find, proxy.proxy.gate
        best = 1e9
        for _ in range(50):  # short ones: some of them nothing else on the machine interrupts
            started = time.perf_counter()
            for _ in range(200):
                key = find(f"Bearer {SECRET}".encode())
                assert key is not None
                held = await gate.claim(key, 1_780_000_000)
                assert held is not None
                held.commit()
            best = min(best, time.perf_counter() - started)
        return best

    async with node.running() as proxy:
        few = await seconds(proxy)
    rows = [
        ConsumerKey(
            id=f"k{n}", name="k", secret_hash=hashlib.sha256(b"%d" % n).hexdigest(), integrator=True
        )
        for n in range(10_000)
    ]
    node.add(*rows)
    async with node.running() as proxy:
        many = await seconds(proxy)
    assert many < few * 2


def test_a_key_cannot_be_for_a_listing_that_is_not_there(node: BuyerNode) -> None:
    from node.accounts.errors import AccountInvalid
    from node.usage.key_choices import KeyChoices

    with pytest.raises(AccountInvalid) as refused:
        create_key(node.engine, KeyChoices("app", scopes=("nothing",)), 1)
    assert refused.value.field == "scopes"
