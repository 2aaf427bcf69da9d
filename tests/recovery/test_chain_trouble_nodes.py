"""Whole nodes in trouble with their chain: nothing is lost, and they recover by themselves.

One market lives through all of it, one trouble after the other; after each the books of
both nodes equal the chain. Time travel comes last: no clock goes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.rpc import Rpc
from finance.ledger import Account
from finance.selling.mirror import Mirror, config_of
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.digest import channel_id
from finance.x402.values import ChannelConfig
from node.db.engine import open_engine
from node.db.journal import Journal
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault
from tests.recovery.market_world import (
    PRICE,
    SOAK,
    Errand,
    Market,
    list_for_buyer,
    open_market,
    transact,
)
from tests.recovery.node_home import (
    NETWORK,
    copy_database,
    fresh_database,
    put_database_back,
    until,
)

OUTAGE_SECONDS = 60.0 if SOAK else 8.0
_CONFIG = "(address,address,address,address,address,uint40,bytes32)"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=1) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    chain: DevchainProcess, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Market]:
    async with open_market(chain, tmp_path_factory.mktemp("market")) as market:
        # Eight calls at once open the channels that the other tests use.
        await market.buy_many(errands("first", 16))
        await market.all_settled()
        yield market


@pytest_asyncio.fixture(loop_scope="module")
async def market(running: Market) -> AsyncIterator[Market]:
    """The market; afterwards both nodes' books equal the chain and each other."""
    yield running
    for node in running.nodes:
        node.relay.heal()
    await running.all_settled()
    sold = dict(await running.seller.rows("SELECT channel_id, charged_atoms FROM seller_channel"))
    bought = await running.buyer.rows("SELECT channel_id, charged_atoms FROM buyer_channel")
    assert {key: sold[key] for key, _ in bought} == dict(bought)
    await running.reconcile()


def errands(name: str, count: int) -> list[Errand]:
    return [Errand(f"{name}-{each}") for each in range(count)]


async def charged(market: Market) -> int:
    return await market.seller.number("SELECT SUM(charged_atoms) FROM seller_channel")


def foreigner(market: Market, number: int) -> Signer:
    return Signer.from_hex(market.chain.keys[number])


async def test_vouchers_flow_while_no_endpoint_answers_and_the_rest_waits(market: Market) -> None:
    before, earned = await charged(market), await market.seller.booked(Account.EXACT)
    for node in market.nodes:
        node.relay.faults["*"] = Fault.DROP
    dark_until = time.monotonic() + OUTAGE_SECONDS
    calls = errands("dark", 60)
    await market.buy_many(calls, at_once=4)
    assert not any(each.tries for each in calls), "a voucher waited for the chain"
    while time.monotonic() < dark_until - 1:
        calls.append(Errand(f"dark-{len(calls)}"))
        await market.buy(calls[-1])
        await asyncio.sleep(OUTAGE_SECONDS / 60)
    assert not any(each.tries for each in calls)
    transfer = Errand("dark-exact")
    payment = await market.exact_payment(transfer, foreigner(market, 1))
    assert await market.present(transfer, payment) == 503
    for node in market.nodes:
        node.relay.heal()
    assert await market.present(transfer, payment) == 200
    assert await charged(market) - before == len(calls) * PRICE
    await market.all_settled()
    assert await market.seller.booked(Account.EXACT) - earned == PRICE


async def test_deposit_waits_for_a_chain_that_is_gone(market: Market) -> None:
    """More calls at once than channels: the new channels' deposits wait, each is made once."""
    deposits = "SELECT COUNT(*) FROM onchain_payment WHERE kind = 'deposit' AND state = 'confirmed'"
    calls, before = errands("crowd", 12), await market.seller.number(deposits)
    for node in market.nodes:
        node.relay.faults["*"] = Fault.DROP
    market.api.delay_seconds = 1.0
    buying = asyncio.create_task(market.buy_many(calls, at_once=12))

    async def somebody_waits() -> bool:
        return any(status.startswith("503") for each in calls for status in each.tries)

    await until("a call that needs a deposit is told to wait", somebody_waits)
    for node in market.nodes:
        node.relay.heal()
    await buying
    market.api.delay_seconds = 0.0
    channels = await market.buyer.number("SELECT COUNT(*) FROM buyer_channel")
    await market.all_settled()
    assert await market.seller.number(deposits) <= channels
    assert await market.seller.number(deposits) > before
    deposited = await market.buyer.booked(Account.DEPOSITED)
    assert market.usdc(market.buyer) == 500_000_000 - deposited


