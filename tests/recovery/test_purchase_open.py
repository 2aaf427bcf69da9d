"""A buyer that stopped in the middle of a purchase finds out what became of it."""

import asyncio
import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import event

from finance.buying import channels, onchain
from finance.buying.policy import BuyingPolicy
from finance.buying.recovery import settle_channels, settle_exact
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.models import BuyerChannel
from finance.wallet.signer import Signer
from finance.x402.abi import calldata
from finance.x402.exact import transfer_calldata
from finance.x402.settlement_calls import _CONFIG, _tuple
from finance.x402.text import to_hex
from finance.x402.values import ChannelConfig, DepositPayment, ExactPayment, Payment, Receipt
from finance.x402.vouchers import deposit_calldata
from finance.x402.wire import decode_payment
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import NETWORK, BuyerNode, buying, left_open, served
from tests.http.scripted_seller import ScriptedSeller, charge, charges_double, hangs, honest
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.seller_world import give_usdc, usdc_of

PRICE = 1000
# A collector that pays for a deposit out of what it has itself: `transfer(msg.sender, amount)`.
GIVES_ITS_OWN = "0x63a9059cbb60e01b5f52336004526044356024525f5f60445f5f6024355af15000"


def transfer(chain: DevchainProcess, payment: ExactPayment) -> None:
    """Settle an authorization on the chain, as a facilitator does."""
    send(chain, chain.usdc, transfer_calldata(payment))


def send(chain: DevchainProcess, to: str, data: bytes) -> None:
    sender = Signer.from_hex(chain.keys[7])
    transaction = {
        "chainId": chain.chain_id,
        "nonce": int(chain.rpc("eth_getTransactionCount", sender.address, "latest"), 16),
        "to": to,
        "data": to_hex(data),
        "gas": 500_000,
        "maxFeePerGas": 10**10,
        "maxPriorityFeePerGas": 10**9,
    }
    raw, _ = sender.sign_transaction(transaction)
    chain.rpc("eth_sendRawTransaction", to_hex(raw))


