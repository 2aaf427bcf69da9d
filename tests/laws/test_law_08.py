"""Law 8. What is owed is never left to luck: claimed in time, and never too much at risk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio
from msgspec import structs
from sqlalchemy import text

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.models import ChannelState
from finance.selling import channels, claims
from finance.selling.claim_policy import ClaimPolicy, Reason
from finance.selling.claimable import raise_claimed
from finance.selling.mirror import Mirror
from finance.store import Batch
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.settlement_calls import _CONFIG, _tuple
from finance.x402.text import to_hex
from finance.x402.values import DepositPayment, VoucherPayment
from finance.x402.vouchers import sign_voucher
from tests.chain_fixtures import ChainProcess, DevchainProcess
from tests.http.conftest import BALANCE, Market
from tests.laws.worlds import Shop
from tests.recovery.seller_world import NETWORK, PRICE, USDC, Payer, World, send_as, usdc_of

_LONG_BYTES = 80_000_000  # more than sockets hold
_REFUSES_ALL = "0x5f5ffd"  # a contract that reverts whatever it is asked
# One that agrees to whatever it is asked (EIP-1271), while no gas is paid for it.
_AGREES_TO_TRIALS = "0x3a15631626ba7e60e01b0260005260206000f3"


@asynccontextmanager
async def _balanced(chain: ChainProcess, folder: Path) -> AsyncIterator[World]:
    async with World(chain, folder) as world:
        yield world
        world.assert_books_balance()


@pytest_asyncio.fixture
async def world(chain: ChainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with _balanced(chain, tmp_path) as world:
        yield world


async def test_no_more_is_sold_on_vouchers_than_the_ceiling_until_it_is_claimed(
    market: Market,
) -> None:
    assert market.seller.ceiling_atoms == BALANCE == 1_000_000
    market.sell(price_atoms=400_000)
    payer = await market.payer(balance=10 * BALANCE)
    answers = [await market.buy(payer, "/v1/api/echo") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 503]
    assert await market.charged(payer) == 800_000
    assert payer.key_hex in market.claims


async def test_a_call_dearer_than_the_ceiling_is_sold_once_everything_before_it_is_claimed(
    market: Market,
) -> None:
    market.sell(price_atoms=3 * BALANCE // 2)
    payer = await market.payer(balance=10 * BALANCE)
    answers = [await market.buy(payer, "/v1/api/echo") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 503]
    claimed = raise_claimed(payer.key_hex, payer.charged)
    await market.journal.commit(Batch([claimed]))
    market.seller.channels.note_claimed(payer.key_hex, payer.charged)
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_a_deposit_sells_no_more_than_the_ceiling_until_it_is_claimed(shop: Shop) -> None:
    world, payer, shop.ceiling_atoms = shop.world, shop.payer(), 3 * PRICE // 2
    channel = await world.open_channel(payer, 20_000)
    payment = world.deposit(payer, 20_000, channel.config, charged=PRICE)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        refused = await shop.client.get(url + "/v1/api/echo", headers=headers)
        assert (refused.status_code, shop.upstream.total) == (503, 0)
        async with asyncio.timeout(20):
            while world.channel(channel.channel_id).total_claimed_atoms < PRICE:
                await asyncio.sleep(0.1)
        answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert answer.status_code == 200
    await shop.watcher.catch_up()


async def test_money_that_is_being_withdrawn_buys_nothing(market: Market) -> None:
    market.sell()
    leaving = {"withdraw_requested_at": int(time.time()), "withdraw_amount_atoms": BALANCE}
    payer = await market.payer(**leaving)
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 402
    assert (market.upstream.total, await market.charged(payer)) == (0, 0)


async def test_a_deposit_leans_on_no_money_that_is_being_withdrawn(shop: Shop) -> None:
    """One atom more in the channel, and all that is under it gone before the call is charged."""
    world, payer = shop.world, shop.payer()
    channel = await world.open_channel(payer, 20_000)
    _withdraw(world, payer, channel)
    served = shop.upstream.total
    payment = world.deposit(payer, 1, channel.config, charged=PRICE)
    async with shop.open_gateway() as url:
        answer = await shop.client.get(
            url + "/v1/api/echo", headers=await shop.header(url, payment)
        )
    assert answer.status_code == 402
    assert shop.upstream.total == served


async def _owing(world: World, atoms: int = 12_000) -> tuple[Payer, DepositPayment]:
    """A payer whose channel owes `atoms`."""
    payer = Payer(world.chain)
    channel = await world.open_channel(payer, 20_000)
    await world.charge(payer, channel.channel_id, atoms)
    return payer, channel


def _voucher(payer: Payer, channel: DepositPayment) -> VoucherPayment:
    """For the call after the one that opened this channel."""
    ident, atoms = channel.channel_id, channel.max_claimable + PRICE
    signature = sign_voucher(payer.key, ident, atoms, NETWORK.chain_id)
    return VoucherPayment(channel.config, ident, atoms, signature)


def _withdraw(world: World, payer: Payer, channel: DepositPayment, atoms: int = 20_000) -> None:
    data = calldata("initiateWithdraw", (_CONFIG, "uint128"), _tuple(channel.config), atoms)
    send_as(world.chain, Signer(payer.key), BATCH_SETTLEMENT_ADDRESS, data)


async def _claimed(world: World, seconds: float, least: int = 1) -> int:
    """What has arrived in the wallet within `seconds`, or as soon as it is `least`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while usdc_of(world.chain, world.wallet.address) < least:
                await asyncio.sleep(0.1)
    return usdc_of(world.chain, world.wallet.address)


