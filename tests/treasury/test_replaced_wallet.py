"""A wallet that took another's place has its own money, whatever the other left on its way."""

from __future__ import annotations

from pathlib import Path

from finance.operations import Token
from finance.wallet.signer import Signer
from finance.withdrawal import Stage
from tests.chain_fixtures import DevchainProcess
from tests.recovery.seller_world import give_usdc
from tests.treasury.test_withdrawals import mined, receiver
from tests.treasury.wallet_world import ETHER, WalletWorld


async def test_what_a_replaced_wallet_has_on_its_way_is_not_missing_in_the_new_one(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """Its key is gone: nobody can outbid it, so it may stay on its way for good."""
    old, new, to = Signer.random(), Signer.random(), receiver()
    for each in (old, new):
        chain.rpc("anvil_setBalance", each.address, hex(10 * ETHER))
        give_usdc(chain, each.address, 2_000_000)
    chain.rpc("evm_setAutomine", False)
    try:
        async with WalletWorld(chain, tmp_path, old) as world:
            await world.withdraw(Token.USDC, 2_000_000)
        async with WalletWorld(chain, tmp_path, new) as world:
            available = await world.withdrawals.available()
            assert (available.free_usdc, available.free_wei) == (2_000_000, 10 * ETHER)
            view = await world.withdraw(Token.USDC, 2_000_000, to)
            chain.rpc("evm_setAutomine", True)
            chain.rpc("evm_mine")
            assert (await mined(world, view)).stage is not Stage.FAILED
            assert world.usdc_of(to) == 2_000_000
    finally:
        chain.rpc("evm_setAutomine", True)


async def test_the_books_of_the_new_wallet_equal_the_chain(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """What the old one had stays with it, but for what it sent to the new one just before."""
    old, new = Signer.random(), Signer.random()
    for each in (old, new):
        chain.rpc("anvil_setBalance", each.address, hex(10 * ETHER))
    async with WalletWorld(chain, tmp_path, old) as world:
        await world.watcher.catch_up()
        world.receive_usdc(5_000_000)
        await mined(world, await world.withdraw(Token.USDC, 2_000_000, new.address))
        await world.assert_books_equal_chain()
    async with WalletWorld(chain, tmp_path, new) as world:
        await world.watcher.catch_up()
        world.receive_usdc(1_000_000)
        assert world.usdc_of(new.address) == 3_000_000
        await world.assert_books_equal_chain()
