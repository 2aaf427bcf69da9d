"""`kill -9` of seller and buyer under load: no accepted payment lost, none charged twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from finance.ledger import Account
from finance.wallet.signer import Signer
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import PRICE, SOAK, Errand, Market, open_market
from tests.recovery.node_home import NodeHome

ROUNDS = 30 if SOAK else 3
CALLS = 150
EXACT_CALLS = 3
# A kill falls somewhere into the first calls of a round: openings, charges, settlements.
LATEST_KILL_SECONDS = 1.2


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def test_killed_at_any_moment_every_call_is_answered_and_charged_once(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chance = random.Random()
    tries: Counter[str] = Counter()
    async with open_market(chain, tmp_path) as market:
        before = market.usdc(market.seller)
        for number in range(ROUNDS):
            victims = [(market.seller,), (market.buyer,), market.nodes][number % 3]
            tries += await _round(market, number, victims, chance)
        await market.all_settled()
        await market.claim_all()
        await _check_books(market, before)
        reports = await asyncio.gather(*(each.reconcile_by_command() for each in market.nodes))
    print(f"{ROUNDS} rounds, {ROUNDS * (CALLS + EXACT_CALLS)} calls; tried again:", tries)
    assert [each["differences"] for each in reports] == [[], []]


async def _round(
    market: Market, number: int, victims: tuple[NodeHome, ...], chance: random.Random
) -> Counter[str]:
    """Calls under way, a kill at a random moment, a restart, and every call to its answer."""
    calls = [Errand(f"call-{number}-{each}") for each in range(CALLS)]
    exact = [Errand(f"exact-{number}-{each}") for each in range(EXACT_CALLS)]
    signers = [Signer.from_hex(market.chain.keys[each]) for each in range(EXACT_CALLS)]
    async with asyncio.TaskGroup() as group:
        group.create_task(market.buy_many(calls))
        for errand, signer in zip(exact, signers, strict=True):
            group.create_task(market.buy_exact(errand, signer))
        await asyncio.sleep(chance.uniform(0, LATEST_KILL_SECONDS))
        for victim in victims:
            await victim.kill_9()
        await asyncio.gather(*(victim.start() for victim in victims))
    assert all(each.cost_atoms == PRICE for each in calls + exact)
    return sum((each.tries for each in calls + exact), Counter())


async def _check_books(market: Market, before: int) -> None:
    """Sold, bought and on the chain: the same amount, to the atom."""
    called, transferred = ROUNDS * CALLS * PRICE, ROUNDS * EXACT_CALLS * PRICE
    seller, buyer = market.seller, market.buyer
    assert await seller.booked(Account.CHARGED) == called
    assert await seller.number("SELECT SUM(charged_atoms) FROM seller_channel") == called
    assert await seller.booked(Account.EXACT) == transferred
    assert await buyer.booked(Account.SPENT) == -called
    assert await buyer.number("SELECT SUM(charged_atoms) FROM buyer_channel") == called
    cost = "SELECT SUM(amount_atoms) FROM call"
    assert await buyer.number(cost) == called
    assert await seller.number(cost) == called + transferred
    paid = "SELECT COUNT(*) FROM purchase WHERE state = 'paid'"
    assert await buyer.number(paid) == ROUNDS * CALLS
    assert market.usdc(seller) == before + called + transferred
    assert len(market.api.served) == ROUNDS * (CALLS + EXACT_CALLS)
    assert not market.api.headers, "payment headers reached the upstream"
