"""Backups by the clock, and a look at the wallet after a restore."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from node.jobs.runner import Job
from node.vault.restored import AfterRestore, Stale
from node.vault.upkeep import Upkeep

EVERY_SECONDS = 60.0
WALLET_SECONDS = 300.0


def backup_job(upkeep: Upkeep) -> Job:
    """A run does what is due; a backup that is being written is not begun again."""

    async def run() -> None:
        await upkeep.run(int(time.time()))

    return run


def wallet_job(after: AfterRestore, channels: Callable[[], Iterable[Stale]]) -> Job:
    """A node that was never restored asks nothing. `channels`: those it pays through; once
    none of them is stale, all books have been held against the chain."""

    async def run() -> None:
        now = int(time.time())
        await after.watch_wallet(now)
        if not any(each.stale for each in channels() if each.usable and each.stored):
            await asyncio.to_thread(after.checked, now)

    return run
