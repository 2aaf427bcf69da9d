"""Law 5. A transaction has three ends: confirmed, failed, unknown."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from finance.buying.recovery import settle_exact
from finance.errors import SettlementUnknown, WithdrawalRefused
from finance.ledger import Account
from finance.models import ChannelState, PaymentState, TxState
from finance.operations import Token
from finance.withdrawal import Stage
from finance.withdrawals import Withdrawals, find_withdrawal
from finance.x402.values import ExactPayment, Payment, Receipt
from finance.x402.wire import decode_payment
from node.gateway import onchain
from tests.chain_fixtures import ChainProcess, DevchainProcess
from tests.http.proxy_world import BuyerNode, buying, left_open
from tests.http.scripted_seller import ScriptedSeller
from tests.laws.worlds import on_disk, open_shop
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.seller_world import PRICE, Payer, World, give_usdc, usdc_of
from tests.recovery.sender_world import sender_world, transfer
from tests.recovery.test_purchase_open import transfer as move
from tests.treasury.wallet_world import NETWORK, WalletWorld

SEND, RECEIPT, ESTIMATE = (
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_estimateGas",
)


def funded_key(chain: ChainProcess) -> str:
    """A key of this test's own, with ETH and USDC."""
    payer = Payer(chain)
    chain.rpc("anvil_setBalance", payer.hex, hex(10**18))
    return payer.key.to_hex()


def somebody() -> str:
    return "0x" + secrets.token_hex(20)


async def test_a_transaction_is_on_disk_before_it_is_broadcast(
    chain: ChainProcess, tmp_path: Path
) -> None:
    database, seen = tmp_path / "a.db", []

    def look(call: dict[str, Any], result: Any) -> Any:
        known = f"SELECT COUNT(*) FROM chain_tx_attempt WHERE tx_hash = '{result}'"
        seen.append(on_disk(database, known))
        return result

    async with FaultyRpc(chain.rpc_url) as proxy:
        proxy.answers[SEND] = look
        async with sender_world(database, [proxy.url], funded_key(chain)) as world:
            tx_id = await world.sender.send("t", "x", chain.usdc, transfer(somebody(), 1))
            assert seen == [1]
            assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED


async def test_a_transfer_that_timed_out_is_not_made_again(
    chain: ChainProcess, tmp_path: Path
) -> None:
    to = somebody()
    async with FaultyRpc(chain.rpc_url) as proxy:
        proxy.answers[RECEIPT] = lambda call, result: None
        async with sender_world(tmp_path / "a.db", [proxy.url], funded_key(chain)) as world:
            for _ in range(2):
                tx_id = await world.sender.send("t", "x", chain.usdc, transfer(to, 7))
                with suppress(SettlementUnknown):
                    await world.sender.outcome(tx_id, 0.4)
            proxy.heal()
            assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED
    assert usdc_of(chain, to) == 7


async def test_a_caller_whose_settlement_takes_long_is_not_told_to_pay_again(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onchain, "LEAST_SETTLE_SECONDS", 0.5)
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        open_shop(chain, tmp_path, proxy.url) as shop,
    ):
        shop.max_timeout_seconds = 1
        payment = shop.world.exact(shop.payer())
        proxy.answers[RECEIPT] = lambda call, result: None
        async with shop.open_gateway() as url:
            headers = await shop.header(url, payment)
            first = await shop.client.get(url + "/v1/api/echo", headers=headers)
            assert first.status_code == 504
            proxy.heal()
            async with asyncio.timeout(15):
                while (again := await _get(shop, url, headers)).status_code != 200:
                    await asyncio.sleep(0.2)
        assert again.json()["path"] == "/base/echo"
        assert shop.upstream.total == 1
        assert usdc_of(chain, shop.world.wallet.address) == PRICE
        await shop.assert_books_balance()


async def _get(shop: Any, url: str, headers: dict[str, str]) -> Any:
    return await shop.client.get(url + "/v1/api/echo", headers=headers)


async def test_a_successful_receipt_without_the_transfer_pays_for_nothing(
    chain: ChainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        open_shop(chain, tmp_path, proxy.url) as shop,
    ):
        payer = shop.payer(PRICE)

        def spend_elsewhere(call: dict[str, Any], result: Any) -> Any:
            """After the last look and before the block: aggregate3 succeeds, its call fails."""
            give_usdc(chain, payer.hex, 0)
            return result

        proxy.answers[ESTIMATE] = spend_elsewhere
        async with shop.open_gateway() as url:
            headers = await shop.header(url, shop.world.exact(payer))
            answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
        assert [row.state for row in shop.world.transactions()] == [TxState.MINED]
        assert answer.status_code == 402
        assert shop.world.count(PaymentState.CONFIRMED) == 0
        await shop.assert_books_balance()


@pytest.fixture
def own_chain() -> Iterator[DevchainProcess]:
    """Its blocks can be taken away without taking those of others."""
    with DevchainProcess(accounts=2) as process:
        yield process


async def test_money_that_a_reorg_took_back_is_sent_again(
    own_chain: DevchainProcess, tmp_path: Path
) -> None:
    chain, to = own_chain, somebody()
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
        snapshot = chain.rpc("evm_snapshot")
        tx_id = await world.sender.send("t", "x", chain.usdc, transfer(to, 7))
        await world.sender.outcome(tx_id, 10)
        chain.rpc("evm_revert", snapshot)
        assert usdc_of(chain, to) == 0
        chain.rpc("anvil_mine", 2)
        with suppress(TimeoutError):
            async with asyncio.timeout(6):
                while usdc_of(chain, to) == 0:
                    await asyncio.sleep(0.1)
    assert usdc_of(chain, to) == 7


