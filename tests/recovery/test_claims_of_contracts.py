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


@pytest.mark.parametrize("reason", [Reason.REQUESTED, Reason.WITHDRAWAL])
async def test_a_wallet_above_the_cap_keeps_no_other_channel_from_being_claimed(
    chain: DevchainProcess, tmp_path: Path, reason: Reason
) -> None:
    async with World(chain, tmp_path) as world:
        wallet, others = Payer(chain), [Payer(chain) for _ in range(2)]
        config = structs.replace(world.config(wallet), payer_authorizer=bytes(20))
        dear = world.deposit(wallet, 20_000, config)
        await world.settlement.settle(await world.owe(dear), 120)
        chain.rpc("anvil_setCode", wallet.hex, AGREES_AT_LENGTH)
        await world.charge(wallet, dear.channel_id, 15_000)
        for payer in others:
            channel = await world.open_channel(payer, 20_000)
            await world.charge(payer, channel.channel_id, 10_000)
        most = 1_000_000 * (await read_fees(world.rpc)).max_fee_wei
        world.sender._caps = replace(GasCaps.default(NETWORK), per_tx_wei=most)
        report = await world.claims.claim(reason)
        assert (report.claimed_atoms, list(report.excluded)) == (20_000, [to_hex(dear.channel_id)])
        assert usdc_of(chain, world.wallet.address) == 20_000
        world.sender._caps = GasCaps.default(NETWORK)
        assert (await world.claims.claim_all()).claimed_atoms == 15_000
