"""Whether the operator must be warned that there is no recent backup."""

from __future__ import annotations

from sqlalchemy import Engine

from backups.schedule import Overdue, overdue
from node.preferences import read_preference
from node.vault.choices import BackupChoices, FirstStart
from node.vault.records import last_good_at


def backup_overdue(engine: Engine, now: int) -> Overdue:
    """By the days the operator chose, since the last good one or the first start (blocking)."""
    started = read_preference(engine, FirstStart).at or now
    days = read_preference(engine, BackupChoices).overdue_days
    return overdue(now, started, last_good_at(engine, now), days)
