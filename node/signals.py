"""What must not be overlooked on the first page, asked of those who know it."""

from __future__ import annotations

from sqlalchemy import Engine

from backups.schedule import overdue
from node.preferences import read_preference
from node.treasury.guard import Guard
from node.usage.signals import Signals
from node.vault.choices import BackupChoices, FirstStart
from node.vault.records import last_good_at


def read_signals(engine: Engine, guard: Guard, now: int) -> Signals:
    """The present state of serving and backups (blocking)."""
    standing = guard.standing
    started = read_preference(engine, FirstStart).at or now
    after_days = read_preference(engine, BackupChoices).overdue_days
    backup = overdue(now, started, last_good_at(engine), after_days)
    return Signals(
        serving_paused=bool(standing.auto_paused_at),
        paused_by_hand=bool(standing.hand_paused_at),
        backup_overdue=backup.overdue,
        days_without_backup=backup.days,
        ever_backed_up=backup.ever,
    )
