"""Claims vouchers when the policy says so, and says in the event log what came of it."""

from __future__ import annotations

import time

from finance.selling.claims import Claims
from finance.store import Batch, Store
from node.jobs.runner import Job
from node.treasury.claim_lines import claim_events

EVERY_SECONDS = 30.0


def claim_job(claims: Claims, store: Store) -> Job:
    """A run claims all that is due; nothing due is nothing done."""

    async def run() -> None:
        now = int(time.time())
        report = await claims.claim_due(now)
        if report is not None and (lines := claim_events(report, now)):
            await store.commit(Batch(lines))

    return run
