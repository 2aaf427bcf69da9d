"""What came of a claim, as lines of the event log."""

from __future__ import annotations

import time

from finance.money import Usdc
from finance.selling.claims import ClaimReport
from finance.store import Batch, Store, Write
from node.usage.events import event


async def book_claim(store: Store, report: ClaimReport) -> bool:
    """Say it there; False where nothing came of it. Raises StoreUnavailable."""
    lines = _lines(report, int(time.time()))
    if lines:
        await store.commit(Batch(lines))
    return bool(lines)


def _lines(report: ClaimReport, now: int) -> list[Write]:
    """One for what was claimed, one per channel that could not be."""
    lines = [
        event("claim_impossible", "error", f"Channel {channel_id} cannot be claimed: {why}", now)
        for channel_id, why in report.excluded.items()
    ]
    if report.claimed_atoms:
        channels = "1 channel" if report.channels == 1 else f"{report.channels} channels"
        amount = f"{Usdc(report.claimed_atoms)} USDC from {channels}"
        lines.append(event("claimed", "info", f"Claimed {amount} ({report.reason}).", now))
    if report.open_transactions:
        message = "A claim is sent, but not confirmed yet; it is followed on."
        lines.append(event("claim_open", "warning", message, now))
    return lines
