"""What is owed on vouchers becomes USDC in the wallet, in time, whatever payers do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from sqlalchemy import event

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.fees import GasCaps, read_fees
from finance.errors import GasCapExceeded
from finance.ledger import Account
from finance.selling import claims
from finance.selling.channels import charge_writes, note_charge
from finance.selling.claim_policy import ClaimPolicy, Reason
from finance.selling.claimable import load_claimable
from finance.selling.gas_cost import GasCost, gas_per_usdc
from finance.store import Batch
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.settlement_calls import _CONFIG, _tuple
from finance.x402.text import to_hex
from finance.x402.values import DepositPayment
from finance.x402.vouchers import sign_voucher
from node.alerts.alerts import Alerts
from node.jobs.claim import claim_job
from node.jobs.runner import Jobs
from node.jobs.withdrawals import withdrawal_job
from node.usage.events import read_events
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.market_world import SOAK
from tests.recovery.seller_process import run_and_die
from tests.recovery.seller_world import (
    DELAY,
    NETWORK,
    PRICE,
    Payer,
    World,
    send_as,
    usdc_of,
)


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


def withdraw(world: World, payer: Payer, channel: DepositPayment, amount: int) -> None:
    data = calldata("initiateWithdraw", (_CONFIG, "uint128"), _tuple(channel.config), amount)
    send_as(world.chain, Signer(payer.key), BATCH_SETTLEMENT_ADDRESS, data)


def finish_withdrawal(world: World, payer: Payer, channel: DepositPayment) -> None:
    world.chain.rpc("evm_increaseTime", DELAY + 1)
    world.chain.rpc("evm_mine")
    data = calldata("finalizeWithdraw", (_CONFIG,), _tuple(channel.config))
    send_as(world.chain, Signer(payer.key), BATCH_SETTLEMENT_ADDRESS, data)


@pytest.mark.slow
async def test_many_channels_are_claimed_and_swept_in_one_transaction(world: World) -> None:
    """More than fit into the transactions of a sender with a fixed limit of gas, which is 18."""
    count = 100 if SOAK else 25
    payers = [Payer(world.chain) for _ in range(count)]
    channels = await asyncio.gather(*(world.open_channel(payer, 20_000) for payer in payers))
    for payer, channel in zip(payers, channels, strict=True):
        await world.charge(payer, channel.channel_id, 15_000)
    report = await world.claims.claim_all()
    assert (report.channels, report.claimed_atoms) == (count, count * 15_000)
    assert len(report.tx_hashes) == 1 and not report.excluded
    assert usdc_of(world.chain, world.wallet.address) == count * 15_000
    assert len(world.transactions("claim")) == 1
    again = await world.claims.claim_all()
    assert (again.channels, again.tx_hashes) == (0, [])


async def test_one_drained_channel_does_not_keep_the_others_from_being_claimed(
    world: World,
) -> None:
    payers = [Payer(world.chain) for _ in range(3)]
    channels = await asyncio.gather(*(world.open_channel(payer, 20_000) for payer in payers))
    withdraw(world, payers[0], channels[0], 15_000)
    finish_withdrawal(world, payers[0], channels[0])
    for payer, channel in zip(payers, channels, strict=True):
        await world.charge(payer, channel.channel_id, 10_000)
    report = await world.claims.claim_all()
    # Five thousand were left in the drained one: they are not given up either.
    assert report.claimed_atoms == 25_000
    assert usdc_of(world.chain, world.wallet.address) == 25_000
    report = await world.claims.claim_all()
    assert list(report.excluded) == ["0x" + channels[0].channel_id.hex()]


async def test_one_forged_voucher_does_not_keep_the_others_from_being_claimed(
    world: World,
) -> None:
    payers = [Payer(world.chain) for _ in range(4)]
    channels = await asyncio.gather(*(world.open_channel(payer, 20_000) for payer in payers))
    for payer, channel in zip(payers, channels, strict=True):
        signer = Payer(world.chain) if payer is payers[2] else payer
        await world.charge(signer, channel.channel_id, 10_000)
    report = await world.claims.claim_all()
    assert report.claimed_atoms == 30_000
    assert list(report.excluded) == ["0x" + channels[2].channel_id.hex()]


async def test_a_voucher_that_is_good_no_more_costs_neither_gas_nor_a_line_every_half_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smart wallet may change its owner, and take its money back."""
    bad, good, now = Payer(world.chain), Payer(world.chain), int(time.time())
    channels = await asyncio.gather(*(world.open_channel(each, 40_000) for each in (bad, good)))
    await world.charge(good, channels[0].channel_id, 20_000)
    await world.charge(good, channels[1].channel_id, 20_000)
    withdraw(world, bad, channels[0], 40_000)
    await world.mirror.refresh(now + 400)
    jobs = Jobs(world.store, Alerts(world.engine))
    works = claim_job(world.claims, world.store), withdrawal_job(world.claims, world.store)
    world.claims.policy = ClaimPolicy(interval_seconds=0)
    for cumulative in (20_000, 20_500, 21_000):
        await world.charge(good, channels[1].channel_id, cumulative)
        for name, work in zip(("claim", "withdrawals"), works, strict=True):
            await jobs.run(name, work)
    lines = [line.type for line in read_events(world.engine, None, None, 10).events]
    assert lines.count("claim_impossible") == 1
    assert len(world.transactions("claim")) == 1  # not for every half cent of the other one
    # While there is time left, it is tried again in a third of that.
    [row] = load_claimable(world.engine, NETWORK, [to_hex(channels[0].channel_id)])
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: float(row.withdraw_requested_at))
        assert not await world.claims.leaving()
        later = time.monotonic() + channels[0].config.withdraw_delay / 3
        clock.setattr(time, "monotonic", lambda: later)
        assert await world.claims.leaving() == [row.channel_id]
    assert (await world.claims.claim_all()).excluded


