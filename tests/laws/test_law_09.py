"""Law 9. The books equal the chain, atom by atom; where they do not, it is listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs
from sqlalchemy import text

from finance import reconcile
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.watcher import Watcher
from finance.ledger import Account
from finance.models import PaymentState
from finance.store import Batch, Write
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.digest import claim_batch_digest
from finance.x402.settlement_calls import Claim, claim_calldata, deposit_calldata
from finance.x402.text import parse_address
from node.gateway import app as gateway_app
from node.gateway import onchain
from tests.chain_fixtures import ChainProcess
from tests.laws.worlds import NETWORK, Shop, open_shop
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.seller_world import PRICE, give_usdc, send_as, usdc_of


async def _trade(shop: Shop) -> None:
    """One of everything: an exact sale, a deposit, vouchers, a claim with its sweep."""
    world = shop.world
    async with shop.open_gateway() as url:
        for payment in (world.exact(shop.payer()), world.deposit(payer := shop.payer(), 20_000)):
            headers = await shop.header(url, payment)
            answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
            assert answer.status_code == 200, answer.text
        channel = payment.channel_id
        key = "0x" + channel.hex()
    await world.charge(payer, channel, 5 * PRICE)
    sql = (
        "INSERT INTO ledger_entry (key, account, amount, channel_id, at)"
        " VALUES ('charge:four more', 'charged', :amount, :channel, 0)"
    )
    await _write(shop, sql, amount=4 * PRICE, channel=key)
    await world.claims.claim_all()
    await shop.watcher.catch_up()


async def _write(shop: Shop, sql: str, **params: Any) -> None:
    await shop.world.store.commit(Batch([Write(text(sql), params, rows=None)]))


@pytest_asyncio.fixture
async def cooked(chain: ChainProcess, tmp_path: Path) -> AsyncIterator[Shop]:
    """A shop whose books are falsified: they need not balance at the end."""
    async with open_shop(chain, tmp_path) as shop:
        await _trade(shop)
        yield shop


async def test_after_a_day_of_trade_the_books_equal_the_chain(shop: Shop) -> None:
    await _trade(shop)
    world = shop.world
    assert usdc_of(world.chain, world.wallet.address) == 6 * PRICE
    report = await shop.reconcile()
    assert report.differences == ()
    assert report.open == ()
    assert report.checked > 15


async def test_what_strangers_claim_for_the_wallet_from_channels_of_their_own_is_no_difference(
    shop: Shop,
) -> None:
    """Whoever deposits, names himself the authorizer and claims an atom for us, owes us nothing
    and cannot have the books called wrong for ever."""
    await _trade(shop)
    world, stranger = shop.world, shop.payer()
    config = structs.replace(world.config(stranger), receiver_authorizer=stranger.address)
    deposit, signer = world.deposit(stranger, 9_000, config), Signer(stranger.key)
    claim = Claim(config, deposit.max_claimable, deposit.signature, deposit.max_claimable)
    entries = [(deposit.channel_id, deposit.max_claimable, deposit.max_claimable)]
    signed = signer.sign_digest(claim_batch_digest(entries, NETWORK.chain_id))
    for data in (deposit_calldata(deposit), claim_calldata([claim], signed)):
        send_as(world.chain, Signer.random(), BATCH_SETTLEMENT_ADDRESS, data)
    await shop.watcher.catch_up()
    assert (await shop.reconcile()).differences == ()


async def test_the_books_of_a_wallet_that_took_anothers_place_equal_the_chain(shop: Shop) -> None:
    """What the old one earned stays with it, but for what it sends to the new one."""
    await _trade(shop)
    world, new = shop.world, Signer.random().address
    data = calldata("transfer", ("address", "uint256"), parse_address(new), PRICE)
    send_as(world.chain, world.wallet, NETWORK.usdc, data)
    await shop.watcher.catch_up()
    watcher = Watcher(world.rpc, world.store, NETWORK, new)
    report = await reconcile.reconcile(world.store, world.rpc, new, NETWORK, watcher)
    assert report.differences == ()


@pytest.mark.parametrize("others", [1, 0])
async def test_a_channel_that_is_gone_from_the_books_is_no_strangers(
    cooked: Shop, others: int
) -> None:
    """Neither while the books have other channels, nor when they have none."""
    gone = [row[0] for row in _rows(cooked, "SELECT channel_id FROM seller_channel")]
    for _ in range(others):
        await cooked.world.open_channel(cooked.payer(), 9_000)
    await cooked.watcher.catch_up()
    for channel_id in gone:
        await _write(cooked, "DELETE FROM seller_channel WHERE channel_id = :id", id=channel_id)
    found = {difference.kind for difference in (await _compared(cooked)).differences}
    assert "receiver_claimed" in found


FALSIFICATIONS = {
    "wallet_usdc": "DELETE FROM ledger_entry WHERE account = 'wallet' AND amount = 5000",
    "gas_ledger_wei": "UPDATE ledger_entry SET amount = amount + 1 WHERE account = 'gas'",
    "exact_ledger": "UPDATE ledger_entry SET amount = amount - 1 WHERE account = 'exact'",
    "exact_payment": "UPDATE onchain_payment SET log_index = 99 WHERE kind = 'exact'",
    "seller_charged_ledger": "DELETE FROM ledger_entry WHERE key = 'charge:four more'",
    "seller_claimed_ledger": "DELETE FROM ledger_entry WHERE account = 'claimed'",
    "seller_total_claimed": "UPDATE seller_channel SET total_claimed_atoms = 4999",
    "seller_balance": "UPDATE seller_channel SET balance_atoms = balance_atoms + 1",
    "seller_voucher": "UPDATE seller_channel SET signed_atoms = signed_atoms + 1",
}


async def test_every_difference_between_books_and_chain_is_listed(
    cooked: Shop,
) -> None:
    for kind, sql in FALSIFICATIONS.items():
        await _write(cooked, sql)
        found = {difference.kind for difference in (await _compared(cooked)).differences}
        assert kind in found


async def _compared(shop: Shop) -> Any:
    """One look, without the second one that waits for what may be under way."""
    world = shop.world
    wallet = world.wallet.address
    return await reconcile._look(world.engine, world.rpc, wallet, NETWORK, shop.watcher, None)


async def test_money_that_came_around_the_events_is_seen(cooked: Shop) -> None:
    wallet = cooked.world.wallet.address
    give_usdc(cooked.world.chain, wallet, 7 * PRICE)
    found = (await cooked.reconcile()).differences
    assert [(each.kind, each.books, each.chain) for each in found] == [
        ("wallet_usdc", 6 * PRICE, 7 * PRICE)
    ]


async def test_a_movement_that_is_read_twice_is_booked_once(shop: Shop) -> None:
    world = shop.world
    await world.settlement.settle(await world.owe(world.exact(shop.payer())), 30)
    await shop.watcher.catch_up()
    # The cursor as a crash would have left it: what was read is read again.
    first = "(SELECT MIN(block_number) FROM chain_cursor)"
    await _write(shop, f"DELETE FROM chain_cursor WHERE block_number > {first}")
    again = Watcher(world.rpc, world.store, NETWORK, world.wallet.address)
    await again.catch_up()
    assert world.booked(Account.WALLET) == PRICE


async def test_a_call_whose_money_never_came_is_not_booked_as_paid(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain is silent when the answer is there; when it speaks again it is too late."""
    monkeypatch.setattr(onchain, "LEAST_SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(gateway_app, "TIDY_SECONDS", 0.05)
    async with FaultyRpc(chain.rpc_url) as rpc, open_shop(chain, tmp_path, rpc.url) as shop:
        shop.max_timeout_seconds = 1
        payment = shop.world.exact(shop.payer(), valid_for=30)
        async with shop.open_gateway() as url:
            headers = await shop.header(url, payment, "/v1/api/slow/0.5")
            asked = asyncio.create_task(shop.client.get(url + "/v1/api/slow/0.5", headers=headers))
            while not shop.upstream.total:
                await asyncio.sleep(0.01)
            rpc.faults["*"] = Fault.DROP
            answer = await asked
            assert (answer.status_code, answer.json()["code"]) == (504, "settlement_pending")
            assert _calls(shop) == [(200, PRICE)]
            chain.rpc("evm_increaseTime", 60)
            chain.rpc("evm_mine")
            rpc.faults.clear()
            async with asyncio.timeout(20):
                while shop.world.count(PaymentState.FAILED) == 0:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)
        assert _calls(shop) == [(402, 0)]
        assert _rows(shop, "SELECT SUM(amount_atoms), SUM(paid), SUM(calls) FROM call_rollup") == [
            (0, 0, 1)
        ]
        assert _rows(shop, "SELECT COUNT(*) FROM stored_answer") == [(0,)]
        await shop.assert_books_balance()


def _calls(shop: Shop) -> list[Any]:
    return _rows(shop, "SELECT status, amount_atoms FROM call")


def _rows(shop: Shop, sql: str) -> list[Any]:
    with shop.world.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(sql))]
