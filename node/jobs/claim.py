"""Claims vouchers when the policy says so, and says in the event log what came of it."""

from __future__ import annotations

import time

from finance.selling.claims import Claims
from finance.store import Store
from node.jobs.runner import Job
from node.treasury.claim_lines import book_claim

EVERY_SECONDS = 30.0


def claim_job(claims: Claims, store: Store) -> Job:
    """A run claims all that is due; nothing due is nothing done."""

    async def run() -> None:
        report = await claims.claim_due(int(time.time()))
        if report is not None:
            await book_claim(store, report)

    return run
