"""What other parts of the node have to say on the first page, above its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """`serving_paused`: paid serving was stopped because the balance is low.
    `days_since_backup`: None when there never was one; only looked at when it is overdue."""

    serving_paused: bool = False
    backup_overdue: bool = False
    days_since_backup: int | None = None


ReadSignals = Callable[[], Signals]