def _nonsense(call: dict[str, Any], result: Any) -> Any:
    """Of the wrong kind, whatever was asked."""
    return [] if isinstance(result, str | dict) else "0x"


async def test_endpoint_that_answers_nonsense_is_not_believed(market: Market) -> None:
    transfer, earned = Errand("nonsense-exact"), market.usdc(market.seller)
    methods = ("eth_call", "eth_getLogs", "eth_getTransactionReceipt", "eth_blockNumber")
    for node in market.nodes:
        node.relay.answers = dict.fromkeys((*methods, "eth_getBlockByNumber"), _nonsense)
    calls = errands("nonsense", 16)
    await market.buy_many(calls, at_once=4)
    assert not any(each.tries for each in calls)
    payment = await market.exact_payment(transfer, foreigner(market, 2))
    assert await market.present(transfer, payment) == 503
    for node in market.nodes:
        node.relay.heal()
    assert await market.present(transfer, payment) == 200
    assert market.usdc(market.seller) == earned + PRICE


async def test_transaction_that_the_mempool_forgot_is_offered_again(market: Market) -> None:
    transfer, earned = Errand("forgotten"), market.usdc(market.seller)
    market.chain.rpc("evm_setIntervalMining", 3600)
    payment = await market.exact_payment(transfer, foreigner(market, 3))
    buying = asyncio.create_task(market.present(transfer, payment))
    sent = "SELECT tx_hash FROM chain_tx_attempt WHERE tx_id IN"
    sent += " (SELECT id FROM chain_tx WHERE purpose = 'settle' AND state = 'broadcast')"

    async def waiting() -> list[Any]:
        return await market.seller.rows(sent)

    ((tx_hash,),) = await until("the settlement is broadcast", waiting)
    assert market.chain.rpc("anvil_dropTransaction", tx_hash) == tx_hash
    if SOAK:
        await asyncio.sleep(25)  # stuck for longer than the sender bears: it outbids itself
        assert len(await market.seller.rows(sent)) > 1
    market.chain.rpc("evm_setIntervalMining", 1)
    await buying

    async def answered() -> bool:
        return await market.present(transfer, payment) == 200

    await until("the answer that was paid for", answered)
    assert market.usdc(market.seller) == earned + PRICE
    assert market.api.served["forgotten"] == 1


async def test_reorg_of_deposit_exact_payment_and_claim_leaves_nothing_lost(
    market: Market,
) -> None:
    await market.claim_all()
    before = market.usdc(market.seller)
    start = int(market.chain.rpc("eth_blockNumber"), 16)
    market.api.delay_seconds = 1.0  # more calls at once than channels: some deposit
    await market.buy_many(errands("undone", 14), at_once=14)
    market.api.delay_seconds = 0.0
    await market.buy_exact(Errand("undone-exact"), foreigner(market, 4))
    await market.claim_all()
    claimed = market.usdc(market.seller)
    assert claimed > before + PRICE
    depth = int(market.chain.rpc("eth_blockNumber"), 16) - start
    market.chain.rpc("anvil_reorg", depth)
    assert market.usdc(market.seller) < claimed

    async def made_good() -> bool:
        return market.usdc(market.seller) == claimed

    await until("deposit, payment and claim are on the chain again", made_good)
    calls = errands("after-undone", 8)
    await market.buy_many(calls)
    assert sum(market.api.served[each.name] for each in calls) == len(calls)


async def test_buyer_that_lost_its_database_finds_its_channels_on_the_chain(
    market: Market,
) -> None:
    before, held = await charged(market), market.usdc(market.buyer)
    await _lose_buyers_database(market)
    calls = errands("cold", 12)
    await market.buy_many(calls, at_once=2)
    assert await charged(market) - before == len(calls) * PRICE
    assert market.usdc(market.buyer) == held, "money went into new channels"


