"""A payer gets its unspent money back, once, and never what we are owed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError

from finance.errors import ChannelBusy, PaymentRefused, SettlementFailed
from finance.models import ChannelState
from finance.selling.channels import Channel
from finance.wallet.signer import Signer
from finance.x402 import codes
from finance.x402.values import DepositPayment
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.seller_process import run_and_die
from tests.recovery.seller_world import PRICE, Payer, World, send_as, usdc_of
from tests.recovery.test_claims import finish_withdrawal, withdraw


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


async def open_with_calls(world: World, payer: Payer) -> tuple[DepositPayment, Channel]:
    """A channel of 20,000 atoms of which 8,000 are charged."""
    payment = await world.open_channel(payer, 20_000)
    await world.charge(payer, payment.channel_id, 8_000)
    channel = await world.channels.get(payment.channel_id)
    assert channel is not None
    return payment, channel


async def test_full_refund_claims_what_is_owed_and_closes_the_channel(world: World) -> None:
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    refunded = await world.refunds.refund(channel, None)
    assert refunded.amount == 12_000
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 8_000
    assert usdc_of(world.chain, world.wallet.address) == 8_000
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.CLOSED, 8_000)
    assert channel.state == ChannelState.CLOSED and channel.refund_nonce == 1
    assert len(world.transactions("refund")) == 1


async def test_refunded_channel_opens_again_with_a_new_deposit(world: World) -> None:
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    await world.refunds.refund(channel, None)
    again = world.deposit(payer, 5_000, payment.config, charged=8_000)
    await world.settlement.settle(await world.owe(again), 30)
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.OPEN, 13_000)
    assert row.charged_atoms == 8_000 + PRICE
    report = await world.claims.claim_all()
    assert report.claimed_atoms == PRICE


async def test_partial_refund_leaves_the_channel_open(world: World) -> None:
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    assert (await world.refunds.refund(channel, 5_000)).amount == 5_000
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.OPEN, 15_000)
    assert (await world.refunds.refund(channel, None)).amount == 7_000


async def test_more_than_is_unspent_is_refused(world: World) -> None:
    _, channel = await open_with_calls(world, Payer(world.chain))
    with pytest.raises(PaymentRefused) as refused:
        await world.refunds.refund(channel, 12_001)
    assert refused.value.code == codes.REFUND_AMOUNT_INVALID
    await world.refunds.refund(channel, None)
    with pytest.raises(PaymentRefused) as refused:
        await world.refunds.refund(channel, None)
    assert refused.value.code == codes.REFUND_NO_BALANCE


async def test_same_refund_asked_twice_at_once_is_paid_once(world: World) -> None:
    payer = Payer(world.chain)
    _, channel = await open_with_calls(world, payer)
    results = await asyncio.gather(
        *(world.refunds.refund(channel, None) for _ in range(5)), return_exceptions=True
    )
    paid = [each for each in results if not isinstance(each, Exception)]
    assert len(paid) == 1
    refusals = [each for each in results if isinstance(each, Exception)]
    assert all(isinstance(each, ChannelBusy | PaymentRefused) for each in refusals)
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 8_000


async def test_refund_is_followed_on_though_the_database_could_not_be_read_for_a_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    newest, failures = world.refunds._newest, [OperationalError("SELECT", {}, OSError("gone"))]

    def read_at_the_second_try(reference: str) -> int | None:
        if failures:
            raise failures.pop()
        return newest(reference)

    monkeypatch.setattr(world.refunds, "_newest", read_at_the_second_try)
    assert (await world.refunds.refund(channel, None)).amount
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 8_000
    assert world.channel(payment.channel_id).state == ChannelState.CLOSED


@pytest_asyncio.fixture
async def relayed(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[tuple[FaultyRpc, World]]:
    """A seller beyond a relay."""
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        World(chain, tmp_path, rpc_url=proxy.url) as world,
    ):
        yield proxy, world


async def refund_too_late(
    proxy: FaultyRpc, world: World, channel: Channel, meanwhile: Callable[[], None]
) -> None:
    """A refund that fails by what happens between its estimate and its broadcast."""

    def estimated(_: Any, result: Any) -> Any:
        proxy.heal()
        meanwhile()
        return result

    proxy.answers["eth_estimateGas"] = estimated
    with pytest.raises(SettlementFailed):
        await world.refunds.refund(channel, None)


async def test_refund_of_a_channel_that_another_process_has_opened_again_is_not_sent(
    relayed: tuple[FaultyRpc, World],
) -> None:
    """It started in between, found a refund that nobody seemed to send, and sold a call."""
    sold = (
        "UPDATE seller_channel SET state = 'open', charged_atoms = charged_atoms + 1000,"
        " signed_atoms = signed_atoms + 1000"
    )
    proxy, world = relayed
    payer = Payer(world.chain)
    _, channel = await open_with_calls(world, payer)

    def sell() -> None:
        with world.engine.begin() as connection:
            connection.exec_driver_sql(sold)

    await refund_too_late(proxy, world, channel, sell)
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 20_000


async def test_refund_whose_claim_fails_on_the_chain_leaves_no_signature_to_be_used_later(
    relayed: tuple[FaultyRpc, World],
) -> None:
    """Whoever read it in the failed transaction would take out what is sold afterwards."""
    proxy, world = relayed
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    withdraw(world, payer, payment, 20_000)
    await refund_too_late(proxy, world, channel, lambda: finish_withdrawal(world, payer, payment))
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms, row.refund_nonce) == (ChannelState.CLOSED, 0, 1)
    failed, alone = world.transactions("refund")
    assert (failed.state, alone.state) == ("reverted", "mined")


async def test_refund_that_a_stranger_sent_first_leaves_the_channel_as_the_chain_has_it(
    relayed: tuple[FaultyRpc, World],
) -> None:
    proxy, world = relayed
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)

    def send_it_first() -> None:
        [refund] = world.transactions("refund")
        send_as(world.chain, Signer.random(), refund.to, bytes.fromhex(refund.data[2:]))

    await refund_too_late(proxy, world, channel, send_it_first)
    assert usdc_of(world.chain, payer.hex) == 1_000_000 - 8_000
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.CLOSED, 8_000)
    assert channel.balance == 8_000


@pytest.mark.parametrize("sent", [True, False])
async def test_refund_of_a_process_that_died_is_finished_by_one_that_lives(
    world: World, sent: bool
) -> None:
    payer = Payer(world.chain)
    payment, channel = await open_with_calls(world, payer)
    if sent:
        refund = asyncio.create_task(world.refunds.refund(channel, None))
        while not world.transactions("refund") or not world.transactions("refund")[0].nonce:
            await asyncio.sleep(0.01)
        await world.refunds.stop()
        await asyncio.gather(refund, return_exceptions=True)
    closed = "UPDATE seller_channel SET state = 'refunding', refund_nonce = 0"
    with world.engine.begin() as connection:
        connection.exec_driver_sql(closed)
    await world.channels.reload(channel.key)
    await world.refunds.finish_abandoned()
    assert channel.settling  # one that lives may be about to send it
    await world.refunds.finish_abandoned()
    async with asyncio.timeout(15):
        while channel.settling:
            await asyncio.sleep(0.05)
    row = world.channel(payment.channel_id)
    assert row.state == (ChannelState.CLOSED if sent else ChannelState.OPEN)
    assert row.balance_atoms == usdc_of(world.chain, world.wallet.address) + 20_000 * (not sent)


async def test_refund_that_the_mirror_saw_before_the_seller_was_killed_closes_its_channel(
    world: World,
) -> None:
    payer = Payer(world.chain)
    _, channel = await open_with_calls(world, payer)
    await world.refunds.refund(channel, None)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE seller_channel SET state = 'refunding'")
    await world.channels.reload(channel.key)
    await world.mirror.sync([channel.key])
    await world.refunds.start()
    async with asyncio.timeout(15):
        while channel.settling:
            await asyncio.sleep(0.05)
    assert world.channel(channel.key).state == ChannelState.CLOSED


async def test_refund_that_is_followed_twice_does_not_end_the_next_one(world: World) -> None:
    payer = Payer(world.chain)
    _, channel = await open_with_calls(world, payer)
    await world.refunds.refund(channel, 5_000)
    [first] = world.transactions("refund")
    state = (await world.mirror.read([channel.key]))[channel.key]
    world.chain.rpc("evm_setAutomine", False)
    refund = asyncio.create_task(world.refunds.refund(channel, None))
    while len(world.transactions("refund")) < 2 or not world.transactions("refund")[1].nonce:
        await asyncio.sleep(0.01)
    await world.refunds._end(channel.key, state, first.id)
    state_then = world.channel(channel.key).state
    world.chain.rpc("evm_setAutomine", True)
    assert (await refund).amount == 7_000
    assert state_then == ChannelState.REFUNDING
    assert world.channel(channel.key).state == ChannelState.CLOSED


@pytest.mark.parametrize("commit", range(1, 8))
async def test_seller_killed_during_a_refund_pays_it_once_or_not_at_all(
    chain: DevchainProcess, tmp_path: Path, commit: int
) -> None:
    """Dies instead of the look, the closing, the intent, the signature, and so on."""
    payer, wallet, receiver = Payer(chain), Signer.random(), Signer.random()
    async with World(chain, tmp_path, wallet, receiver) as world:
        payment, channel = await open_with_calls(world, payer)
    assert await run_and_die(world, commit, f"refund:{channel.key}")
    async with World(chain, tmp_path, wallet, receiver) as world:
        async with asyncio.timeout(20):
            while world.channel(payment.channel_id).state == ChannelState.REFUNDING:
                await asyncio.sleep(0.05)
        back = await world.channels.get(payment.channel_id)
        assert back is not None
        if back.state == ChannelState.OPEN:
            assert usdc_of(chain, payer.hex) == 1_000_000 - 20_000
            await world.refunds.refund(back, None)
        assert usdc_of(chain, payer.hex) == 1_000_000 - 8_000
        assert usdc_of(chain, wallet.address) == 8_000
        assert world.channel(payment.channel_id).state == ChannelState.CLOSED
