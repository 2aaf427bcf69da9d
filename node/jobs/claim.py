"""Claims vouchers when the policy says so, and says in the event log what came of it."""

from __future__ import annotations

import time

from finance.money import Usdc
from finance.selling.claims import ClaimReport, Claims
from finance.store import Batch, Store, Write
from node.jobs.runner import Job
from node.usage.events import event

EVERY_SECONDS = 30.0


def claim_job(claims: Claims, store: Store) -> Job:
    """A run claims all that is due; nothing due is nothing done."""

    async def run() -> None:
        now = int(time.time())
        report = await claims.claim_due(now)
        if report is not None and (lines := claim_events(report, now)):
            await store.commit(Batch(lines))

    return run


def claim_events(report: ClaimReport, now: int) -> list[Write]:
    """One line for what was claimed, one per channel that could not be."""
    lines = [
        event("claim_impossible", "error", f"Channel {channel_id} cannot be claimed: {why}", now)
        for channel_id, why in report.excluded.items()
    ]
    if report.claimed_atoms:
        amount = f"{Usdc(report.claimed_atoms)} USDC from {report.channels} channels"
        lines.append(event("claimed", "info", f"Claimed {amount} ({report.reason}).", now))
    if report.open_transactions:
        message = "A claim is sent, but not confirmed yet; it is followed on."
        lines.append(event("claim_open", "warning", message, now))
    return lines
