"""What may be worth a notification, and whom the rules hear it from."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol


class Rule(StrEnum):
    """One kind of incident; stored, only ever added to."""

    LOW_USDC = "low_usdc"
    LOW_GAS = "low_gas"
    AUTO_PAUSE = "auto_pause"
    ERROR_SPIKE = "error_spike"  # more than 5 errors in 5 minutes
    SETTLEMENT_FAILING = "settlement_failing"
    PEER_UNREACHABLE = "peer_unreachable"
    UPSTREAM_DOWN = "upstream_down"  # an API of ours does not answer its health check
    JOB_FAILING = "job_failing"
    BACKUP_OVERDUE = "backup_overdue"
    BACKUP_FAILED = "backup_failed"


class Alarm(Protocol):
    """Where parts report incidents. An incident is (rule, subject): raised again while it is
    open it changes nothing, so callers need not remember what they said."""

    async def raise_(self, rule: Rule, subject: str, message: str, link: str) -> None:
        """Open an incident; `link` is the page where it is dealt with, e.g. `/finance`."""
        ...

    async def resolve(self, rule: Rule, subject: str) -> None:
        """End it; harmless when it is not open."""
        ...
