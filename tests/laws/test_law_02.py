"""Law 2. Durable before delivered: what has left this node is on disk.

A process killed at any instant leaves behind what another connection could have read
at that instant; so each promise is witnessed at the first byte, not by luck with a signal.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from httpx import Response

from finance.errors import SettlementUnknown
from finance.store import Batch
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from tests.chain_fixtures import ChainProcess
from tests.http.conftest import PRICE, Market
from tests.http.plans_world import BELOW, Customer, Seller, open_seller
from tests.http.proxy_world import SECRET, BuyerNode, served
from tests.laws.worlds import CHARGED, Shop, Witness, at_first_byte, on_disk
from tests.laws.x402_seller import X402Seller
from tests.recovery.seller_world import World, usdc_of


async def test_no_answer_leaves_before_its_charge_is_on_disk(market: Market) -> None:
    assert await _charged_at_first_byte(market, "/v1/api/echo") == [PRICE]


async def test_no_long_answer_begins_before_its_charge_is_on_disk(market: Market) -> None:
    assert await _charged_at_first_byte(market, "/v1/api/stream/40/10000") == [PRICE]


async def _charged_at_first_byte(market: Market, path: str) -> list[int]:
    database = market.journal.engine.url.database
    return await at_first_byte(market, path, lambda: on_disk(database, CHARGED))


async def test_no_exact_answer_leaves_before_its_money_has_arrived(shop: Shop) -> None:
    world = shop.world
    payment = world.exact(shop.payer())
    witnesses: list[Witness] = []

    def look() -> tuple[int, str]:
        state = on_disk(world.engine.url.database, "SELECT state FROM onchain_payment")
        return usdc_of(world.chain, world.wallet.address), state

    def wrap(gateway: object) -> Witness:
        witnesses.append(Witness(gateway, look))
        return witnesses[0]

    async with shop.open_gateway(wrap) as url:
        headers = await shop.header(url, payment)
        answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert answer.status_code == 200
    assert witnesses[0].seen == [(PRICE, "confirmed")]


async def test_what_a_buyer_signs_is_on_disk_before_a_seller_sees_it(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    database = buyer.engine.url.database
    seen: list[tuple[str, str]] = []

    def look(header: str) -> None:
        seen.append((header, on_disk(database, "SELECT payment_header FROM purchase")))

    seller.on_payment = look
    async with buyer.running() as proxy:
        await proxy.call("api/x")
    assert seen == [(seller.payments[0], seller.payments[0])]


async def test_no_bought_answer_reaches_its_app_before_it_is_booked(
    buyer: BuyerNode, seller: X402Seller
) -> None:
    database = buyer.engine.url.database
    sql = "SELECT state || ' ' || (SELECT SUM(amount) FROM ledger_entry) FROM purchase"
    async with buyer.running() as proxy:
        witness = Witness(proxy.proxy, lambda: on_disk(database, sql))
        async with served(witness) as base:
            bearer = {"authorization": f"Bearer {SECRET}"}
            answer = await proxy.client.get(f"{base}/call/api/x", headers=bearer)
    assert answer.status_code == 200
    assert witness.seen == ["paid -1000"]


async def test_no_commit_is_lost_when_the_power_fails(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'farebox.db'}")
    journal = Journal(engine)
    await journal.commit(Batch([]))
    with writer(engine).connect() as connection:
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar()
    journal.close()
    engine.dispose()
    assert synchronous == 2  # FULL: the log is on the disk when a commit returns


class NeverSettles:
    """Where the node is killed: the debt is on disk, its money has not moved."""

    async def settle(self, payment_id: str, timeout: float) -> Any:
        raise SettlementUnknown("it is on its way")

    async def take_over(self, owners: Any) -> int:
        return 0


async def test_a_plan_gives_nothing_before_its_money_has_arrived(
    chain: ChainProcess, tmp_path: Path
) -> None:
    async with (
        World(chain, tmp_path) as world,
        open_seller(world, settlement=NeverSettles()) as seller,
    ):
        customer = seller.customer()
        answer = await _order(seller, customer)
        assert answer.status_code == 504
        for _ in range(2):
            await seller.gate.look()
            assert (await seller.call(customer)).status_code == 401
            await seller.gate.load()
        assert seller.rows("SELECT state FROM onchain_payment") == [("owed",)]


async def test_a_plan_paid_before_a_crash_is_good_after_it(
    chain: ChainProcess, tmp_path: Path
) -> None:
    async with World(chain, tmp_path) as world:
        async with open_seller(world, settlement=NeverSettles()) as seller:
            customer = seller.customer()
            body = {"key_hash": customer.key_hash}
            path = f"{BELOW}/plans/{seller.plan().id}"
            payment = await seller.payment(path, customer)
            assert (await seller.pay(path, customer, body, payment)).status_code == 504
        wallet, receiver = world.wallet, world.receiver
    async with World(chain, tmp_path, wallet, receiver) as world, open_seller(world) as seller:
        async with asyncio.timeout(30):
            while seller.rows("SELECT state FROM onchain_payment") != [("confirmed",)]:
                await asyncio.sleep(0.05)
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while (await seller.call(customer)).status_code != 200:
                    await asyncio.sleep(0.2)
        assert (await seller.call(customer)).status_code == 200
        assert usdc_of(chain, world.wallet.address) == _paid(seller)
        assert seller.rows("SELECT number FROM invoice") == [(_first_number(),)]
        assert seller.rows("SELECT count(*) FROM subscription_period") == [(1,)]


async def _order(seller: Seller, customer: Customer) -> Response:
    path = f"{BELOW}/plans/{seller.plan().id}"
    return await seller.pay(path, customer, {"key_hash": customer.key_hash})


def _paid(seller: Seller) -> int:
    return int(seller.rows("SELECT SUM(price_atoms) FROM subscription_period")[0][0])


def _first_number() -> str:
    return time.strftime("FB-%Y-000001", time.gmtime())
