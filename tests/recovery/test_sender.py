"""What a sender promises when the chain behaves: once each, in order, within the caps."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from finance.chain.addresses import MULTICALL3_ADDRESS
from finance.chain.fees import GasCaps
from finance.chain.rpc import aggregate3
from finance.errors import CallReverted, GasCapExceeded
from finance.ledger import Account, entry
from finance.models import TxState
from finance.store import Write
from tests.chain_fixtures import DevchainProcess
from tests.recovery.sender_world import (
    eth_of,
    fresh_address,
    nonce_of,
    sender_world,
    transfer,
    usdc_of,
)

_ETHER = 10**18


async def test_fifty_sends_of_two_keys_at_once_are_fifty_transfers_without_a_nonce_left_out(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    to = fresh_address(1)
    async with (
        sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as one,
        sender_world(tmp_path / "b.db", [chain.rpc_url], chain.keys[1]) as two,
    ):
        worlds = [one, two] * 25
        ids = await asyncio.gather(
            *(w.sender.send("t", str(n), chain.usdc, transfer(to, 1)) for n, w in enumerate(worlds))
        )
        await asyncio.gather(*(w.sender.outcome(i, 30) for w, i in zip(worlds, ids, strict=True)))
        for world in (one, two):
            nonces = world.rows("SELECT nonce FROM chain_tx ORDER BY nonce")
            assert [row[0] for row in nonces] == list(range(25))
    assert usdc_of(chain, to) == 50


async def test_the_same_reference_sent_twenty_times_at_once_is_one_transaction(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    to, before = fresh_address(2), nonce_of(chain, chain.addresses[2])
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[2]) as world:
        sends = [world.sender.send("t", "x", chain.usdc, transfer(to, 7)) for _ in range(20)]
        ids = await asyncio.gather(*sends)
        assert len(set(ids)) == 1
        await world.sender.outcome(ids[0], 10)
        assert await world.sender.send("t", "x", chain.usdc, transfer(to, 7)) == ids[0]
    assert usdc_of(chain, to) == 7
    assert nonce_of(chain, chain.addresses[2]) == before + 1


async def test_what_the_contract_would_refuse_is_never_broadcast_and_costs_no_nonce(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    to = fresh_address(3)
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[3]) as world:
        with pytest.raises(CallReverted, match="exceeds balance"):
            await world.sender.send("t", "x", chain.usdc, transfer(to, 10**15))
        row = world.tx("x")
        assert (row.state, row.nonce) == (TxState.REJECTED, None)
        assert world.rows("SELECT * FROM chain_tx_attempt") == []
        assert (await world.sender.outcome(row.id, 1)).state is TxState.REJECTED
        # The same reference may be tried again with contents that hold.
        again = await world.sender.send("t", "x", chain.usdc, transfer(to, 5))
        assert again == row.id
        await world.sender.outcome(again, 10)
    assert (usdc_of(chain, to), nonce_of(chain, chain.addresses[3])) == (5, 1)


async def test_the_ledger_holds_every_wei_of_gas(chain: DevchainProcess, tmp_path: Path) -> None:
    before = eth_of(chain, chain.addresses[4])
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[4]) as world:
        sends = [
            world.sender.send("t", str(n), chain.usdc, transfer(fresh_address(4), 1))
            for n in range(5)
        ]
        for tx_id in await asyncio.gather(*sends):
            await world.sender.outcome(tx_id, 10)
        assert eth_of(chain, chain.addresses[4]) - before == world.gas_booked() < 0


@pytest.mark.parametrize(
    ("caps", "words"),
    [
        (GasCaps(1, _ETHER, _ETHER), "a unit"),
        (GasCaps(_ETHER, 1000, _ETHER), "may cost"),
        (GasCaps(_ETHER, _ETHER, 1000), "a day"),
    ],
)
async def test_gas_above_a_cap_is_not_paid(
    chain: DevchainProcess, tmp_path: Path, caps: GasCaps, words: str
) -> None:
    before = nonce_of(chain, chain.addresses[5])
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[5], caps=caps) as world:
        with pytest.raises(GasCapExceeded, match=words):
            await world.sender.send("t", "x", chain.usdc, transfer(fresh_address(5), 1))
        assert world.tx("x").state == TxState.REJECTED
    assert nonce_of(chain, chain.addresses[5], "pending") == before


async def test_the_days_cap_counts_what_was_paid_and_what_may_still_be(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[6]) as world:
        tx_id = await world.sender.send("t", "0", chain.usdc, transfer(fresh_address(6), 1))
        outcome = await world.sender.outcome(tx_id, 10)
    caps = GasCaps(_ETHER, _ETHER, outcome.fee_wei * 3 // 2)
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[6], caps=caps) as world:
        with pytest.raises(GasCapExceeded, match="today"):
            await world.sender.send("t", "1", chain.usdc, transfer(fresh_address(6), 1))
    assert usdc_of(chain, fresh_address(6)) == 1


async def test_a_transaction_of_any_size_gets_the_gas_it_needs(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    calls = [(chain.usdc, transfer(fresh_address(100 + n), 0)) for n in range(100)]
    url = chain.rpc_url
    async with sender_world(tmp_path / "a.db", [url], chain.keys[7], timeout_seconds=30) as world:
        tx_id = await world.sender.send("t", "x", MULTICALL3_ADDRESS, aggregate3(calls))
        outcome = await world.sender.outcome(tx_id, 60)
    assert outcome.state is TxState.MINED
    assert outcome.gas_used > 500_000
    assert len(outcome.logs) == 100


async def test_the_writes_handed_along_are_on_disk_before_the_broadcast(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    def also(tx_id: int) -> list[Write]:
        return [entry(f"test:{tx_id}", Account.SPENT, -1, 0)]

    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[8]) as world:
        tx_id = await world.sender.send(
            "t", "x", chain.usdc, transfer(fresh_address(8), 1), before_broadcast=also
        )
        assert world.rows(f"SELECT amount FROM ledger_entry WHERE key = 'test:{tx_id}'") == [(-1,)]


async def test_the_event_loop_runs_on_while_transactions_wait_to_be_mined(tmp_path: Path) -> None:
    with DevchainProcess(block_seconds=2.0) as chain:
        async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
            gaps: list[float] = []
            ticker = asyncio.create_task(_tick(gaps))
            ids = await asyncio.gather(
                *(
                    world.sender.send("t", str(n), chain.usdc, transfer(fresh_address(9), 1))
                    for n in range(10)
                )
            )
            outcomes = await asyncio.gather(*(world.sender.outcome(i, 20) for i in ids))
            ticker.cancel()
    assert {outcome.state for outcome in outcomes} == {TxState.MINED}
    # Not one per block: they were under way together.
    assert len({outcome.block_number for outcome in outcomes}) <= 3
    assert max(gaps) < 1.0


async def _tick(gaps: list[float]) -> None:
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.01)
        now = time.monotonic()
        gaps.append(now - last)
        last = now
