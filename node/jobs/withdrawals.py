"""Claims against payers that are taking their money back, if nobody did so yet (law 8)."""

from __future__ import annotations

from finance.selling.claim_policy import Reason
from finance.selling.claims import Claims
from finance.store import Store
from node.jobs.runner import Job
from node.treasury.claim_lines import book_claim

EVERY_SECONDS = 15.0


def withdrawal_job(claims: Claims, store: Store) -> Job:
    """A run looks at the mirrored rows only; without a withdrawal it costs one query."""

    async def run() -> None:
        leaving = await claims.leaving()
        if leaving:
            await book_claim(store, await claims.claim(Reason.WITHDRAWAL, leaving))

    return run
