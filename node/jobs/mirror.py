"""Looks at channels on the chain that were not looked at for a while."""

from __future__ import annotations

import time

from finance.selling.mirror import Mirror
from node.jobs.runner import Job

EVERY_SECONDS = 60.0


def mirror_job(mirror: Mirror) -> Job:
    """A run refreshes every stale channel, so that no withdrawal ends unseen."""

    async def run() -> None:
        await mirror.refresh(int(time.time()))

    return run
