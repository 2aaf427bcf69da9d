"""A reconciliation asked for by hand ends with what it found."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from node.accounts.audit import SYSTEM
from node.treasury.reconciling import Reconciler, read_run
from tests.chain_fixtures import DevchainProcess
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
