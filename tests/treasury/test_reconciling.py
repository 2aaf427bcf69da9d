"""A reconciliation asked for by hand ends with what it found."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finance.reconcile import Report
from node.accounts.audit import SYSTEM
from node.treasury import reconciling
from node.treasury.reconciling import Reconciler, read_run
from tests.chain_fixtures import DevchainProcess
from tests.treasury.test_arrivals import unreachable
from tests.treasury.wallet_world import NETWORK, WalletWorld


async def test_one_that_ends_well_after_another_process_began_has_not_broken_off(
    chain: DevchainProcess, tmp_path: Path, postgres_url: str
) -> None:
    network = replace(NETWORK, rpc_urls=(chain.rpc_url,))
    async with WalletWorld(chain, tmp_path, database_url=postgres_url) as world:
        await world.watcher.catch_up()
        one, other = (Reconciler(world.store, network, world.wallet.address) for _ in range(2))
        run_id = await one.begin(SYSTEM, int(time.time()))
        await other.start()
        run = await world.until(
            lambda: (found := read_run(world.engine, run_id)) and found.checked and found
        )
        assert run.error is None and run.balanced


async def test_one_whose_database_goes_away_is_not_running_for_ever(
    chain: DevchainProcess,
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, gone = replace(NETWORK, rpc_urls=(chain.rpc_url,)), threading.Event()
    compare = reconciling.reconcile

    async def once_it_is_gone(*sides: Any) -> Report:
        gone.wait(20)  # in a thread of its own
        return await compare(*sides)

    monkeypatch.setattr(reconciling, "reconcile", once_it_is_gone)
    async with WalletWorld(chain, tmp_path, database_url=postgres_url) as world:
        await world.watcher.catch_up()
        reconciler = Reconciler(world.store, network, world.wallet.address)
        run_id = await reconciler.begin(SYSTEM, int(time.time()))
        with unreachable(postgres_url):
            gone.set()
            await world.until(lambda: f"reconciliation {run_id} cannot be stored" in caplog.text)
        run = await world.until(
            lambda: (found := read_run(world.engine, run_id)) and found.finished_at and found
        )
        assert run.error is not None and not run.balanced
        await reconciler.stop()
