"""Transactions that wait too long, and blocks that go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.models import TxState
from finance.wallet.signer import Signer
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.sender_world import (
    DEVNET,
    FAR_AWAY,
    SenderWorld,
    eth_of,
    fresh_address,
    sender_world,
    transfer,
    usdc_of,
)


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(accounts=2) as process:
        yield process


async def _pay(world: SenderWorld, chain: DevchainProcess, ref: str) -> int:
    return await world.sender.send("t", ref, chain.usdc, transfer(fresh_address(1), 1))


async def _until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def _attempts(world: SenderWorld) -> list[tuple[str, int, int]]:
    query = "SELECT tx_hash, max_fee_wei, max_priority_fee_wei FROM chain_tx_attempt ORDER BY 2"
    return [tuple(row) for row in world.rows(query)]


async def test_a_stuck_transaction_is_outbid_under_its_own_nonce(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chain.rpc("evm_setAutomine", False)
    async with sender_world(
        tmp_path / "a.db", [chain.rpc_url], chain.keys[0], stuck_seconds=1
    ) as world:
        tx_id = await _pay(world, chain, "x")
        await _until(lambda: len(_attempts(world)) >= 2)
        first, second = _attempts(world)[:2]
        assert second[1] * 8 >= first[1] * 9
        assert second[2] * 8 >= first[2] * 9
        chain.rpc("evm_mine")
        outcome = await world.sender.outcome(tx_id, 10)
        assert outcome.state is TxState.MINED
        assert outcome.tx_hash in [each[0] for each in _attempts(world)]
        assert world.tx("x").nonce == 0
    assert usdc_of(chain, fresh_address(1)) == 1


async def test_a_stuck_transaction_that_another_process_has_offered_meanwhile_is_outbid(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """The other one started during the first broadcast, and has ended since."""
    chain.rpc("evm_setAutomine", False)
    key, caps = chain.keys[0], GasCaps.default(DEVNET)
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        Rpc([chain.rpc_url], DEVNET.chain_id) as rpc,
        sender_world(
            tmp_path / "a.db", [proxy.url], key, stuck_seconds=1, timeout_seconds=2
        ) as world,
    ):
        other = Sender(rpc, Signer.from_hex(key), DEVNET, world.journal, caps, stuck_seconds=60)
        proxy.faults["eth_sendRawTransaction"] = Fault.FORWARD_THEN_HANG
        sending = asyncio.create_task(_pay(world, chain, "x"))
        await _until(lambda: len(_attempts(world)) == 1)
        await other.start()
        await _until(lambda: world.tx("x").state == TxState.BROADCAST)
        await other.stop()
        await sending
        proxy.heal()
        with suppress(TimeoutError):
            await _until(lambda: len(_attempts(world)) > 1, 8)
        assert len(_attempts(world)) > 1


async def test_a_restart_outbids_only_what_waited_long_enough(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chain.rpc("evm_setAutomine", False)
    urls, key = [chain.rpc_url], chain.keys[0]
    async with sender_world(tmp_path / "a.db", urls, key, stuck_seconds=60) as world:
        await _pay(world, chain, "x")
    async with sender_world(tmp_path / "a.db", urls, key, stuck_seconds=60) as world:
        await asyncio.sleep(1)  # half a dozen looks
        assert len(_attempts(world)) == 1
    # By now it has waited for more than a second, counted from its signature.
    async with sender_world(tmp_path / "a.db", urls, key, stuck_seconds=1) as world:
        await _until(lambda: len(_attempts(world)) == 2, seconds=5)
        chain.rpc("evm_mine")
        await _until(lambda: usdc_of(chain, fresh_address(1)) == 1)


async def test_what_the_pool_forgot_is_offered_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chain.rpc("evm_setAutomine", False)
    async with sender_world(
        tmp_path / "a.db", [chain.rpc_url], chain.keys[0], stuck_seconds=4
    ) as world:
        tx_id = await _pay(world, chain, "x")
        (first,) = _attempts(world)
        assert chain.rpc("anvil_dropTransaction", first[0]) == first[0]
        await _until(lambda: chain.rpc("eth_getTransactionByHash", first[0]) is not None)
        chain.rpc("evm_mine")
        assert (await world.sender.outcome(tx_id, 10)).tx_hash == first[0]
    assert usdc_of(chain, fresh_address(1)) == 1


async def test_what_the_wallet_cannot_outbid_is_offered_again_as_it_was(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """All of the wallet's ETH is on its way: no higher fee is left, and the pool forgets it."""
    chain.rpc("evm_setAutomine", False)
    value, key = 10**18, chain.keys[0]
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], key, stuck_seconds=1) as world:
        tx_id = await world.sender.send("t", "x", FAR_AWAY, b"", value)
        ((first, max_fee, _),) = _attempts(world)
        all_of_it = value + world.tx("x").gas_limit * max_fee
        chain.rpc("anvil_setBalance", world.sender.address, hex(all_of_it))
        await _until(lambda: len(_attempts(world)) >= 2)
        chain.rpc("anvil_dropTransaction", first)
        await _until(lambda: chain.rpc("eth_getTransactionByHash", first) is not None)
        chain.rpc("evm_mine")
        assert (await world.sender.outcome(tx_id, 10)).tx_hash == first
    assert eth_of(chain, FAR_AWAY) == value


