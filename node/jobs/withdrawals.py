"""Claims against payers that are taking their money back, if nobody did so yet (law 8)."""

from __future__ import annotations

import time

from finance.selling.claim_policy import Reason
from finance.selling.claims import Claims
from finance.store import Batch, Store
from node.jobs.runner import Job
from node.treasury.claim_lines import claim_events

EVERY_SECONDS = 15.0


def withdrawal_job(claims: Claims, store: Store) -> Job:
    """A run looks at the mirrored rows only; without a withdrawal it costs one query."""

    async def run() -> None:
        leaving = await claims.leaving()
        if leaving:
            report = await claims.claim(Reason.WITHDRAWAL, leaving)
            await store.commit(Batch(claim_events(report, int(time.time()))))

    return run
