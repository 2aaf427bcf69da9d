"""What came of a claim, as lines of the event log."""

from __future__ import annotations

from finance.money import Usdc
from finance.selling.claims import ClaimReport
from finance.store import Write
from node.usage.events import event


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
