"""What buyers owe is claimed before a node ends, and after it was ended without asking."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.accounts.audit import SYSTEM
from node.db.engine import open_engine
from node.preferences import change_preference
from node.treasury.choices import ClaimTerms
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import PRICE, Errand, Market, open_market
from tests.recovery.node_home import NodeHome, until

CALLS = 25
OWED = CALLS * PRICE


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def sell(market: Market, name: str) -> None:
    """Calls that are charged and, by the policy of a new node, not claimed for an hour."""
    await market.buy_many([Errand(f"{name}-{each}") for each in range(CALLS)])
    await market.all_settled()
    assert await unclaimed(market.seller) == OWED


async def unclaimed(seller: NodeHome) -> int:
    return await seller.number(
        "SELECT SUM(charged_atoms - streaming_atoms - total_claimed_atoms) FROM seller_channel"
    )


def claim_every_second(seller: NodeHome) -> None:
    """As an operator chooses it; so that the test need not wait for an hour."""
    engine = open_engine(f"sqlite:///{seller.data_dir / 'farebox.db'}")
    terms = ClaimTerms(interval_seconds=1, dust_atoms=0, gas_price_wei=10**12)
    change_preference(engine, terms, SYSTEM, int(time.time()))
    engine.dispose()


async def test_a_node_told_to_end_has_its_money_when_it_has_ended(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        seller, before = market.seller, market.usdc(market.seller)
        await sell(market, "before-the-end")
        ended = seller.part
        assert ended is not None
        await seller.stop()
        # Read while nothing of the seller runs: nobody could claim any more.
        assert ended.exit_code == 0, seller.log()
        assert market.usdc(seller) == before + OWED
        assert await unclaimed(seller) == 0
        told = "SELECT COUNT(*) FROM event WHERE type = 'claimed' AND message LIKE 'Claimed 0.%'"
        assert await seller.number(told) == 1
        # The ledger books it from the chain's events, with the confirmations they need.
        await seller.start()
        await market.reconcile()


async def test_a_killed_node_claims_once_it_is_started_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        seller, before = market.seller, market.usdc(market.seller)
        await sell(market, "before-the-kill")
        await seller.kill_9()
        assert market.usdc(seller) == before and await unclaimed(seller) == OWED
        claim_every_second(seller)
        await seller.start()

        async def arrived() -> bool:
            return market.usdc(seller) == before + OWED

        await until("the vouchers of before the kill are claimed", arrived)

        async def booked() -> bool:
            return await unclaimed(seller) == 0

        await until("the claim is in the books", booked)
        claims = "SELECT COUNT(*) FROM chain_tx WHERE purpose = 'claim'"
        assert await seller.number(claims) == 1
        await market.reconcile()
