"""Calls bought by several processes on one PostgreSQL: each pays through channels of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from finance.buying import closing
from finance.buying.closing import Answer, Closings
from finance.buying.recovery import settle_channels
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.errors import ChannelNotClosable
from finance.store import Write
from finance.x402.values import DepositPayment, Payment, Receipt
from finance.x402.vouchers import deposit_calldata
from node.usage.events import event
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import NETWORK, BuyerNode, Running, buying, left_open, official_seller
from tests.http.scripted_seller import ScriptedSeller, honest, keeps
from tests.recovery.test_purchase_open import send

_LOCKS = (
    " FROM pg_locks JOIN pg_database d ON d.oid = database"
    " WHERE locktype = 'advisory' AND datname = current_database()"
)
_END_LOCKS = "SELECT pg_terminate_backend(pid)" + _LOCKS


async def _locks_gone(node: BuyerNode) -> None:
    """A server gives a lock back in its own time once the connection that had it is closed."""
    async with asyncio.timeout(30):
        with node.engine.connect() as connection:
            while connection.execute(text("SELECT pid" + _LOCKS)).scalars().all():
                await asyncio.sleep(0.02)


async def _bought(*proxies: Running) -> list[int]:
    answers = await asyncio.gather(*(each.call("x/paid/hello") for each in proxies))
    return [answer.status_code for answer in answers]


@asynccontextmanager
async def _buying(node: BuyerNode, chain: DevchainProcess) -> AsyncIterator[Running]:
    """A process that has bought once from an official seller, through a channel of its own."""
    with official_seller(chain) as base:
        node.list("x", base)
        async with node.running() as one:
            assert await _bought(one) == [200]
            yield one


async def test_two_processes_buy_from_one_seller_and_the_money_of_one_that_is_gone_is_used(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path
) -> None:
    node = BuyerNode(tmp_path, chain, url=postgres_url)
    async with _buying(node, chain) as one:
        async with node.running() as other:
            for _ in range(3):
                assert await _bought(one, other) == [200, 200]
        assert len(node.channels) == 2
        assert await _bought(one, one) == [200, 200]
    assert len(node.channels) == 2
    assert sum(channel.charged_atoms for channel in node.channels) == 9_000
    node.check_books()


async def test_what_another_process_took_up_while_a_connection_was_lost_is_left_to_it(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path
) -> None:
    node = BuyerNode(tmp_path, chain, url=postgres_url)
    async with _buying(node, chain) as one:
        with node.engine.connect() as connection:
            assert connection.execute(text(_END_LOCKS)).scalars().all()
        async with node.running() as other:
            await settle_channels(one.proxy.buyer)
            for _ in range(3):
                assert await _bought(one, other) == [200, 200]
    assert len(node.channels) == 2
    assert sum(channel.charged_atoms for channel in node.channels) == 7_000
    node.check_books()


@pytest.mark.parametrize("settled", [True, False])
async def test_a_channel_that_another_process_had_for_a_while_is_used_as_that_one_left_it(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path, settled: bool
) -> None:
    """Its own process had lost the database meanwhile. It finds out when it writes."""
    node, seller = BuyerNode(tmp_path, chain, url=postgres_url), ScriptedSeller()

    async def deposits(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        if settled and isinstance(payment.payload, DepositPayment):
            send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
        return await honest(this, payment)

    seller.behave = deposits
    async with buying(node, seller) as one:
        assert (await one.call("x/y")).status_code == 200
        with node.engine.connect() as connection:
            assert connection.execute(text(_END_LOCKS)).scalars().all()
        async with node.running() as other:
            assert (await other.call("x/y")).status_code == 200
        await _locks_gone(node)
        await settle_channels(one.proxy.buyer)
        first, *after = [(await one.call("x/y")).status_code for _ in range(3)]
    assert (first in (200, 503), after) == (True, [200, 200])
    assert len(node.channels) == 1
    assert -node.booked("spent") == sum(seller.charged.values())
    node.check_books()


async def test_a_retry_gets_what_a_process_that_is_gone_has_paid_for(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path
) -> None:
    """Its channel is nobody's now; it holds the voucher that the seller knows the call by."""
    node, seller = BuyerNode(tmp_path, chain, url=postgres_url), ScriptedSeller()

    async def is_late(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        kept = await keeps(this, payment)
        await this.hang.wait()
        return kept

    async with buying(node, seller) as other:
        async with node.running(answer_seconds=2.0) as one:
            await left_open(one, seller, "x/y", "k", is_late)
            there = await other.call("x/y", key="k")
        seller.behave = keeps
        async with asyncio.timeout(30):  # until the server has given the channel free
            while (again := await other.call("x/y", key="k")).status_code == 502:
                await asyncio.sleep(0.05)
    assert (there.json()["code"], again.status_code) == ("charge_unknown", 200)
    assert sum(seller.charged.values()) == -node.booked("spent") == 1_000
    node.check_books()


async def test_a_closing_goes_on_in_another_process_when_its_own_is_gone(
    chain: DevchainProcess, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "_LONGEST_PAUSE_SECONDS", 0.5)
    node = BuyerNode(tmp_path, chain, url=postgres_url)
    step = "SELECT step FROM closing"
    async with _buying(node, chain):
        pass
    async with node.running() as one, node.running() as other:
        [channel] = node.channels
        async with _closings(one, chain) as begun, _closings(other, chain) as left:
            await left.start()
            with pytest.raises(ChannelNotClosable, match="another process"):
                await left.close(channel.channel_id)
            await begun.close(channel.channel_id)
            await _until(node, step, "waiting")
            await begun.stop()
            await one.proxy.buyer.pools.stop()
            chain.rpc("evm_increaseTime", channel.withdraw_delay + 1)
            chain.rpc("evm_mine")
            await _until(node, step, "closed")
    [channel] = node.channels
    assert (channel.state, channel.balance_atoms) == ("closed", channel.charged_atoms)


@asynccontextmanager
async def _closings(proxy: Running, chain: DevchainProcess) -> AsyncIterator[Closings]:
    """What one process closes channels with; the seller gives nothing back."""

    async def refused(*_: object) -> Answer:
        return Answer("The seller does not want to.")

    buyer = proxy.proxy.buyer
    async with Rpc([chain.rpc_url], NETWORK.chain_id) as rpc:
        caps = GasCaps.default(NETWORK)
        sender = Sender(rpc, buyer.keys.wallet, NETWORK, buyer.store, caps)
        await sender.start()
        closings = Closings(buyer, sender, rpc, refused, _line)
        try:
            yield closings
        finally:
            await closings.stop()
            await sender.stop()


def _line(sentence: str) -> Write:
    return event("channel_closing", "info", sentence, int(time.time()))


async def _until(node: BuyerNode, query: str, value: str) -> None:
    async with asyncio.timeout(20):
        while True:
            with node.engine.connect() as connection:
                if connection.execute(text(query)).scalar() == value:
                    return
            await asyncio.sleep(0.1)