@pytest.mark.parametrize("seen_before", [True, False])
async def test_a_payment_that_a_reorg_took_back_for_good_has_failed(
    own_chain: DevchainProcess, tmp_path: Path, seen_before: bool
) -> None:
    """Its payer has spent the money meanwhile, whether or not the watcher had read its block."""
    payer = Payer(own_chain)
    async with World(own_chain, tmp_path) as world:
        await world.watcher.catch_up()
        payment = await world.owe(world.exact(payer))
        own_chain.rpc("evm_mine")
        await world.settlement.settle(payment, 30)
        if seen_before:
            await world.watcher.catch_up()
        own_chain.rpc("evm_setAutomine", False)
        own_chain.rpc("anvil_reorg", 1)
        give_usdc(own_chain, payer.hex, 0)
        own_chain.rpc("evm_setAutomine", True)
        await world.watcher.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(12):
                while world.payment(payment).state != PaymentState.FAILED:
                    await asyncio.sleep(0.05)
        assert world.payment(payment).state == PaymentState.FAILED
        assert world.booked(Account.EXACT) == 0 == usdc_of(own_chain, world.wallet.address)


@pytest.mark.parametrize("seen_before", [True, False])
async def test_what_a_refund_that_a_reorg_took_back_will_take_out_again_is_not_sold(
    own_chain: DevchainProcess, tmp_path: Path, seen_before: bool
) -> None:
    payer = Payer(own_chain)
    async with World(own_chain, tmp_path) as world:
        payment = await world.open_channel(payer, 20_000)
        channel = await world.channels.get(payment.channel_id)
        assert channel is not None
        await world.watcher.catch_up()
        await world.refunds.refund(channel, None)
        if seen_before:
            await world.watcher.catch_up()
        own_chain.rpc("evm_setAutomine", False)
        own_chain.rpc("anvil_reorg", 1)
        await world.watcher.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(8):
                while not channel.settling or channel.balance != 20_000:
                    await asyncio.sleep(0.05)
                    await world.mirror.sync([channel.key])
        assert world.channel(channel.key).state == ChannelState.REFUNDING and channel.settling
        own_chain.rpc("evm_setAutomine", True)
        async with asyncio.timeout(20):
            while world.channel(channel.key).state == ChannelState.REFUNDING:
                await asyncio.sleep(0.05)
        assert world.channel(channel.key).state == ChannelState.CLOSED
        assert usdc_of(own_chain, payer.hex) == 1_000_000 - PRICE


async def test_a_withdrawal_that_is_said_to_have_sent_nothing_sends_nothing(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """Another process that starts takes it for left behind, and its owner confirms a new one."""
    to, id_, said = somebody(), secrets.token_hex(16), list[Stage]()
    async with WalletWorld(chain, tmp_path) as world:
        send = world.sender.send

        async def send_late(*args: Any, **more: Any) -> int:
            await Withdrawals(world.store, world.sender, world.rpc, NETWORK).start()
            shown = find_withdrawal(world.engine, id_)
            said.extend([shown.stage] if shown else [])
            return await send(*args, **more)

        world.sender.send = send_late  # type: ignore[method-assign]
        with suppress(WithdrawalRefused):
            await world.withdraw(Token.USDC, 1_000, to, id_)
        await asyncio.sleep(1)
        found = find_withdrawal(world.engine, id_)
        assert found is not None
        said.append(found.stage)
        assert (Stage.FAILED in said) == (world.usdc_of(to) == 0)


async def test_a_withdrawal_confirmed_again_and_again_leaves_once(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """A double click, a reload, a retry after a time-out: one id, one transaction."""
    to, id_ = somebody(), secrets.token_hex(16)
    async with WalletWorld(chain, tmp_path) as world:
        together = (world.withdraw(Token.USDC, 1_000, to, id_) for _ in range(3))
        await asyncio.gather(*together, return_exceptions=True)
        await world.withdraw(Token.USDC, 1_000, to, id_)
        sent = "SELECT id FROM chain_tx WHERE state NOT IN ('intended', 'signed', 'broadcast')"
        await world.until(
            lambda: len(world.rows(sent)) == len(world.rows("SELECT 1 FROM chain_tx"))
        )
        assert world.usdc_of(to) == 1_000
        assert len(world.rows(sent)) == 1


async def test_a_clock_that_runs_ahead_gives_no_authorization_up(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is good for as long as the chain says, whatever this machine says: paid anew, its call
    would be charged twice."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")

    async def refuses(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 402, None

    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        seller.behave = refuses
        real = time.time
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: real() + 3600)
            assert await settle_exact(proxy.proxy.buyer) == 1
            assert (await proxy.call("x/y", key="k")).json()["code"] == "payment_refused"
        payment = decode_payment(seller.seen[0]).payload
        assert isinstance(payment, ExactPayment)
        move(chain, payment)
        assert await settle_exact(proxy.proxy.buyer) == 0
    assert len(set(seller.seen)) == 1
    assert [row.state for row in node.purchases] == ["paid"]
    node.check_books()
