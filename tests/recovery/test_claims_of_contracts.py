"""Channels whose vouchers a contract vouches for (EIP-1271): what it says costs what it likes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from finance.chain.fees import GasCaps, read_fees
from finance.selling.claim_policy import Reason
from finance.x402.text import to_hex
from tests.chain_fixtures import DevchainProcess
from tests.recovery.seller_world import NETWORK, Payer, World, usdc_of

# Agrees to whatever it is asked, after two million of gas (for a megabyte of memory).
AGREES_AT_LENGTH = "0x60006210000052631626ba7e60e01b60005260206000f3"
AGREES = "0x631626ba7e60e01b60005260206000f3"
BURNS_ALL_GAS = "0xfe"


async def owing_wallet(world: World, code: str, atoms: int) -> str:
    """A channel that owes so much on the word of a contract; its id."""
    wallet = Payer(world.chain)
    config = structs.replace(world.config(wallet), payer_authorizer=bytes(20))
    opened = world.deposit(wallet, 20_000, config)
    await world.settlement.settle(await world.owe(opened), 120)
    world.chain.rpc("anvil_setCode", wallet.hex, code)
    await world.charge(wallet, opened.channel_id, atoms)
    return to_hex(opened.channel_id)


@pytest.mark.parametrize("reason", [Reason.REQUESTED, Reason.WITHDRAWAL])
async def test_a_wallet_above_the_cap_keeps_no_other_channel_from_being_claimed(
    chain: DevchainProcess, tmp_path: Path, reason: Reason
) -> None:
    async with World(chain, tmp_path) as world:
        dear = await owing_wallet(world, AGREES_AT_LENGTH, 15_000)
        for payer in [Payer(chain) for _ in range(2)]:
            channel = await world.open_channel(payer, 20_000)
            await world.charge(payer, channel.channel_id, 10_000)
        most = 1_000_000 * (await read_fees(world.rpc)).max_fee_wei
        world.sender._caps = replace(GasCaps.default(NETWORK), per_tx_wei=most)
        report = await world.claims.claim(reason)
        assert (report.claimed_atoms, list(report.excluded)) == (20_000, [dear])
        assert usdc_of(chain, world.wallet.address) == 20_000
        world.sender._caps = GasCaps.default(NETWORK)
        assert (await world.claims.claim_all()).claimed_atoms == 15_000


async def test_wallets_that_burn_all_gas_keep_no_other_channel_from_being_claimed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """Where several are tried in one read, they leave nothing for those after them."""
    async with World(chain, tmp_path) as world:
        burning = [await owing_wallet(world, BURNS_ALL_GAS, 15_000) for _ in range(2)]
        await owing_wallet(world, AGREES, 12_000)
        payer = Payer(chain)
        channel = await world.open_channel(payer, 20_000)
        await world.charge(payer, channel.channel_id, 10_000)
        report = await world.claims.claim(Reason.WITHDRAWAL)
        assert (report.claimed_atoms, set(report.excluded)) == (22_000, set(burning))
        assert usdc_of(chain, world.wallet.address) == 22_000
