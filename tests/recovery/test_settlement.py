"""Payments that move on-chain: what is delivered is paid, once, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.errors import SettlementFailed
from finance.ledger import Account
from finance.models import ChannelState, PaymentState
from finance.selling.reasons import EXACT_BALANCE, NONCE_USED
from finance.wallet.signer import Signer
from finance.x402.exact import transfer_calldata
from finance.x402.settlement_calls import deposit_calldata
from tests.chain_fixtures import DevchainProcess
from tests.recovery.seller_world import PRICE, USDC, Payer, World, send_as, usdc_of


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


async def test_payments_of_one_moment_share_one_transaction(world: World) -> None:
    payers = [Payer(world.chain) for _ in range(20)]
    ids = [await world.owe(world.exact(payer)) for payer in payers]
    settled = await asyncio.gather(*(world.settlement.settle(each, 30) for each in ids))
    assert len(world.transactions()) == 1
    assert len({(each.tx_hash, each.log_index) for each in settled}) == 20
    assert usdc_of(world.chain, world.wallet.address) == 20 * PRICE
    assert world.booked(Account.EXACT) == 20 * PRICE


async def test_batch_of_twenty_costs_at_most_0_7_of_the_gas_of_single_payments(
    world: World,
) -> None:
    await world.settlement.settle(await world.owe(world.exact(Payer(world.chain))), 30)
    await world.settlement.settle(await world.owe(world.exact(Payer(world.chain))), 30)
    single = world.transactions()[1].gas_used
    ids = [await world.owe(world.exact(Payer(world.chain))) for _ in range(20)]
    await asyncio.gather(*(world.settlement.settle(each, 30) for each in ids))
    assert world.transactions()[2].gas_used / 20 <= 0.7 * single


async def test_one_bad_authorization_among_twenty_spoils_no_other(world: World) -> None:
    payers = [Payer(world.chain) for _ in range(19)]
    poor = await world.owe(world.exact(Payer(world.chain, atoms=PRICE - 1)))
    good = [await world.owe(world.exact(payer)) for payer in payers]
    results = await asyncio.gather(
        *(world.settlement.settle(each, 30) for each in [poor, *good]), return_exceptions=True
    )
    assert isinstance(results[0], SettlementFailed)
    assert results[0].code == EXACT_BALANCE
    assert not any(isinstance(each, Exception) for each in results[1:])
    assert usdc_of(world.chain, world.wallet.address) == 19 * PRICE
    assert len(world.transactions()) == 1


async def test_payment_submitted_by_a_stranger_first_is_money_that_arrived(world: World) -> None:
    payment = world.exact(Payer(world.chain))
    tx_hash = send_as(world.chain, Signer.random(), USDC, transfer_calldata(payment))
    settled = await world.settlement.settle(await world.owe(payment), 30)
    assert settled.tx_hash == tx_hash
    assert world.booked(Account.EXACT) == PRICE
    assert world.transactions() == []


async def test_same_authorization_twice_is_booked_once(world: World) -> None:
    payment_id = await world.owe(world.exact(Payer(world.chain)))
    settled = await asyncio.gather(*(world.settlement.settle(payment_id, 30) for _ in range(10)))
    again = await world.settlement.settle(payment_id, 30)
    assert len({*settled, again}) == 1
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_deposit_opens_the_channel_and_charges_its_first_call(world: World) -> None:
    payer = Payer(world.chain)
    payment = await world.open_channel(payer, 50_000)
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.OPEN, 50_000)
    assert (row.charged_atoms, row.signed_atoms) == (PRICE, PRICE)
    assert world.booked(Account.CHARGED) == PRICE
    top_up = world.deposit(payer, 7_000, payment.config, charged=PRICE)
    settled = await world.settlement.settle(await world.owe(top_up), 30)
    assert settled.channel is not None and settled.channel.balance == 57_000
    assert world.channel(payment.channel_id).charged_atoms == 2 * PRICE


async def test_deposit_submitted_by_a_stranger_first_is_charged_all_the_same(
    world: World,
) -> None:
    payment = world.deposit(Payer(world.chain), 9_000)
    payment_id = await world.owe(payment)
    data = deposit_calldata(payment)
    tx_hash = send_as(world.chain, Signer.random(), BATCH_SETTLEMENT_ADDRESS, data)
    settled = await world.settlement.settle(payment_id, 30)
    assert settled.tx_hash == tx_hash
    assert world.channel(payment.channel_id).charged_atoms == PRICE


async def test_exact_and_deposits_go_together(world: World) -> None:
    exact = [await world.owe(world.exact(Payer(world.chain))) for _ in range(3)]
    deposits = [await world.owe(world.deposit(Payer(world.chain), 5_000)) for _ in range(3)]
    await asyncio.gather(*(world.settlement.settle(each, 30) for each in exact + deposits))
    assert len(world.transactions()) == 1
    assert world.count(PaymentState.CONFIRMED) == 6


async def test_canceled_authorization_is_refused_for_good(world: World) -> None:
    from finance.x402.abi import calldata
    from finance.x402.digest import keccak, sign_digest

    payer = Payer(world.chain)
    payment = world.exact(payer)
    typehash = keccak(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    nonce = payment.authorization.nonce
    struct = keccak(typehash + bytes(12) + payer.address + nonce)
    signature = sign_digest(payer.key, keccak(b"\x19\x01" + world.terms.token_domain + struct))
    types = ("address", "bytes32", "bytes")
    data = calldata("cancelAuthorization", types, payer.address, nonce, signature)
    send_as(world.chain, Signer.random(), USDC, data)
    with pytest.raises(SettlementFailed) as refused:
        await world.settlement.settle(await world.owe(payment), 30)
    assert refused.value.code == NONCE_USED
