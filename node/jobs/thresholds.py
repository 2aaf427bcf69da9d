"""Holds the wallet's balances against the operator's thresholds."""

from __future__ import annotations

from node.jobs.runner import Job
from node.treasury.guard import Guard

EVERY_SECONDS = 2.0


def threshold_job(guard: Guard) -> Job:
    """A run reads balances from memory; it writes only when serving pauses or resumes."""
    return guard.look
