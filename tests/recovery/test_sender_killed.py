"""`kill -9` between any two steps of a payment: none is lost, none is paid twice."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from finance.chain.addresses import USDC_ADDRESS
from finance.models import TxState
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.forked import Forked
from tests.recovery.sender_world import (
    fresh_address,
    nonce_of,
    sender_world,
    transfer,
    usdc_of,
)


def _state_on_disk(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        ((state,),) = connection.execute("SELECT state FROM chain_tx")
        return str(state)


async def _run_and_kill(
    database: Path, url: str, key: str, to: str, proxy: FaultyRpc, at: str
) -> None:
    """Start the payer and kill it a moment after it asked for `at`."""
    process = Forked(database.with_suffix(".log"), _send_once, database, url, key, to)
    async with asyncio.timeout(60):
        while at not in proxy.seen:
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
    process.signal(signal.SIGKILL)
    await process.wait()


def _send_once(*arguments: Any) -> None:
    asyncio.run(_send(*arguments))


async def _send(database: Path, url: str, key: str, to: str) -> None:
    async with sender_world(database, [url], key, stuck_seconds=60, timeout_seconds=60) as world:
        tx_id = await world.sender.send("t", "x", USDC_ADDRESS, transfer(to, 1))
        await world.sender.outcome(tx_id, 60)
        await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("account", "method", "fault", "left"),
    [
        (0, "eth_estimateGas", Fault.HANG, TxState.INTENDED),
        (1, "eth_sendRawTransaction", Fault.HANG, TxState.SIGNED),
        (2, "eth_sendRawTransaction", Fault.FORWARD_THEN_HANG, TxState.SIGNED),
        (3, "eth_getTransactionReceipt", Fault.HANG, TxState.BROADCAST),
        (4, "eth_getTransactionReceipt", None, TxState.MINED),
    ],
)
async def test_killed_on_the_way_it_pays_once_after_the_restart(
    chain: DevchainProcess,
    tmp_path: Path,
    account: int,
    method: str,
    fault: Fault | None,
    left: TxState,
) -> None:
    database, to = tmp_path / "a.db", fresh_address(account)
    async with FaultyRpc(chain.rpc_url) as proxy:
        if fault is not None:
            proxy.faults[method] = fault
        await _run_and_kill(database, proxy.url, chain.keys[account], to, proxy, method)
    assert _state_on_disk(database) == left
    async with sender_world(database, [chain.rpc_url], chain.keys[account]) as world:
        # Only what was never signed has to be asked for again; asking twice is harmless.
        state = TxState.REJECTED if left is TxState.INTENDED else None
        assert state is None or world.tx("x").state == state
        tx_id = await world.sender.send("t", "x", chain.usdc, transfer(to, 1))
        assert (await world.sender.outcome(tx_id, 20)).state is TxState.MINED
        gas = world.rows("SELECT COUNT(*) FROM ledger_entry WHERE account = 'gas'")
        assert [tuple(row) for row in gas] == [(1,)]
    assert usdc_of(chain, to) == 1
    assert nonce_of(chain, chain.addresses[account]) == 1