async def test_buyer_that_lost_its_database_while_no_endpoint_answers(market: Market) -> None:
    """It pays from channels whose money it cannot see; what it finds later is booked once."""
    before = await charged(market)
    await market.claim_all()
    await _lose_buyers_database(market)
    market.buyer.relay.faults["*"] = Fault.DROP
    calls = errands("blind", 4)
    for each in calls:
        await market.ask(each)
    market.buyer.relay.heal()
    calls += errands("seeing", 8)
    await market.buy_many(calls, at_once=2)
    assert await charged(market) - before == len(calls) * PRICE
    stopped = "SELECT COUNT(*) FROM buyer_channel WHERE state = 'stopped'"
    assert await market.buyer.number(stopped) == 0


async def _lose_buyers_database(market: Market) -> None:
    await market.buyer.stop()
    for path in market.buyer.data_dir.glob("farebox.db*"):
        path.unlink()
    fresh_database(market.buyer)
    market.secret = list_for_buyer(market.buyer, market.seller)
    await market.buyer.start()


async def test_seller_with_an_older_database_charges_nothing_twice(
    market: Market, tmp_path: Path
) -> None:
    """What was claimed before the copy was put back stays earned; what was neither claimed
    nor in the copy is lost to the seller, and is the only thing served free."""
    before = await charged(market)
    await market.seller.kill_9()
    copy_database(market.seller, tmp_path / "copy")
    await market.seller.start()
    await market.buy_many(errands("claimed", 6), at_once=2)
    await market.claim_all()
    await market.buy_many(errands("lost", 4), at_once=2)
    await market.seller.kill_9()
    put_database_back(market.seller, tmp_path / "copy")
    await market.seller.start()
    # The buyer learns of the seller's loss channel by channel: each is used once.
    channels = await market.buyer.number("SELECT COUNT(*) FROM buyer_channel")
    calls = errands("restored", channels)
    market.api.delay_seconds = 1.0
    await market.buy_many(calls, at_once=channels)
    market.api.delay_seconds = 0.0
    assert all(each.cost_atoms == PRICE for each in calls)
    total = await charged(market)
    assert before + (6 + channels) * PRICE <= total <= before + (6 + 4 + channels) * PRICE
    assert -await market.buyer.booked(Account.SPENT) <= total


async def test_payer_who_withdraws_is_claimed_against_at_once(market: Market) -> None:
    """Law 8, with the node's own watcher and jobs."""
    payer = foreigner(market, 5)
    config = await market.open_channel(Errand("leaving"), payer, atoms=50 * PRICE)
    await _withdraw(market, config, payer)

    async def claimed() -> bool:
        return await _claimed(market, config) == PRICE

    await until("claimed because the payer leaves", claimed)


async def test_channel_the_buyer_takes_its_money_out_of_by_hand_is_set_aside(
    market: Market,
) -> None:
    """With the wallet alone, past the node; no call meets a refusal for it."""
    config = await _fullest_channel(market)
    await _withdraw(market, config, market.buyer.keys.wallet)
    await until("the channel is set aside", lambda: _in_state(market, config, "withdrawing"))
    charged_then = (await _seller_row(market, config)).charged_atoms
    calls = errands("meanwhile", 8)
    await market.buy_many(calls, at_once=2)
    assert not any(each.tries for each in calls)
    await market.buyer.kill_9()
    await market.buyer.start()
    calls = errands("meanwhile-too", 8)
    await market.buy_many(calls, at_once=2)
    assert not any(each.tries for each in calls)
    assert (await _seller_row(market, config)).charged_atoms == charged_then


async def test_seller_that_was_away_claims_before_the_withdrawal_ends(running: Market) -> None:
    market = running
    await market.buy_many(errands("away", 8), at_once=2)
    config, owed = await _channel_that_owes(market)
    await market.seller.kill_9()
    await _withdraw(market, config, market.buyer.keys.wallet)
    market.chain.rpc("evm_increaseTime", config.withdraw_delay - 300)
    market.chain.rpc("evm_mine")
    assert await _claimed(market, config) < owed
    await market.seller.start()

    async def claimed() -> bool:
        return await _claimed(market, config) == owed

    await until("claimed at the start", claimed)
    market.chain.rpc("evm_increaseTime", 400)
    _finalize(market, config)
    assert await _claimed(market, config) == owed

    async def balanced() -> bool:
        return (await market.seller.reconcile()).balanced

    await until("the seller's books equal the chain", balanced)


