"""Whether the operator must be warned that there is no recent backup."""

from __future__ import annotations

from sqlalchemy import Engine

from backups.schedule import Overdue, overdue
from node.preferences import read_preference
from node.vault.choices import BackupChoices, FirstStart
from node.vault.records import last_good_at
from node.vault.restored import Restored


def backup_overdue(engine: Engine, now: int) -> Overdue:
    """By the days the operator chose, since the last good one, also that which this node was
    restored from, or the first start (blocking)."""
    started = read_preference(engine, FirstStart).at or now
    days = read_preference(engine, BackupChoices).overdue_days
    restored_from = read_preference(engine, Restored).backup_at
    known = (last_good_at(engine, now) or 0, restored_from if restored_from <= now else 0)
    return overdue(now, started, max(known) or None, days)
