"""How backups stand, for the page, the JSON API and `farebox status` alike (blocking)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from backups.errors import NoBackupKey
from backups.schedule import Overdue
from node.preferences import read_preference
from node.vault import records
from node.vault.choices import BackupChoices, S3Choices
from node.vault.records import BackupView
from node.vault.restored import Restored
from node.vault.service import Vault, Working

_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Overview:
    """Times in Unix seconds. `next_at` None: nothing is scheduled; `older` are good files that
    need an earlier backup password; `tested` is the last one that a test restore was made of."""

    password_set: bool
    last_good: BackupView | None
    tested: BackupView | None
    overdue: Overdue
    next_at: int | None
    working: Working | None
    choices: BackupChoices
    s3: S3Choices
    older: list[BackupView]
    restored: Restored
    good_count: int
    good_bytes: int


def read_overview(vault: Vault, now: int) -> Overview:
    """Everything but the list itself."""
    engine = vault.engine
    good = records.good_backups(engine)
    choices = read_preference(engine, BackupChoices)
    password_set = _has_key(engine)
    last = next((each for each in good if each.started_at <= now), None)
    tested = [each for each in good if each.tested_at is not None]
    return Overview(
        password_set=password_set,
        last_good=last,
        tested=max(tested, key=lambda each: each.tested_at or 0, default=None),
        overdue=vault.overdue(now),
        next_at=_next_at(choices, last, now) if password_set else None,
        working=vault.working,
        choices=choices,
        s3=read_preference(engine, S3Choices),
        older=[each for each in good if not each.current_password],
        restored=read_preference(engine, Restored),
        good_count=len(good),
        good_bytes=sum(each.size_bytes for each in good),
    )


def _next_at(choices: BackupChoices, last: BackupView | None, now: int) -> int | None:
    if not choices.every_hours:
        return None
    return now if last is None else max(now, last.started_at + choices.every_hours * _HOUR)


def _has_key(engine: Engine) -> bool:
    try:
        records.current_key(engine)
    except NoBackupKey:
        return False
    return True
