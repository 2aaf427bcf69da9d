"""Two nodes sell one listing from one PostgreSQL, and one of them is killed under load."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from catalog.models import ListingOrigin
from finance.ledger import Account
from finance.wallet.signer import Signer
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.front import Front
from tests.recovery.market_world import (
    BUYER_ATOMS,
    PRICE,
    SOAK,
    Api,
    Errand,
    Market,
    list_api,
    list_for_buyer,
    new_home,
    transfer,
)
from tests.recovery.node_home import NodeHome, free_port

CALLS, EXACT_CALLS, DEPOSITS = (1_500, 24, 6) if SOAK else (150, 6, 2)


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def test_one_of_two_gateways_killed_under_load_loses_nothing_and_charges_nothing_twice(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path
) -> None:
    async with open_shared(chain, tmp_path, postgres_url) as (market, front):
        before = market.usdc(market.seller)
        calls = [Errand(f"call-{number}") for number in range(CALLS)]
        exact = [Errand(f"exact-{number}") for number in range(EXACT_CALLS)]
        opened = [Errand(f"deposit-{number}") for number in range(DEPOSITS)]
        signers = [Signer.from_hex(key) for key in chain.keys[:8]]
        async with asyncio.TaskGroup() as group:
            group.create_task(market.buy_many(calls))
            for number, errand in enumerate(exact):
                group.create_task(market.buy_exact(errand, signers[number % 6]))
            for number, errand in enumerate(opened):
                group.create_task(open_channel(market, errand, signers[number % 8]))
            while len(market.api.served) < CALLS // 3:
                await asyncio.sleep(0.01)
            assert all(handed > 2 for handed in front.handed.values()) and len(front.handed) == 2
            await market.seller.kill_9()
        tries = sum((each.tries for each in calls + exact + opened), Counter[str]())
        print("tried again:", tries)
        await market.seller.start()
        await market.all_settled()
        await market.claim_all()
        assert all(each.cost_atoms == PRICE for each in calls + exact + opened)
        await check_books(market, before)
        assert len(market.api.served) == CALLS + EXACT_CALLS + DEPOSITS
        await market.reconcile()


async def open_channel(market: Market, errand: Errand, signer: Signer) -> None:
    """The same deposit until there is an answer."""
    payment, _ = await market.deposit_payment(errand, signer, 100 * PRICE)
    while await market.present(errand, payment) != 200:
        await asyncio.sleep(0.25)


async def check_books(market: Market, before: int) -> None:
    """Sold, bought and on the chain: the same amount, to the atom."""
    seller, buyer = market.seller, market.buyer
    called, transferred, first = CALLS * PRICE, EXACT_CALLS * PRICE, DEPOSITS * PRICE
    assert await seller.booked(Account.CHARGED) == called + first
    assert await seller.number("SELECT SUM(charged_atoms) FROM seller_channel") == called + first
    assert await seller.booked(Account.EXACT) == transferred
    assert await seller.number("SELECT SUM(amount_atoms) FROM call") == called + first + transferred
    assert await buyer.booked(Account.SPENT) == -called
    assert await buyer.number("SELECT SUM(charged_atoms) FROM buyer_channel") == called
    assert market.usdc(seller) == before + called + first + transferred


@asynccontextmanager
async def open_shared(
    chain: DevchainProcess, folder: Path, database: str
) -> AsyncIterator[tuple[Market, Front]]:
    """A market whose seller is two nodes with one wallet and one database."""
    async with AsyncExitStack() as stack:
        api, front_port = Api(), free_port()
        api_url = await stack.enter_async_context(api.listening())
        public = f"http://127.0.0.1:{front_port}"
        seller = await new_home(
            "seller", chain, folder, stack, database=database, public_url=public
        )
        twin = await second_home(seller, chain, stack)
        front = Front([seller.gateway_port, twin.gateway_port])
        await stack.enter_async_context(front.listening(front_port))
        buyer = await new_home("buyer", chain, folder, stack)
        list_api(seller, api_url, ListingOrigin.OWN)
        secret = list_for_buyer(buyer, seller)
        transfer(chain, Signer.from_hex(chain.keys[9]), buyer.address, BUYER_ATOMS)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        try:
            await seller.start()
            await asyncio.gather(twin.start(), buyer.start())
            yield Market(chain, api, seller, buyer, secret, session), front
        except BaseException:
            for node in (seller, twin, buyer):
                print(node.log()[-20_000:])
            raise


async def second_home(seller: NodeHome, chain: DevchainProcess, stack: AsyncExitStack) -> NodeHome:
    """Another machine of the same seller: the same wallet and database, a folder of its own."""
    relay = await stack.enter_async_context(FaultyRpc(chain.rpc_url))
    twin = replace(
        seller, name="twin", relay=relay, gateway_port=free_port(), console_port=free_port()
    )
    await asyncio.to_thread(shutil.copytree, seller.data_dir / "keys", twin.data_dir / "keys")
    stack.push_async_callback(twin.stop)
    return twin