async def test_channel_whose_money_came_back_is_taken_up_again_or_closed(market: Market) -> None:
    await market.buy(Errand("before"))
    config = await _fullest_channel(market)
    await _withdraw(market, config, market.buyer.keys.wallet)
    await until("the channel is set aside", lambda: _in_state(market, config, "withdrawing"))

    async def all_claimed() -> bool:
        row = await _seller_row(market, config)
        return bool(row.total_claimed_atoms == row.charged_atoms)

    await until("what was charged is claimed", all_claimed)
    held = market.usdc(market.buyer)
    market.chain.rpc("evm_increaseTime", config.withdraw_delay + 10)
    _finalize(market, config)
    assert market.usdc(market.buyer) > held
    await until("the empty channel is closed", lambda: _in_state(market, config, "closed"))
    calls = errands("afterwards", 8)
    await market.buy_many(calls, at_once=2)
    assert not any(each.tries for each in calls)


async def _fullest_channel(market: Market) -> ChannelConfig:
    """The buyer's channel that its next call would be paid through."""
    row, *_ = await market.buyer.rows(
        "SELECT * FROM buyer_channel WHERE state = 'open'"
        " ORDER BY balance_atoms - charged_atoms DESC"
    )
    return config_of(row)


async def _in_state(market: Market, config: ChannelConfig, state: str) -> bool:
    query = "SELECT state FROM buyer_channel WHERE channel_id = :id"
    return bool((await market.buyer.rows(query, id=_id(config)))[0][0] == state)


async def _seller_row(market: Market, config: ChannelConfig) -> Any:
    query = "SELECT * FROM seller_channel WHERE channel_id = :id"
    return (await market.seller.rows(query, id=_id(config)))[0]


async def _channel_that_owes(market: Market) -> tuple[ChannelConfig, int]:
    """A channel with something unclaimed and nobody leaving: its terms, and all charged."""
    row, *_ = await market.seller.rows(
        "SELECT * FROM seller_channel WHERE total_claimed_atoms < charged_atoms"
        " AND withdraw_requested_at = 0 ORDER BY charged_atoms - total_claimed_atoms DESC"
    )
    return config_of(row), int(row.charged_atoms)


def _tuple(config: ChannelConfig) -> tuple[Any, ...]:
    return (
        config.payer,
        config.payer_authorizer,
        config.receiver,
        config.receiver_authorizer,
        config.token,
        config.withdraw_delay,
        config.salt,
    )


async def _withdraw(market: Market, config: ChannelConfig, payer: Signer) -> None:
    """The payer asks for all that is in the channel."""
    query = "SELECT balance_atoms - total_claimed_atoms FROM seller_channel WHERE channel_id = :id"
    left = await market.seller.number(query, id=_id(config))
    data = calldata("initiateWithdraw", (_CONFIG, "uint128"), _tuple(config), left)
    await asyncio.to_thread(transact, market.chain, payer, BATCH_SETTLEMENT_ADDRESS, data)


def _finalize(market: Market, config: ChannelConfig) -> None:
    data = calldata("finalizeWithdraw", (_CONFIG,), _tuple(config))
    transact(market.chain, market.buyer.keys.wallet, BATCH_SETTLEMENT_ADDRESS, data)


async def _claimed(market: Market, config: ChannelConfig) -> int:
    """What the chain says was claimed of a channel."""
    engine = open_engine(f"sqlite:///{market.seller.data_dir / 'farebox.db'}")
    journal = Journal(engine)
    try:
        async with Rpc([market.chain.rpc_url], NETWORK.chain_id) as rpc:
            state = await Mirror(journal, rpc, NETWORK).read([_id(config)])
    finally:
        await asyncio.to_thread(journal.close)
        engine.dispose()
    return state[_id(config)].total_claimed


def _id(config: ChannelConfig) -> str:
    return "0x" + channel_id(config, NETWORK.chain_id).hex()