async def test_the_first_attempt_may_be_the_one_that_is_mined(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    chain.rpc("evm_setAutomine", False)
    async with sender_world(
        tmp_path / "a.db", [chain.rpc_url], chain.keys[0], stuck_seconds=1
    ) as world:
        tx_id = await _pay(world, chain, "x")
        (raw,) = world.rows("SELECT raw FROM chain_tx_attempt")[0]
        first = _attempts(world)[0][0]
        await _until(lambda: len(_attempts(world)) >= 2)
        for tx_hash, *_ in _attempts(world):
            chain.rpc("anvil_dropTransaction", tx_hash)
        # A miner elsewhere still has the first one.
        chain.rpc("eth_sendRawTransaction", raw)
        chain.rpc("evm_mine")
        assert (await world.sender.outcome(tx_id, 10)).tx_hash == first
    assert usdc_of(chain, fresh_address(1)) == 1


async def test_a_reorg_puts_a_payment_back_and_it_is_sent_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    before = eth_of(chain, chain.addresses[0])
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
        snapshot = chain.rpc("evm_snapshot")
        tx_id = await _pay(world, chain, "x")
        first = await world.sender.outcome(tx_id, 10)
        chain.rpc("evm_revert", snapshot)
        assert usdc_of(chain, fresh_address(1)) == 0
        chain.rpc("anvil_mine", 2)
        await _until(lambda: usdc_of(chain, fresh_address(1)) == 1)
        await _until(lambda: world.tx("x").block_hash not in (None, first.block_hash))
        assert world.tx("x").state == TxState.MINED
        reversals = world.rows("SELECT key FROM ledger_entry WHERE key LIKE 'reversal:%gas:%'")
        assert len(reversals) == 2  # taken back, booked again
        assert world.gas_booked() == eth_of(chain, chain.addresses[0]) - before


async def test_a_chain_that_only_became_shorter_gets_the_payment_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
        snapshot = chain.rpc("evm_snapshot")
        await world.sender.outcome(await _pay(world, chain, "x"), 10)
        chain.rpc("evm_revert", snapshot)
        await _until(lambda: usdc_of(chain, fresh_address(1)) == 1)


async def test_a_payment_deep_enough_is_final(chain: DevchainProcess, tmp_path: Path) -> None:
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
        await world.sender.outcome(await _pay(world, chain, "x"), 10)
        chain.rpc("anvil_mine", 40)
        await _until(lambda: world.tx("x").state == TxState.FINAL)