async def test_money_refunded_while_its_channel_is_looked_at_backs_no_voucher(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, whose look ends last and is the older one."""
    payer = Payer(world.chain)
    payment = await world.open_channel(payer, 20_000)
    await world.charge(payer, payment.channel_id, 8_000)
    channel = await world.channels.get(payment.channel_id)
    assert channel is not None
    other = Mirror(world.store, world.rpc, NETWORK)
    other.subscribe(world.channels.apply_onchain)
    multicall, read, goes_on = world.rpc.multicall, asyncio.Event(), asyncio.Event()

    async def late(calls: Any) -> Any:
        results = await multicall(calls)
        read.set()
        await goes_on.wait()
        return results

    monkeypatch.setattr(world.rpc, "multicall", late)
    look = asyncio.create_task(other.sync([channel.key]))
    await read.wait()
    monkeypatch.setattr(world.rpc, "multicall", multicall)
    await world.refunds.refund(channel, None)
    goes_on.set()
    states = await look
    row = world.channel(payment.channel_id)
    assert (row.state, row.balance_atoms) == (ChannelState.CLOSED, 8_000)
    assert (channel.state, channel.balance) == (ChannelState.CLOSED, 8_000)
    assert states[channel.key].balance == 8_000


async def test_a_payer_who_starts_a_withdrawal_is_claimed_against_at_once(world: World) -> None:
    await world.watcher.start()
    payer, channel = await _owing(world)
    _withdraw(world, payer, channel)
    claimed = await _claimed(world, 8)
    assert claimed == 12_000


async def test_a_long_answer_ends_charged_once_its_payer_takes_its_price_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads all but its end and waits would have it for nothing."""
    async with _long_answer_while_withdrawing(shop, monkeypatch, 20_000) as answer:
        assert await _claimed(shop.world, 15, 2 * PRICE) == 2 * PRICE
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()


async def test_a_long_answer_goes_on_while_its_payer_leaves_its_price(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an honest one does, who takes back what is left over."""
    left_over = 20_000 - 2 * PRICE
    async with _long_answer_while_withdrawing(shop, monkeypatch, left_over) as answer:
        assert await _claimed(shop.world, 15) == PRICE  # of the call before
        await asyncio.sleep(1.5)
        assert len(await answer.aread()) == _LONG_BYTES
    assert await _claimed(shop.world, 15, 2 * PRICE) == 2 * PRICE


@asynccontextmanager
async def _long_answer_while_withdrawing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, atoms: int
) -> AsyncIterator[httpx.Response]:
    """One that has begun, paid by the second voucher of a channel with 20,000 atoms; then its
    payer withdraws. A minute is half a second here."""
    monkeypatch.setattr(channels, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(channels, "LEAVE_SECONDS", 0.5)
    world, payer, path = shop.world, shop.payer(), f"/v1/api/stream/4000/{_LONG_BYTES // 4_000}"
    await world.watcher.start()
    channel = await world.open_channel(payer, 20_000)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, _voucher(payer, channel), path)
        async with shop.client.stream("GET", url + path, headers=headers) as answer:
            assert answer.status_code == 200
            _withdraw(world, payer, channel, atoms)
            yield answer
    await shop.watcher.catch_up()


async def test_a_withdrawal_nobody_saw_is_found_by_the_job(world: World) -> None:
    payer, channel = await _owing(world)
    _withdraw(world, payer, channel)
    await world.mirror.refresh(int(time.time()) + 400)
    world.claims.policy = ClaimPolicy(gas_price_wei=0, interval_seconds=10**9)
    report = await world.claims.claim_due(int(time.time()))
    assert report is not None and report.reason is Reason.WITHDRAWAL
    assert usdc_of(world.chain, world.wallet.address) == 12_000


@contextmanager
def _usdc_paused(world: World) -> Iterator[None]:
    """As its issuer can have it: it moves for nobody."""
    code = world.chain.rpc("eth_getCode", USDC, "latest")
    world.chain.rpc("anvil_setCode", USDC, _REFUSES_ALL)
    try:
        yield
    finally:
        world.chain.rpc("anvil_setCode", USDC, code)


@pytest_asyncio.fixture
async def world_alone(tmp_path: Path) -> AsyncIterator[World]:
    """On a chain that no other test, now or later, has to use."""
    with DevchainProcess() as chain:
        async with _balanced(chain, tmp_path) as world:
            yield world


async def test_a_withdrawal_is_claimed_against_while_usdc_moves_for_nobody(
    world_alone: World,
) -> None:
    """Its payer may be quicker once USDC moves again; what was claimed is swept then."""
    world = world_alone
    payer, channel = await _owing(world)
    with _usdc_paused(world):
        _withdraw(world, payer, channel)
        report = await world.claims.claim(Reason.WITHDRAWAL)
        assert (report.claimed_atoms, report.excluded) == (12_000, {})
        assert await world.claims.claim_due(int(time.time())) is None
    for _ in range(2):
        assert await world.claims.claim_due(int(time.time())) is None
        assert await _claimed(world, 8, 12_000) == 12_000
    assert len(world.transactions("claim")) == 2


async def test_vouchers_are_claimed_when_the_interval_is_over(world: World) -> None:
    await _owing(world)
    policy = ClaimPolicy(interval_seconds=60, gas_price_wei=10**18)
    world.claims.policy = policy
    assert await world.claims.claim_due(int(time.time())) is None
    report = await world.claims.claim_due(int(time.time()) + 61)
    assert report is not None and report.reason is Reason.INTERVAL
    assert usdc_of(world.chain, world.wallet.address) == 12_000


@pytest.mark.parametrize("claimed_before", [False, True])
async def test_an_interval_is_over_though_the_clock_was_wrong_when_it_began(
    world: World, claimed_before: bool
) -> None:
    """A year ahead, when the last claim was made, or when the first payment came."""
    await _owing(world)
    if claimed_before:
        await world.claims.claim_all()
        world.claims._all_at = 0  # as in the process that comes after
        await _owing(world)
    with world.store.engine.begin() as connection:
        for table in ("chain_tx", "onchain_payment"):
            connection.execute(text(f"UPDATE {table} SET created_at = created_at + 31536000"))
    world.claims.policy = ClaimPolicy(interval_seconds=60, gas_price_wei=10**18)
    assert await world.claims.claim_due(int(time.time()) + 61) is not None
    assert usdc_of(world.chain, world.wallet.address) == 12_000 * (1 + claimed_before)
    await _owing(world)
    assert await world.claims.claim_due(int(time.time())) is None, "not at every look"


async def test_a_channel_that_is_claimed_by_itself_puts_off_no_other(world: World) -> None:
    payer, busy = await _owing(world)
    await world.claims.claim_all()
    await world.charge(payer, busy.channel_id, 15_000)
    await _owing(world)
    await world.claims.claim(Reason.AT_RISK, [to_hex(busy.channel_id)])
    with world.store.engine.begin() as connection:
        connection.execute(text("UPDATE chain_tx SET created_at = created_at + 3600"))
    world.claims.policy = ClaimPolicy(interval_seconds=3600, gas_price_wei=10**18)
    report = await world.claims.claim_due(int(time.time()) + 3661)
    assert report is not None and report.reason is Reason.INTERVAL
    assert usdc_of(world.chain, world.wallet.address) == 27_000


async def test_a_channel_that_was_refused_is_tried_in_time_once_its_payer_leaves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the chain refuses is left alone for longer than a payer may need to be gone."""
    payer, channel = await _owing(world)
    channel_id = to_hex(channel.channel_id)
    await world.charge(Payer(world.chain), channel.channel_id, 13_000)
    assert (await world.claims.claim(Reason.AT_RISK, [channel_id])).excluded
    await world.charge(payer, channel.channel_id, 14_000)
    _withdraw(world, payer, channel)
    await world.mirror.sync([channel_id])
    asked = int(world.chain.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    later = time.monotonic() + channel.config.withdraw_delay / 3
    clock = SimpleNamespace(time=lambda: float(asked), monotonic=lambda: later)
    monkeypatch.setattr(claims, "time", clock)
    assert await world.claims.leaving() == [channel_id]
    await world.claims.claim_due(asked)
    assert usdc_of(world.chain, world.wallet.address) == 14_000


async def test_a_wallet_that_agrees_only_to_trials_keeps_no_other_from_being_claimed(
    world: World,
) -> None:
    """Nor is it paid for over and over."""
    wallet = Payer(world.chain)
    config = structs.replace(world.config(wallet), payer_authorizer=bytes(20))
    opened = world.deposit(wallet, 20_000, config)
    await world.settlement.settle(await world.owe(opened), 120)
    world.chain.rpc("anvil_setCode", wallet.hex, _AGREES_TO_TRIALS)
    await _owing(world)
    report = await world.claims.claim(Reason.WITHDRAWAL)
    assert (report.claimed_atoms, list(report.excluded)) == (12_000, [to_hex(opened.channel_id)])
    assert usdc_of(world.chain, world.wallet.address) == 12_000
    spent = world.transactions("claim")
    await world.claims.claim(Reason.WITHDRAWAL)
    assert world.transactions("claim") == spent


async def test_a_withdrawal_is_found_though_the_clock_was_wrong_at_the_last_look(
    world: World,
) -> None:
    payer, channel = await _owing(world)
    with world.store.engine.begin() as connection:
        connection.execute(text("UPDATE seller_channel SET synced_at = synced_at + 31536000"))
    _withdraw(world, payer, channel)
    await world.mirror.refresh(int(time.time()))
    assert await world.claims.leaving() == [to_hex(channel.channel_id)]


async def test_vouchers_are_claimed_when_too_much_is_at_risk(world: World) -> None:
    await _owing(world)
    world.claims.policy = replace(ClaimPolicy(gas_price_wei=10**18), at_risk_atoms=12_000)
    report = await world.claims.claim_due(int(time.time()))
    assert report is not None and report.reason is Reason.AT_RISK
    assert usdc_of(world.chain, world.wallet.address) == 12_000


async def test_a_bad_voucher_does_not_keep_the_others_from_being_claimed(world: World) -> None:
    for honest in (True, False, True):
        _, channel = await _owing(world)
        if not honest:
            await world.charge(Payer(world.chain), channel.channel_id, 12_000)
    report: Any = await world.claims.claim_all()
    assert len(report.excluded) == 1
    assert usdc_of(world.chain, world.wallet.address) == 24_000
