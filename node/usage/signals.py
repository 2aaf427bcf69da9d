"""What other parts of the node have to say on the first page, above its figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signals:
    """`serving_paused`: paid serving stands still because a balance is low, `paused_by_hand`:
    because somebody wanted it. `days_without_backup` counts from the last good backup, or
    from the first start while there is none (`ever_backed_up`)."""

    serving_paused: bool = False
    paused_by_hand: bool = False
    backup_overdue: bool = False
    days_without_backup: int = 0
    ever_backed_up: bool = False


# Takes the present in Unix seconds; may block for a look into the database.
ReadSignals = Callable[[int], Signals]
