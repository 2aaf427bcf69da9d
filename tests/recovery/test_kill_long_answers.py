"""`kill -9` while long answers are on their way: what broke off at the seller costs nothing, and
both books say the same as the chain."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from finance.ledger import Account
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import LONG_BYTES, PRICE, SOAK, Errand, Market, open_market
from tests.recovery.node_home import WAIT_SECONDS

ROUNDS = 12 if SOAK else 2
LONG_CALLS, CALLS, AGAIN = 4, 30, 60
LATEST_KILL_SECONDS = 2.2
# It was paid, and what came as a stream is not given again: by our node, by the seller's.
OVER = (b"answer_not_kept", b"answer_lost", b"stream_opened")


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def test_long_answers_cut_by_a_kill_leave_both_books_the_same(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chance = random.Random()
    async with open_market(chain, tmp_path) as market:
        before = market.usdc(market.seller)
        for number in range(ROUNDS):
            await _round(market, number, chance.uniform(0, LATEST_KILL_SECONDS))
        # A channel's next voucher tells the buyer what the seller gave back.
        await market.buy_many([Errand(f"again-{each}") for each in range(AGAIN)])
        await market.all_settled()
        await market.claim_all()
        charged = await market.seller.booked(Account.CHARGED)
        assert await market.buyer.booked(Account.SPENT) == -charged
        in_channels = "SELECT SUM(charged_atoms) FROM buyer_channel"
        assert await market.buyer.number(in_channels) == charged
        assert market.usdc(market.seller) == before + charged
        await market.reconcile()


async def _round(market: Market, number: int, kill_after: float) -> None:
    """Seller and buyer in turns end while both kinds of calls are under way."""
    victim = market.nodes[number % 2]
    before = await market.seller.booked(Account.CHARGED)
    calls = [Errand(f"call-{number}-{each}") for each in range(CALLS)]
    async with asyncio.TaskGroup() as group:
        long = [group.create_task(_fetch(market, f"{number}-{each}")) for each in range(LONG_CALLS)]
        group.create_task(market.buy_many(calls, 4))
        await asyncio.sleep(kill_after)
        await victim.kill_9()
        await victim.start()
    charged = await market.seller.booked(Account.CHARGED) - before - CALLS * PRICE
    whole = sum(task.result() for task in long)
    if victim is market.seller:
        assert charged <= whole * PRICE, "an answer that broke off was charged"
    assert charged <= LONG_CALLS * PRICE


async def _fetch(market: Market, name: str) -> bool:
    """Whether it came, whole, until its key says that nothing more is to be had."""
    headers = {"Authorization": f"Bearer {market.secret}", "Idempotency-Key": name}
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            async with market.session.get(market.at_proxy(f"long/{name}"), headers=headers) as got:
                body = await got.read()
        except (aiohttp.ClientError, OSError):
            continue
        finally:
            await asyncio.sleep(0.25)
        if got.status == 200:
            assert len(body) == LONG_BYTES
            return True
        if any(code in body for code in OVER):
            return False
        assert time.monotonic() < deadline, (name, got.status, body)