@pytest.mark.parametrize("settled", [True, False])
async def test_an_authorization_is_paid_or_open_as_the_chain_says(
    tmp_path: Path, chain: DevchainProcess, settled: bool
) -> None:
    """The seller answers nothing useful; whether it took the money shows on the chain."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")

    async def silent(_: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        assert isinstance(payment.payload, ExactPayment)
        if settled:
            transfer(chain, payment.payload)
        return 500, None

    seller.behave = silent
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            assert (await proxy.call("x/y", key="k")).status_code == 500
    assert [row.state for row in node.purchases] == ["unknown"]
    async with node.running() as proxy:
        left = await settle_exact(proxy.proxy.buyer)
        assert left == (0 if settled else 1)
    (purchase,) = node.purchases
    assert purchase.state == ("paid" if settled else "unknown")
    assert node.booked("spent") == (-PRICE if settled else 0)
    assert node.counted("day") == PRICE
    node.check_books()


async def test_an_answer_that_comes_after_its_money_moved_is_given_to_its_app(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """The chain is asked meanwhile, since it takes so long, and for another call elsewhere."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")
    moved, looked = asyncio.Event(), asyncio.Event()

    async def fails(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 500, None

    async def refuses(_: ScriptedSeller, __: Payment) -> tuple[int, Receipt | None]:
        return 402, None

    async def moves(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        assert isinstance(payment.payload, ExactPayment)
        transfer(chain, payment.payload)
        moved.set()
        await looked.wait()
        return await honest(this, payment)

    async with buying(node, seller) as proxy, node.running() as other:
        seller.behave = fails
        assert (await proxy.call("x/1", key="k")).status_code == 500
        seller.behave = moves
        slow = asyncio.create_task(proxy.call("x/2"))
        await moved.wait()
        seller.behave = refuses
        again = await other.call("x/1", key="k")
        left = await settle_exact(proxy.proxy.buyer)
        looked.set()
        assert (await slow).status_code == 200
    assert (again.json()["code"], left) == ("payment_refused", 2)
    assert [row.state for row in node.purchases] == ["unknown", "paid"]
    node.check_books()


async def test_an_authorization_is_open_while_the_node_is_on_another_network(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That chain knows nothing of it: it is neither unused nor run out there."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller("exact")
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
    monkeypatch.setattr(onchain, "EXPIRED_SECONDS", -600)
    with DevchainProcess(chain_id=31338) as other:
        network = replace(NETWORK, chain_id=31338)
        async with node.running(rpc_url=other.rpc_url, network=network) as proxy:
            await settle_exact(proxy.proxy.buyer)
    assert [row.state for row in node.purchases] == ["unknown"]
    assert node.counted("day") == PRICE
    async with node.running() as proxy:
        assert await settle_exact(proxy.proxy.buyer) == 0
    assert [row.error for row in node.purchases] == ["authorization_expired"]
    assert node.counted("day") == 0


async def test_a_clock_that_runs_ahead_gives_no_deposit_up(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was counted for it is still counted: it may be in the channel in a moment."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    real = time.time
    async with buying(node, seller, answer_seconds=2.0) as proxy:
        await left_open(proxy, seller, "x/y", "k")
        counted = node.counted("deposits")
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: real() + 3600)
            assert await settle_channels(proxy.proxy.buyer) == 1
    assert node.counted("deposits") == counted > 0


async def test_a_deposit_is_made_once_though_endpoints_are_not_equally_far(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Many stand behind one URL: who answers next may not know the newest block yet."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    before, turns = chain.rpc("eth_blockNumber"), itertools.count()

    async def deposits(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        if isinstance(payment.payload, DepositPayment):
            send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
            rpc.answers["eth_call"] = behind
        return await honest(this, payment)

    def behind(asked: dict[str, Any], answer: Any) -> Any:
        late = next(turns) % 2
        return chain.rpc("eth_call", asked["params"][0], before) if late else answer

    seller.behave = deposits
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        buying(node, seller, rpc_url=rpc.url) as proxy,
    ):
        for path in ("x/1", "x/2"):
            assert (await proxy.call(path)).status_code == 200
    signed = [decode_payment(each).payload for each in seller.seen]
    assert [type(each).__name__ for each in signed] == ["DepositPayment", "VoucherPayment"]
    node.check_books()


async def test_an_endpoint_that_refuses_to_look_keeps_no_paid_answer_back(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """As one does that lags behind, or has no calls left: it knows nothing, like a silent one."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def deposits(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        assert isinstance(payment.payload, DepositPayment)
        send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
        rpc.refusals["eth_call"] = ["header not found"] * 99
        return await honest(this, payment)

    seller.behave = deposits
    async with (
        FaultyRpc(chain.rpc_url) as rpc,
        buying(node, seller, rpc_url=rpc.url) as proxy,
    ):
        answer = await proxy.call("x/1")
        rpc.heal()
        assert answer.status_code == 200, answer.text
    async with node.running() as proxy, asyncio.timeout(30):
        while await settle_channels(proxy.proxy.buyer):
            await asyncio.sleep(0.05)
    node.check_books()


async def test_a_deposit_into_a_channel_that_was_stopped_is_found_after_a_restart(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Else nobody knew that there is money to be taken back."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()

    async def deposits_and_lies(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
        assert isinstance(payment.payload, DepositPayment)
        send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
        return await charges_double(this, payment)

    seller.behave = deposits_and_lies
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/y")).status_code == 200
    for _ in range(2):  # a second time, nothing is booked twice
        async with node.running() as proxy:
            async with asyncio.timeout(30):
                while await settle_channels(proxy.proxy.buyer):
                    await asyncio.sleep(0.05)  # the proxy looks by itself, too
    (channel,) = node.channels
    assert channel.state == "stopped"
    assert channel.balance_atoms == node.booked("deposited") == 100 * PRICE


async def test_an_atom_that_a_stranger_pays_into_a_channel_stops_nothing(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """Anybody may: the seller's receipts are right to say so, and the books follow the chain."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    stranger, config = Signer.random().address, list[ChannelConfig]()
    chain.rpc("anvil_setCode", stranger, GIVES_ITS_OWN)
    give_usdc(chain, stranger, 1)

    async def tells_what_is_there(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt]:
        if isinstance(payment.payload, DepositPayment):
            send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
            config.append(payment.payload.config)
        receipt = charge(this, payment)
        assert receipt.channel_state is not None
        there = 100 * PRICE + 1 - usdc_of(chain, stranger)
        state = structs.replace(receipt.channel_state, balance=there)
        return 200, structs.replace(receipt, channel_state=state)

    seller.behave = tells_what_is_there
    async with buying(node, seller) as proxy:
        assert (await proxy.call("x/1")).status_code == 200
        given = (_tuple(config[0]), 1, stranger, b"")
        types = (_CONFIG, "uint128", "address", "bytes")
        send(chain, BATCH_SETTLEMENT_ADDRESS, calldata("deposit", types, *given))
        for path in ("x/2", "x/3"):
            assert (await proxy.call(path)).status_code == 200
    (channel,) = node.channels
    assert (channel.state, channel.charged_atoms, node.events) == ("open", 3 * PRICE, [])
    assert channel.balance_atoms == node.booked("deposited") == 100 * PRICE + 1
    node.check_books()


async def test_a_start_reads_open_purchases_only_however_many_were_made(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    """After a year there are millions; the node must buy again within seconds."""
    node, plans = BuyerNode(tmp_path, chain), []
    parties = {"payer": node.keys.wallet.address, "payer_authorizer": node.keys.voucher.address}
    seller = {"receiver": chain.addresses[5], "receiver_authorizer": chain.addresses[5]}
    terms = {"chain_id": chain.chain_id, "token": chain.usdc, "withdraw_delay": 900}
    channel = {"channel_id": "0x" + "11" * 32, "salt": "0x" + "22" * 32}
    node.add(BuyerChannel(**parties, **seller, **terms, **channel))

    def explain(_: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        if "purchase" in statement and statement.startswith("SELECT"):
            plan = cursor.connection.cursor().execute("EXPLAIN QUERY PLAN " + statement, values)
            plans.extend(str(row[3]) for row in plan)

    event.listen(node.engine, "before_cursor_execute", explain)
    async with node.running():
        pass
    assert any("ix_purchase_deposit" in plan for plan in plans), plans
    assert not [plan for plan in plans if plan in ("SCAN p", "SCAN purchase")], plans


async def test_a_deposit_that_got_no_answer_stands_in_the_way_of_no_channel_with_money(
    tmp_path: Path, chain: DevchainProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be sent again any more, and the chain may take it yet."""
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    both, moved = asyncio.Barrier(2), list[bytes]()

    async def moves_one(this: ScriptedSeller, payment: Payment) -> tuple[int, Receipt | None]:
        if isinstance(payment.payload, DepositPayment):
            if len(this.seen) <= 2:
                await both.wait()
            if moved:
                return await hangs(this, payment)
            moved.append(payment.payload.channel_id)
            send(chain, BATCH_SETTLEMENT_ADDRESS, deposit_calldata(payment.payload))
        return await honest(this, payment)

    async with buying(node, seller, answer_seconds=2.0) as proxy:
        seller.behave = moves_one
        first = await asyncio.gather(*(proxy.call("x/y") for _ in range(2)))
        monkeypatch.setattr(channels, "TRAVEL_SECONDS", 1_000)
        monkeypatch.setattr(proxy.proxy.buyer.pools, "_policy", BuyingPolicy(patience_seconds=60))
        answers = await asyncio.gather(*(proxy.call("x/y") for _ in range(6)))
        seller.hang.set()
    assert sorted(answer.status_code for answer in first) == [200, 504]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert len(node.channels) == 2
