"""Reads peers whose time has come; how often is chosen under Settings > Network."""

from __future__ import annotations

import time

from node.jobs.runner import Job
from node.market.sync import Sync

EVERY_SECONDS = 30.0


def sync_job(sync: Sync) -> Job:
    """A run asks every peer that was not asked for as long as the operator said."""

    async def run() -> None:
        await sync.sync_due(int(time.time()))

    return run
