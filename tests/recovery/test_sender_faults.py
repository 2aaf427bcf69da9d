"""What would be lost or paid twice when endpoints fail, lie or fall silent (laws 5 and 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finance.chain.sender import TxOutcome
from finance.errors import RpcRefused, RpcUnavailable, SettlementUnknown
from finance.models import TxState
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.sender_world import (
    SenderWorld,
    eth_of,
    fresh_address,
    nonce_of,
    sender_world,
    transfer,
    usdc_of,
)

_SEND = "eth_sendRawTransaction"
_RECEIPT = "eth_getTransactionReceipt"


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(24))


@pytest.fixture
def number(numbers: Iterator[int]) -> int:
    """Each test has an account, and an address to pay, of its own."""
    return next(numbers)


@pytest.fixture
async def proxy(chain: DevchainProcess) -> AsyncIterator[FaultyRpc]:
    async with FaultyRpc(chain.rpc_url) as server:
        yield server


async def _pay(world: SenderWorld, chain: DevchainProcess, number: int, ref: str = "x") -> int:
    return await world.sender.send("t", ref, chain.usdc, transfer(fresh_address(number), 1))


async def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def test_a_rejected_broadcast_burns_no_nonce(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path
) -> None:
    proxy.refusals[_SEND] = ["insufficient funds for gas * price + value"]
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        with pytest.raises(RpcRefused, match="insufficient funds"):
            await _pay(world, chain, number, "refused")
        assert (world.tx("refused").state, world.tx("refused").nonce) == (TxState.REJECTED, None)
        assert world.rows("SELECT * FROM chain_tx_attempt") == []
        taken = await _pay(world, chain, number, "taken")
        assert (await world.sender.outcome(taken, 10)).state is TxState.MINED
        assert world.tx("taken").nonce == 0
    assert usdc_of(chain, fresh_address(number)) == 1


@pytest.mark.parametrize("in_list", [False, True])
async def test_more_transactions_than_an_endpoint_takes_in_a_batch_come_to_their_end(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path, in_list: bool
) -> None:
    proxy.most_calls, proxy.refuses_in_list = 3, in_list
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        chain.rpc("evm_setAutomine", False)
        sent = [await _pay(world, chain, number, str(each)) for each in range(6)]
        chain.rpc("evm_mine")
        chain.rpc("evm_setAutomine", True)
        outcomes = [await world.sender.outcome(each, 10) for each in sent]
    assert {each.state for each in outcomes} == {TxState.MINED}


async def test_what_one_wallet_could_not_pay_for_is_sent_by_the_one_that_took_its_place(
    chain: DevchainProcess, proxy: FaultyRpc, numbers: Iterator[int], tmp_path: Path
) -> None:
    poor, rich = next(numbers), next(numbers)
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[poor]) as world:
        await world.sender.outcome(await _pay(world, chain, poor, "before"), 10)
        proxy.refusals[_SEND] = ["insufficient funds for gas * price + value"]
        with pytest.raises(RpcRefused, match="insufficient funds"):
            await _pay(world, chain, rich)
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[rich]) as world:
        sent = await _pay(world, chain, rich)
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[rich]) as world:
        assert (await world.sender.outcome(sent, 10)).state is TxState.MINED
        assert world.tx("x").sender == world.sender.address
    assert usdc_of(chain, fresh_address(rich)) == 1


async def test_a_nonce_used_outside_is_passed_over(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path
) -> None:
    async with sender_world(tmp_path / "other.db", [chain.rpc_url], chain.keys[number]) as other:
        await other.sender.outcome(await _pay(other, chain, number), 10)
    # The endpoint has not heard of it: "nonce too low" comes from the chain itself.
    proxy.answers["eth_getTransactionCount"] = lambda call, result: "0x0"
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        tx_id = await _pay(world, chain, number)
        assert world.tx("x").nonce == 1
        proxy.heal()
        assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED
    assert usdc_of(chain, fresh_address(number)) == 2


async def test_fees_offered_too_low_are_raised(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path
) -> None:
    proxy.refusals[_SEND] = ["transaction underpriced"]
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        tx_id = await _pay(world, chain, number)
        assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED
        assert world.tx("x").nonce == 0


@pytest.mark.parametrize("fault", [Fault.FORWARD_THEN_HANG, Fault.FORWARD_THEN_DROP])
async def test_a_broadcast_that_arrived_without_an_answer_is_paid_once(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path, fault: Fault
) -> None:
    proxy.faults[_SEND] = fault
    async with sender_world(
        tmp_path / "a.db", [proxy.url], chain.keys[number], timeout_seconds=1
    ) as world:
        tx_id = await _pay(world, chain, number)
        outcome = await world.sender.outcome(tx_id, 10)
        assert outcome.state is TxState.MINED
        assert len(world.rows("SELECT * FROM chain_tx_attempt")) == 1
    assert usdc_of(chain, fresh_address(number)) == 1
    assert nonce_of(chain, chain.addresses[number]) == 1


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.HANG, Fault.HTML, Fault.ERROR_500])
async def test_a_broadcast_lost_on_the_way_is_sent_again_as_the_same_bytes(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path, fault: Fault
) -> None:
    proxy.faults[_SEND] = fault
    async with sender_world(
        tmp_path / "a.db", [proxy.url], chain.keys[number], stuck_seconds=30, timeout_seconds=1
    ) as world:
        tx_id = await _pay(world, chain, number)
        signed = world.rows("SELECT tx_hash FROM chain_tx_attempt")
        with pytest.raises(SettlementUnknown):
            await world.sender.outcome(tx_id, 0.5)
        proxy.heal()
        outcome = await world.sender.outcome(tx_id, 10)
        assert [(outcome.tx_hash,)] == [tuple(row) for row in signed]
    assert usdc_of(chain, fresh_address(number)) == 1


async def test_an_endpoint_that_is_down_means_nothing_was_sent(
    chain: DevchainProcess, number: int, tmp_path: Path
) -> None:
    async with sender_world(tmp_path / "a.db", ["http://127.0.0.1:1"], chain.keys[number]) as world:
        with pytest.raises(RpcUnavailable):
            await _pay(world, chain, number)
        assert world.tx("x").state == TxState.REJECTED
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[number]) as world:
        tx_id = await _pay(world, chain, number)
        assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED
    assert usdc_of(chain, fresh_address(number)) == 1


async def test_a_missing_receipt_is_not_a_failure(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path
) -> None:
    proxy.answers[_RECEIPT] = lambda call, result: None
    async with sender_world(
        tmp_path / "a.db", [proxy.url], chain.keys[number], stuck_seconds=30
    ) as world:
        tx_id = await _pay(world, chain, number)
        with pytest.raises(SettlementUnknown):
            await world.sender.outcome(tx_id, 1)
        assert world.tx("x").state == TxState.BROADCAST
        proxy.heal()
        assert (await world.sender.outcome(tx_id, 10)).state is TxState.MINED
    assert usdc_of(chain, fresh_address(number)) == 1


def _of_another_transaction(call: dict[str, Any], result: Any) -> Any:
    return result and {**result, "transactionHash": "0x" + "11" * 32}


def _of_another_block(call: dict[str, Any], result: Any) -> Any:
    if not result:
        return result
    logs = [{**log, "blockHash": "0x" + "22" * 32} for log in result["logs"]]
    return {**result, "blockHash": "0x" + "22" * 32, "logs": logs}


@pytest.mark.parametrize(
    "lie", [_of_another_transaction, _of_another_block, lambda call, result: "mined"]
)
async def test_a_receipt_that_does_not_fit_the_chain_is_not_believed(
    chain: DevchainProcess,
    proxy: FaultyRpc,
    number: int,
    tmp_path: Path,
    lie: Callable[[dict[str, Any], Any], Any],
) -> None:
    proxy.answers[_RECEIPT] = lie
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        tx_id = await _pay(world, chain, number)
        with pytest.raises(SettlementUnknown):
            await world.sender.outcome(tx_id, 0.7)
        assert world.tx("x").tx_hash is None
        proxy.heal()
        outcome: TxOutcome = await world.sender.outcome(tx_id, 10)
    assert outcome.state is TxState.MINED
    assert usdc_of(chain, fresh_address(number)) == 1


async def test_after_a_while_without_any_endpoint_everything_is_found_mined(
    chain: DevchainProcess, proxy: FaultyRpc, number: int, tmp_path: Path
) -> None:
    async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[number]) as world:
        proxy.answers[_RECEIPT] = lambda call, result: None
        ids = [await _pay(world, chain, number, str(n)) for n in range(5)]
        proxy.faults["*"] = Fault.DROP
        await asyncio.sleep(2)
        proxy.heal()
        outcomes = await asyncio.gather(*(world.sender.outcome(i, 20) for i in ids))
        assert {outcome.state for outcome in outcomes} == {TxState.MINED}
        assert world.gas_booked() == eth_of(chain, chain.addresses[number]) - 10_000 * 10**18
    assert usdc_of(chain, fresh_address(number)) == 5
