"""`kill -9` of a buyer that subscribes: the order is finished at the next start, and paid once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.accounts.audit import SYSTEM
from node.db.engine import open_engine
from node.demo.processes import run_command
from node.plans.offered import add_plan, choices
from node.plans.terms import first_stretch
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import BUYER_ATOMS, SOAK, Errand, Market, open_market
from tests.recovery.node_home import until

PRICE = 900_000  # below the limits that hold where nobody set any


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=1.0) as process:
        yield process


@pytest.mark.parametrize("moment", ["ordered", "signed"] if SOAK else ["signed"])
async def test_an_order_survives_a_kill_and_is_paid_once(
    chain: DevchainProcess, tmp_path: Path, moment: str
) -> None:
    async with open_market(chain, tmp_path) as market:
        plan_id, price = await asyncio.to_thread(_offer, market)
        listing = (await market.buyer.rows("SELECT id FROM listing"))[0][0]
        bought = ("plan", "subscribe", listing, plan_id, "--most", "1", "--month", "1", "--json")
        command = asyncio.create_task(run_command(bought, market.buyer.environment))
        await _reached(market, moment)
        await market.buyer.kill_9()
        await market.buyer.start()
        told = await command
        assert isinstance(told, dict)
        assert (told["order"], told["state"]) == ("done", "active")
        assert market.usdc(market.buyer) == BUYER_ATOMS - price
        paid = "SELECT COUNT(*) FROM purchase WHERE scheme = 'exact'"
        assert await market.buyer.number(paid) == 1
        assert await market.seller.number("SELECT COUNT(*) FROM subscription") == 1
        errand = Errand("by-plan")
        await market.buy(errand)
        assert errand.cost_atoms == 0
        await market.reconcile()
        cancelled = ("plan", "cancel", told["id"], "--json")
        ended = await run_command(cancelled, market.buyer.environment)
        assert isinstance(ended, dict)
        assert (ended["state"], ended["renews"]) == ("cancelled", False)


def _offer(market: Market) -> tuple[str, int]:
    """A plan of the seller's only API, and what the rest of the month costs."""
    engine = open_engine(market.seller.database_url)
    try:
        with engine.connect() as connection:
            listing_id = connection.exec_driver_sql("SELECT id FROM listing").scalar_one()
        given = {"calls": 1_000, "stream_seconds": None, "per_minute": None}
        chosen = choices("Pro", "", PRICE, beyond="stop", grace_days=3, **given)
        plan = add_plan(engine, listing_id, chosen, int(time.time()), SYSTEM)
        return plan.id, first_stretch(plan.deal, int(time.time())).price_atoms
    finally:
        engine.dispose()


async def _reached(market: Market, moment: str) -> None:
    """The order is written; or its payment is, and is on its way."""
    table = {"ordered": "bought_order", "signed": "purchase"}[moment]

    async def there() -> bool:
        return await market.buyer.number(f"SELECT COUNT(*) FROM {table}") > 0

    await until(f"a row in {table}", there)
