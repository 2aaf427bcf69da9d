"""Moves sums of calls that have become quiet out of the way of paid calls."""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import Engine

from node.jobs.runner import Job
from node.usage.totals import move_quiet_sums

EVERY_SECONDS = 300.0


def totals_job(engine: Engine) -> Job:
    """A run moves all that is quiet; the figures are the same before, during and after."""

    async def run() -> None:
        await asyncio.to_thread(move_quiet_sums, engine, int(time.time()))

    return run