async def test_a_voucher_charged_while_a_claim_is_booked_stays_charged(world: World) -> None:
    payer = Payer(world.chain)
    opened = await world.open_channel(payer, 100_000)
    channel = await world.channels.get(opened.channel_id)
    assert channel is not None
    claiming = asyncio.Event()

    @event.listens_for(world.engine, "after_cursor_execute")
    def slow_disk(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT * FROM seller_channel WHERE channel_id"):
            time.sleep(0.3)

    async def keep_charging() -> None:
        while not claiming.is_set():
            signed = channel.charged + PRICE
            signature = sign_voucher(payer.key, channel.id, signed, NETWORK.chain_id)
            call_id, now = uuid4().hex, int(time.time())
            writes = charge_writes(channel, PRICE, signed, signature, call_id, now)
            await world.store.commit(Batch(writes))
            note_charge(channel, PRICE, signed, signature)
            await asyncio.sleep(0.05)

    async def claim() -> None:
        try:
            assert (await world.claims.claim_all()).channels == 1
        finally:
            claiming.set()

    await asyncio.gather(keep_charging(), claim())
    row = world.channel(opened.channel_id)
    assert (channel.charged, channel.signed) == (row.charged_atoms, row.signed_atoms)
    assert channel.total_claimed == row.total_claimed_atoms > 0


async def test_a_voucher_charged_while_its_channel_is_looked_up_stays_charged(
    world: World,
) -> None:
    """A look at the chain leaves alone what a call in flight is about to change in memory."""
    payer = Payer(world.chain)
    payment = await world.open_channel(payer, 20_000)
    channel = await world.channels.get(payment.channel_id)
    assert channel is not None
    turn = world.channels.reserve(channel)
    read, charged = threading.Event(), threading.Event()

    def slow_reading(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT * FROM seller_channel"):
            read.set()
            charged.wait(5)

    event.listen(world.engine, "after_cursor_execute", slow_reading)
    looking = asyncio.create_task(world.channels.refresh(channel))
    while not (read.is_set() or looking.done()):
        await asyncio.sleep(0.01)
    signature = sign_voucher(payer.key, channel.id, 2 * PRICE, NETWORK.chain_id)
    writes = charge_writes(channel, PRICE, 2 * PRICE, signature, uuid4().hex, int(time.time()))
    await world.store.commit(Batch(writes))
    note_charge(channel, PRICE, 2 * PRICE, signature)
    world.channels.release(channel, turn)
    charged.set()
    await looking
    event.remove(world.engine, "after_cursor_execute", slow_reading)
    assert channel.charged == world.channel(payment.channel_id).charged_atoms == 2 * PRICE


async def test_payer_who_starts_a_withdrawal_is_claimed_against_at_once(world: World) -> None:
    await world.watcher.start()
    payer = Payer(world.chain)
    channel = await world.open_channel(payer, 20_000)
    await world.charge(payer, channel.channel_id, 12_000)
    # All that the chain lets go: it knows of no voucher yet.
    withdraw(world, payer, channel, 20_000)
    async with asyncio.timeout(20):
        while world.channel(channel.channel_id).total_claimed_atoms < 12_000:
            await asyncio.sleep(0.1)
    finish_withdrawal(world, payer, channel)
    assert usdc_of(world.chain, world.wallet.address) == 12_000
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 12_000
    await world.watcher.catch_up()
    assert world.booked(Account.CLAIMED) == 12_000


async def test_channels_whose_gas_is_above_the_cap_together_are_claimed_in_parts(
    world: World,
) -> None:
    payers = [Payer(world.chain) for _ in range(8)]
    channels = await asyncio.gather(*(world.open_channel(payer, 20_000) for payer in payers))
    await world.claims.claim(Reason.REQUESTED, [to_hex(channels[0].channel_id)])
    [alone] = world.transactions("claim")
    fees = await read_fees(world.rpc)
    enough_for_few = alone.gas_limit * fees.max_fee_wei * 5 // 4
    world.sender._caps = replace(GasCaps.default(NETWORK), per_tx_wei=enough_for_few)
    for payer, channel in zip(payers, channels, strict=True):
        await world.charge(payer, channel.channel_id, 15_000)
    report = await world.claims.claim_all()
    assert (report.channels, report.claimed_atoms) == (8, 8 * 15_000 - PRICE)


async def test_channels_that_wait_for_gas_to_become_cheaper_are_not_tried_in_parts(
    world: World,
) -> None:
    for _ in range(4):
        payer = Payer(world.chain)
        channel = await world.open_channel(payer, 20_000)
        await world.charge(payer, channel.channel_id, 12_000)
    half = (await read_fees(world.rpc)).max_fee_wei // 2
    world.sender._caps = replace(GasCaps.default(NETWORK), per_gas_wei=half)
    with pytest.raises(GasCapExceeded):
        await world.claims.claim_all()
    assert len(world.transactions("claim")) == 1


async def test_gas_is_not_dear_for_long_because_nobody_bought_for_long(world: World) -> None:
    """The first cent after a quiet day waits for cheap gas as long as any other."""
    payer, now = Payer(world.chain), int(time.time())
    channel = await world.open_channel(payer, 40_000)
    await world.charge(payer, channel.channel_id, 12_000)
    assert (await world.claims.claim_all()).claimed_atoms == 12_000
    world.claims.policy = ClaimPolicy(gas_price_wei=0)
    longest, later = world.claims.policy.longest_seconds, now + 100_000
    assert await world.claims.claim_due(later) is None
    await world.charge(payer, channel.channel_id, 24_000)
    assert await world.claims.claim_due(later + 30) is None
    report = await world.claims.claim_due(later + longest)
    assert report is not None and report.reason is Reason.OVERDUE
    assert report.claimed_atoms == 12_000


async def test_who_goes_on_buying_while_leaving_puts_off_no_other_claim(world: World) -> None:
    """Withdrawals may take a month, and what they leave in a channel can be spent meanwhile."""
    leaving, other = Payer(world.chain), Payer(world.chain)
    channels = [await world.open_channel(each, 100_000) for each in (leaving, other)]
    for payer, channel in zip((leaving, other), channels, strict=True):
        await world.charge(payer, channel.channel_id, 12_000)
    withdraw(world, leaving, channels[0], 10_000)
    await world.mirror.sync([to_hex(channels[0].channel_id)])
    world.claims.policy, now = ClaimPolicy(60, gas_price_wei=10**18), int(time.time())
    await world.claims.claim_due(now)
    assert usdc_of(world.chain, world.wallet.address) == 12_000
    await world.charge(leaving, channels[0].channel_id, 13_000)
    await world.claims.claim_due(now + 61)
    assert usdc_of(world.chain, world.wallet.address) == 25_000


async def test_withdrawal_that_nobody_saw_is_found_by_the_jobs(world: World) -> None:
    payer = Payer(world.chain)
    channel = await world.open_channel(payer, 20_000)
    await world.charge(payer, channel.channel_id, 12_000)
    withdraw(world, payer, channel, 20_000)
    later = int(time.time()) + 400
    assert await world.mirror.refresh(later) == 1
    world.claims.policy = ClaimPolicy(gas_price_wei=0, interval_seconds=10**9)
    report = await world.claims.claim_due(later)
    assert report is not None and report.reason is Reason.WITHDRAWAL
    assert report.claimed_atoms == 12_000


async def test_claim_is_seen_by_memory_and_costs_are_known(world: World) -> None:
    payer = Payer(world.chain)
    channel = await world.open_channel(payer, 20_000)
    await world.charge(payer, channel.channel_id, 12_000)
    loaded = await world.channels.get(channel.channel_id)
    assert loaded is not None and loaded.at_risk == 12_000
    world.claims.claim_soon(loaded.key)
    async with asyncio.timeout(20):
        while loaded.at_risk:
            await asyncio.sleep(0.05)
    await world.settlement.settle(await world.owe(world.exact(Payer(world.chain))), 30)
    cost = gas_per_usdc(world.engine, NETWORK.chain_id, 0)
    assert cost.earned_atoms == PRICE and cost.gas_wei > 0
    assert cost.wei_per_usdc_up is not None
    await world.watcher.catch_up()
    assert gas_per_usdc(world.engine, NETWORK.chain_id, 0).earned_atoms == PRICE + 12_000
    # A node that was on another network before.
    assert gas_per_usdc(world.engine, NETWORK.chain_id + 1, 0) == GasCost(0, 0)


async def test_a_claim_that_its_wallet_could_not_pay_for_any_more_is_made_by_the_next_wallet(
    chain: DevchainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain forgot the first one's, which only that wallet could have outbid."""
    monkeypatch.setattr(claims, "_OUTCOME_SECONDS", 1.0)
    first, receiver, payer = Signer.random(), Signer.random(), Payer(chain)
    async with World(chain, tmp_path, first, receiver) as world:
        channel = await world.open_channel(payer, 20_000)
        await world.charge(payer, channel.channel_id, 12_000)
        chain.rpc("evm_setAutomine", False)
        assert (await world.claims.claim_all()).open_transactions == 1
    (sent,) = chain.rpc("eth_getBlockByNumber", "pending", False)["transactions"]
    chain.rpc("anvil_dropTransaction", sent)
    chain.rpc("anvil_setBalance", first.address, hex(0))
    chain.rpc("evm_setAutomine", True)
    monkeypatch.setattr(claims, "_OUTCOME_SECONDS", 20.0)
    async with World(chain, tmp_path, Signer.random(), receiver) as world:
        assert (await world.claims.claim_all()).claimed_atoms == 12_000
        assert usdc_of(chain, first.address) == 12_000


@pytest.mark.parametrize("commit", range(1, 6))
async def test_seller_killed_during_a_claim_has_claimed_all_once_in_the_end(
    chain: DevchainProcess, tmp_path: Path, commit: int
) -> None:
    payers, keys = [Payer(chain) for _ in range(2)], (Signer.random(), Signer.random())
    async with World(chain, tmp_path, *keys) as world:
        channels = await asyncio.gather(*(world.open_channel(each, 20_000) for each in payers))
        for payer, channel in zip(payers, channels, strict=True):
            await world.charge(payer, channel.channel_id, 6_000)
    assert await run_and_die(world, commit, "claim")
    async with World(chain, tmp_path, *keys) as world:
        await world.claims.claim_all()
        assert usdc_of(chain, world.wallet.address) == 12_000
        for channel in channels:
            assert world.channel(channel.channel_id).total_claimed_atoms == 6_000
        mined = [tx for tx in world.transactions("claim") if tx.tx_hash]
        assert len(mined) == 1


async def test_claim_jobs_started_at_once_claim_once_and_leave_one_line(world: World) -> None:
    payer = Payer(world.chain)
    channel = await world.open_channel(payer, 20_000)
    await world.charge(payer, channel.channel_id, 12_000)
    world.claims.policy = ClaimPolicy(at_risk_atoms=12_000)
    jobs = Jobs(world.store, Alerts(world.engine))
    run = claim_job(world.claims, world.store)
    await asyncio.gather(*(jobs.run("claim", run) for _ in range(5)))
    assert len(world.transactions("claim")) == 1
    assert [line.type for line in read_events(world.engine, None, None, 10).events] == ["claimed"]


async def test_job_that_cannot_reach_the_chain_says_so_once(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payer = Payer(chain)
        channel = await world.open_channel(payer, 20_000)
        await world.charge(payer, channel.channel_id, 12_000)
        faulty.faults["*"] = Fault.DROP
        jobs, run = Jobs(world.store, Alerts(world.engine)), claim_job(world.claims, world.store)
        for _ in range(3):
            await jobs.run("claim", run)
        assert [line.type for line in read_events(world.engine, None, None, 10).events] == [
            "job_failed"
        ]
