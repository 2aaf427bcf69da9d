"""Backups by the clock, and a look at the wallet after a restore."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from node.jobs.runner import Job, Jobs
from node.vault.restored import AfterRestore, Stale
from node.vault.upkeep import Upkeep

EVERY_SECONDS = 60.0
WALLET_SECONDS = 300.0
RESTORED_SECONDS = 10.0
_LOOK_SECONDS = 0.5
_LOOKS = 20


def add_all(jobs: Jobs, upkeep: Upkeep, seconds: float = EVERY_SECONDS) -> None:
    """What is due, and the warning: apart, since a folder whose server is gone may hold the work
    for ever. A backup that is being written is not begun again."""

    async def run() -> None:
        await upkeep.run(int(time.time()))

    async def warn() -> None:
        await upkeep.warn(int(time.time()))

    jobs.every(seconds, "backup", run)
    jobs.every(seconds, "overdue", warn)


def wallet_job(after: AfterRestore) -> Job:
    """A node that was never restored asks nothing."""

    async def run() -> None:
        await after.watch_wallet(int(time.time()))

    return run


def restored_job(
    after: AfterRestore, channels: Callable[[], Iterable[Stale]], held: Callable[[], bool]
) -> Job:
    """Notes when all books were held against the chain: once none of the `channels` this node
    pays through is stale, and those that are sold through are not `held` back any more."""

    def stale() -> bool:
        return held() or any(each.stale for each in channels() if each.usable and each.stored)

    async def run() -> None:
        if not (await asyncio.to_thread(after.read)).unchecked:
            return
        for _ in range(_LOOKS):
            if not stale():
                await asyncio.to_thread(after.checked, int(time.time()))
                return
            await asyncio.sleep(_LOOK_SECONDS)

    return run
