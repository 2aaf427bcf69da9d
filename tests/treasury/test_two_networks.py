"""A node that moved from one network to another, over the same database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from finance.arrivals import Arrivals
from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.chain.watcher import Watcher
from finance.errors import WithdrawalRefused
from finance.history import Filter, all_history
from finance.operations import Token
from finance.reconcile import reconcile
from finance.wallet.signer import Signer
from finance.withdrawals import (
    Withdrawals,
    count_withdrawals,
    export_withdrawals,
    find_withdrawal,
    recent_withdrawals,
)
from node.purse import Purse
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import transfer
from tests.treasury.test_arrivals import announce
from tests.treasury.wallet_world import ANN, NETWORK, SOMEBODY, WalletWorld


@pytest.fixture
def other_chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(chain_id=31338) as process:
        yield process


async def test_the_books_of_each_network_equal_its_chain(
    world: WalletWorld, other_chain: DevchainProcess
) -> None:
    network, source = replace(NETWORK, chain_id=31338), Signer.from_hex(other_chain.keys[9])
    view = await world.withdraw(Token.USDC, 1_000)
    await world.until(lambda: (found := find_withdrawal(world.engine, view.id)) and found.ended)
    await world.watcher.catch_up()
    async with Rpc([other_chain.rpc_url], 31338) as rpc:
        watcher = Watcher(rpc, world.store, network, world.wallet.address)
        await watcher.catch_up()
        transfer(other_chain, source, world.wallet.address, 77)
        report = await reconcile(world.store, rpc, world.wallet.address, network, watcher)
    assert report.differences == ()
    await world.assert_books_equal_chain()


async def test_what_waits_on_another_network_is_not_missing_here(
    world: WalletWorld, other_chain: DevchainProcess
) -> None:
    network = replace(NETWORK, chain_id=31338)
    world.chain.rpc("evm_setAutomine", False)
    try:
        await world.withdraw(Token.USDC, 1_000)
        async with Rpc([other_chain.rpc_url], 31338) as rpc:
            sender = Sender(rpc, world.wallet, network, world.store, GasCaps.default(network))
            here = await Withdrawals(world.store, sender, rpc, network).available()
        there = await world.withdrawals.available()
    finally:
        world.chain.rpc("evm_setAutomine", True)
    assert (here.usdc_promised, here.wei_promised) == (0, 0)
    assert there.usdc_promised == 1_000 and there.wei_promised > 0


async def test_eth_arrives_beside_what_was_sent_in_such_a_block_of_another_network(
    world: WalletWorld, other_chain: DevchainProcess
) -> None:
    network, address = replace(NETWORK, chain_id=31338), world.wallet.address
    async with Rpc([other_chain.rpc_url], 31338) as rpc:
        purse = Purse(rpc, network, address, Arrivals(world.store, network, address, announce))
        await purse.look()
        view = await world.withdraw(Token.ETH, 1_000)
        await world.until(lambda: (found := find_withdrawal(world.engine, view.id)) and found.ended)
        [(block,)] = world.rows("SELECT block_number FROM chain_tx")
        other_chain.rpc("anvil_mine", hex(block + 1))
        other_chain.rpc("anvil_setBalance", address, hex(777))
        await purse.look()
    assert world.rows("SELECT chain_id, amount FROM arrival WHERE token = 'ETH'") == [
        (31338, "777")
    ]


async def test_history_and_withdrawals_are_those_of_the_network_the_node_is_on(
    world: WalletWorld, other_chain: DevchainProcess
) -> None:
    network, source = replace(NETWORK, chain_id=31338), Signer.from_hex(other_chain.keys[9])
    view = await world.withdraw(Token.USDC, 1_000)
    await world.until(lambda: (found := find_withdrawal(world.engine, view.id)) and found.ended)
    eth = await world.withdraw(Token.ETH, 10**15)
    await world.until(lambda: (found := find_withdrawal(world.engine, eth.id)) and found.ended)
    await world.watcher.catch_up()
    async with Rpc([other_chain.rpc_url], 31338) as rpc:
        watcher = Watcher(rpc, world.store, network, world.wallet.address)
        await watcher.catch_up()
        transfer(other_chain, source, world.wallet.address, 77)
        await watcher.catch_up()
    [there, here] = [
        [each.amount for each in all_history(world.engine, Filter(chain_id=chain_id))]
        for chain_id in (NETWORK.chain_id, 31338)
    ]
    assert here == [77]
    assert {-1_000, -(10**15)} <= set(there) and 77 not in there
    assert sorted(here + there) == sorted(e.amount for e in all_history(world.engine, Filter()))
    assert [each.id for each in export_withdrawals(world.engine, 31338)] == []
    assert recent_withdrawals(world.engine, 31338, 5) == []
    assert count_withdrawals(world.engine, 31338) == 0
    assert count_withdrawals(world.engine, NETWORK.chain_id) == 2


async def test_a_withdrawal_confirmed_on_another_network_is_not_said_to_be_made_here(
    world: WalletWorld, other_chain: DevchainProcess
) -> None:
    """Who names withdrawals himself would take the one that was tried elsewhere for this one."""
    network = replace(NETWORK, chain_id=31338)
    await world.withdraw(Token.USDC, 1_000, id_="invoice 1")
    async with Rpc([other_chain.rpc_url], 31338) as rpc:
        caps = GasCaps.default(network)
        sender = Sender(rpc, world.wallet, network, world.store, caps)
        there = Withdrawals(world.store, sender, rpc, network)
        with pytest.raises(WithdrawalRefused, match="used for another"):
            await there.send("invoice 1", Token.USDC, SOMEBODY, 1_000, ANN)
