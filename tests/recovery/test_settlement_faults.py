"""Payments on their way when something breaks: none lost, none taken twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError

from finance.chain.fees import GasCaps, read_fees
from finance.errors import SettlementFailed, SettlementUnknown
from finance.ledger import Account
from finance.models import PaymentState
from finance.selling.gas_cost import gas_per_usdc
from finance.wallet.signer import Signer
from finance.x402.exact import transfer_calldata
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.seller_process import run_and_die
from tests.recovery.seller_world import (
    NETWORK,
    PAYMENT,
    PRICE,
    USDC,
    Payer,
    World,
    send_as,
    usdc_of,
)

# A contract that answers every call with zero and does nothing.
_SWALLOWS_ALL = "0x60206000f3"


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.HTML])
async def test_payments_owed_while_no_rpc_answers_are_settled_when_it_does(
    chain: DevchainProcess, tmp_path: Path, fault: Fault
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        ids = [await world.owe(world.exact(Payer(chain))) for _ in range(3)]
        faulty.faults["*"] = fault
        results = await asyncio.gather(
            *(world.settlement.settle(each, 1.0) for each in ids), return_exceptions=True
        )
        assert all(isinstance(each, SettlementUnknown) for each in results)
        faulty.heal()
        await asyncio.gather(*(world.settlement.settle(each, 30) for each in ids))
        assert usdc_of(chain, world.wallet.address) == 3 * PRICE
        assert world.booked(Account.EXACT) == 3 * PRICE


async def test_payments_go_on_though_a_channel_could_not_be_read_for_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    reload, failures = world.channels.reload, [OperationalError("SELECT", {}, OSError("gone"))]

    async def read_at_the_second_try(channel_id: str) -> None:
        if failures:
            raise failures.pop()
        await reload(channel_id)

    monkeypatch.setattr(world.channels, "reload", read_at_the_second_try)
    chain = world.chain
    ids = [
        await world.owe(payment)
        for payment in (
            world.deposit(Payer(chain), 10 * PRICE),
            world.exact(Payer(chain)),
        )
    ]
    await asyncio.gather(*(world.settlement.settle(each, 10) for each in ids))
    assert world.count(PaymentState.CONFIRMED) == 2


async def test_broadcast_whose_answer_never_came_is_not_paid_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payment_id = await world.owe(world.exact(Payer(chain)))
        faulty.faults["eth_sendRawTransaction"] = Fault.FORWARD_THEN_DROP
        await world.settlement.settle(payment_id, 30)
        assert len(world.transactions()) == 1
        assert world.booked(Account.EXACT) == PRICE == usdc_of(chain, world.wallet.address)


async def test_payment_whose_transaction_no_node_would_take_is_tried_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payment_id = await world.owe(world.exact(Payer(chain)))
        faulty.refusals["eth_sendRawTransaction"] = ["insufficient funds for gas"] * 3
        await world.settlement.settle(payment_id, 30)
        assert faulty.refusals["eth_sendRawTransaction"] == []
        assert world.booked(Account.EXACT) == PRICE == usdc_of(chain, world.wallet.address)


async def test_payment_a_stranger_submitted_is_found_where_long_ranges_of_logs_are_refused(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payment = world.exact(Payer(chain))
        send_as(chain, Signer.random(), USDC, transfer_calldata(payment))
        for _ in range(30):
            chain.rpc("evm_mine")
        faulty.most_blocks = 10
        await world.settlement.settle(await world.owe(payment), 10)
        assert world.booked(Account.EXACT) == PRICE == usdc_of(chain, world.wallet.address)


async def test_mined_transaction_without_the_transfer_is_no_payment(world: World) -> None:
    payment = world.exact(Payer(world.chain))
    payment_id = await world.owe(payment)
    code = world.chain.rpc("eth_getCode", USDC, "latest")
    world.chain.rpc("anvil_setCode", USDC, _SWALLOWS_ALL)
    try:
        with pytest.raises(SettlementFailed):
            await world.settlement.settle(payment_id, 30)
    finally:
        world.chain.rpc("anvil_setCode", USDC, code)
    assert [tx.state for tx in world.transactions()] == ["mined", "mined"]
    assert world.booked(Account.EXACT) == 0


async def test_authorization_that_expires_unsettled_is_failed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payment_id = await world.owe(world.exact(Payer(chain), valid_for=60))
        faulty.faults["*"] = Fault.DROP
        with pytest.raises(SettlementUnknown):
            await world.settlement.settle(payment_id, 0.5)
        chain.rpc("evm_increaseTime", 120)
        chain.rpc("evm_mine")
        faulty.heal()
        with pytest.raises(SettlementFailed) as failed:
            await world.settlement.settle(payment_id, 30)
        assert failed.value.code == "invalid_exact_evm_payload_authorization_valid_before"


async def test_payments_whose_gas_is_above_the_cap_together_go_by_themselves(world: World) -> None:
    payers = [Payer(world.chain) for _ in range(8)]
    first = await world.owe(world.exact(payers[0]))
    await world.settlement.settle(first, 30)
    [sent] = world.transactions()
    fees = await read_fees(world.rpc)
    enough_for_two = 2 * sent.gas_limit * fees.max_fee_wei
    world.sender._caps = replace(GasCaps.default(NETWORK), per_tx_wei=enough_for_two)
    ids = [await world.owe(world.exact(payer)) for payer in payers]
    await asyncio.gather(*(world.settlement.settle(each, 15) for each in ids))
    assert usdc_of(world.chain, world.wallet.address) == 9 * PRICE


async def test_payments_that_waited_for_gas_to_become_cheaper_still_go_together(
    world: World,
) -> None:
    payers = [Payer(world.chain) for _ in range(3)]
    caps = GasCaps.default(NETWORK)
    fees = await read_fees(world.rpc)
    world.sender._caps = replace(caps, per_gas_wei=fees.max_fee_wei // 2)
    ids = [await world.owe(world.exact(payer)) for payer in payers]
    settling = [asyncio.create_task(world.settlement.settle(each, 15)) for each in ids]
    await asyncio.sleep(1)
    world.sender._caps = caps
    await asyncio.gather(*settling)
    assert len({world.payment(each).tx_hash for each in ids}) == 1


async def test_payment_whose_block_is_reorganised_away_arrives_again_and_is_booked_once(
    world: World,
) -> None:
    await world.watcher.catch_up()
    exact = await world.owe(world.exact(Payer(world.chain)))
    deposit = world.deposit(Payer(world.chain), 9_000)
    both = [exact, await world.owe(deposit)]
    # What was given to the payers belongs to this block; the reorg leaves it alone.
    world.chain.rpc("evm_mine")
    await asyncio.gather(*(world.settlement.settle(each, 30) for each in both))
    await world.watcher.start()
    await world.watcher.catch_up()
    world.chain.rpc("evm_setAutomine", False)
    world.chain.rpc("anvil_reorg", 1)
    async with asyncio.timeout(20):
        while world.payment(exact).state == PaymentState.CONFIRMED:
            await asyncio.sleep(0.05)
    assert world.booked(Account.EXACT) == 0
    world.chain.rpc("evm_setAutomine", True)
    await asyncio.gather(*(world.settlement.settle(each, 30) for each in both))
    await world.watcher.catch_up()
    assert world.booked(Account.EXACT) == PRICE == usdc_of(world.chain, world.wallet.address)
    assert world.booked(Account.WALLET) == PRICE
    assert world.booked(Account.CHARGED) == PRICE
    assert gas_per_usdc(world.engine, NETWORK.chain_id, 0).earned_atoms == PRICE
    row = world.channel(deposit.channel_id)
    assert (row.charged_atoms, row.balance_atoms) == (PRICE, 9_000)


@pytest.mark.parametrize("commit", range(1, 9))
async def test_killed_seller_settles_everything_once_after_its_restart(
    chain: DevchainProcess, tmp_path: Path, commit: int
) -> None:
    """Dies instead of the intent, the signature, the broadcast mark, the receipt, results."""
    wallet = Signer.random()
    async with World(chain, tmp_path, wallet) as world:
        await world.settlement.stop()
        deposit = world.deposit(Payer(chain), 9_000)
        ids = [await world.owe(world.exact(Payer(chain))) for _ in range(3)]
        ids.append(await world.owe(deposit))
    assert await run_and_die(world, commit, "settle")
    async with World(chain, tmp_path, wallet) as world:
        await asyncio.gather(*(world.settlement.settle(each, 30) for each in ids))
        assert world.count(PaymentState.CONFIRMED) == 4
        assert world.booked(Account.EXACT) == 3 * PRICE == usdc_of(chain, wallet.address)
        assert world.booked(Account.CHARGED) == PRICE
        row = world.channel(deposit.channel_id)
        assert (row.charged_atoms, row.balance_atoms) == (PRICE, 9_000)
        used = world.row(PAYMENT, PAYMENT.c.id == ids[0])
        assert used.tx_hash is not None


async def test_payers_whose_code_burns_all_gas_keep_no_other_payment_waiting(world: World) -> None:
    """A key of its own may stand before code of its own by now (EIP-7702), and USDC asks that."""
    burning, honest = [Payer(world.chain) for _ in range(2)], Payer(world.chain)
    payments = {f"{number}": world.exact(each) for number, each in enumerate((*burning, honest))}
    ids = [await world.owe(payment, name) for name, payment in payments.items()]
    for each in burning:
        world.chain.rpc("anvil_setCode", each.hex, "0xfe")
    settling = (world.settlement.settle(each, 30) for each in ids)
    *failed, arrived = await asyncio.gather(*settling, return_exceptions=True)
    assert not isinstance(arrived, BaseException)
    assert all(isinstance(each, SettlementFailed) for each in failed)
    assert usdc_of(world.chain, world.wallet.address) == PRICE
