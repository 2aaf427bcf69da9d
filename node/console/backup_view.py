"""Backups as the pages of Settings > Backup show them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from backups.models import BackupState, CopyState
from finance.money import Usdc
from node.console.format import Amount, Moment, amount, count, moment, size
from node.console.forms import Form
from node.console.pager import Pager
from node.vault.overview import Overview
from node.vault.records import BackupView
from node.vault.restored import Restored, since_sentence
from node.vault.service import Working
from node.vault.source import told

REASONS = {
    "manual": "by hand",
    "scheduled": "scheduled",
    "setup": "first backup",
    "migration": "before an update",
    "command": "farebox command",
}
_TONES = {
    BackupState.GOOD: "good",
    BackupState.RUNNING: "info",
    BackupState.FAILED: "bad",
    BackupState.DAMAGED: "bad",
    BackupState.MISSING: "loud",
    BackupState.ELSEWHERE: "plain",
    BackupState.REMOVED: "plain",
}
_COPIES = {
    CopyState.SENDING: ("sending", "info"),
    CopyState.SENT: ("sent", "good"),
    CopyState.FAILED: ("failed", "bad"),
    CopyState.SKIPPED: ("too large", "loud"),
    CopyState.REMOVED: ("removed", "plain"),
}
STAGES = {
    "starting": "Starting",
    "claiming": "Claiming what is owed",
    "copying": "Copying the database",
    "writing": "Compressing and encrypting",
    "reading": "Reading it again",
    "checking": "Checking the database",
    "opening": "Opening the restored books",
}
_WHAT = {
    "create": "A backup is being written",
    "verify": "A backup is being checked",
    "test": "A test restore is being made",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done now; `percent` None when nobody knows how much there is."""

    what: str
    stage: str
    percent: int | None
    since: Moment


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the history, and the head of its own page."""

    id: str
    name: str
    made: Moment
    reason: str
    state: tuple[str, str]
    size: str
    took: str
    checked: Moment | None
    tested: Moment | None
    test_error: str
    older_password: bool
    s3: tuple[str, str] | None
    mail: tuple[str, str] | None
    error: str
    remark: str
    good: bool


@dataclass(frozen=True, slots=True)
class RestoredView:
    """The last restore of this node."""

    at: Moment
    backup_at: Moment
    checked: Moment | None
    elsewhere: str


@dataclass(frozen=True, slots=True)
class BackupPage:
    """What `settings/backup.html` shows. Selects take (value, label)."""

    password_set: bool
    progress: Progress | None
    last: Row | None
    tested: Row | None
    overdue: str
    next: str
    kept: str
    rows: Sequence[Row]
    pager: Pager
    sending: bool
    older: Sequence[Row]
    restored: RestoredView | None
    choices: Form
    s3: Form
    s3_secret_set: bool
    password: Form
    intervals: Sequence[tuple[str, str]]
    folder: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A line about what is inside."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class BackupDetail:
    """What `settings/backup_file.html` shows."""

    row: Row
    path: str
    sha256: str
    facts: Sequence[Fact]
    counts: Sequence[tuple[str, str]]
    owed: Amount | None
    owed_channels: str
    s3_key: str
    s3_error: str
    mail_error: str
    progress: Progress | None


def intervals() -> list[tuple[str, str]]:
    """The schedules on offer."""
    hours = [
        (str(each), f"Every {each} hours" if each > 1 else "Every hour")
        for each in (1, 3, 6, 12, 24)
    ]
    return [("0", "Only when asked"), *hours]


def row_of(backup: BackupView, now: int, zone: ZoneInfo) -> Row:
    """One backup as a line."""
    state = backup.state
    return Row(
        id=backup.id,
        name=backup.name,
        made=moment(backup.started_at, now, zone),
        reason=REASONS.get(backup.reason, backup.reason),
        state=(state.value, _TONES[state]),
        size=size(backup.size_bytes) if backup.size_bytes else "—",
        took=_took(backup.took_ms),
        checked=_maybe(backup.verified_at, now, zone),
        tested=_maybe(backup.tested_at, now, zone),
        test_error=backup.test_error,
        older_password=not backup.current_password,
        s3=_COPIES.get(backup.s3_state),
        mail=_COPIES.get(backup.mail_state),
        error=backup.error,
        remark=backup.remark,
        good=backup.good,
    )


def progress_of(working: Working | None, now: int, zone: ZoneInfo) -> Progress | None:
    """What is being done, if anything."""
    if working is None:
        return None
    percent = min(100, 100 * working.done // working.total) if working.total else None
    stage = STAGES.get(working.stage, working.stage.capitalize())
    return Progress(_WHAT[working.what], stage, percent, moment(working.since, now, zone))


def overdue_text(overview: Overview) -> str:
    """The sentence of the red banner; empty when all is well."""
    found = overview.overdue
    if not found.overdue:
        return ""
    if found.ever:
        return f"The last backup is {found.days} days old."
    return f"This node was never backed up in {found.days} days."


def restored_of(restored: Restored, now: int, zone: ZoneInfo) -> RestoredView | None:
    """What the operator must know after a restore."""
    if not restored.restored_at:
        return None
    return RestoredView(
        moment(restored.restored_at, now, zone),
        moment(restored.backup_at, now, zone),
        _maybe(restored.checked_at or None, now, zone),
        since_sentence(restored.elsewhere) if restored.elsewhere else "",
    )


def detail_of(
    backup: BackupView, working: Working | None, now: int, zone: ZoneInfo
) -> BackupDetail:
    """One backup and what is inside."""
    inside = backup.manifest
    facts: list[Fact] = []
    if inside is not None:
        facts = [
            Fact("Network", f"{inside.network} (chain {inside.chain_id})"),
            Fact("Wallet", inside.wallet),
            Fact(
                "Block", "not known" if inside.block_height is None else count(inside.block_height)
            ),
            Fact("Database", f"{inside.database}, schema {inside.schema_revision}"),
            Fact("Version", inside.software),
            Fact("Files", ", ".join(member.name for member in inside.members)),
        ]
        if inside.outside:
            facts.append(Fact("Set outside", "; ".join(map(told, inside.outside))))
    counts = sorted(inside.counts.items()) if inside else []
    return BackupDetail(
        row=row_of(backup, now, zone),
        path=str(backup.path),
        sha256=backup.sha256,
        facts=facts,
        counts=[(name.replace("_", " "), count(rows)) for name, rows in counts if rows],
        owed=amount(Usdc(inside.owed_atoms), 6) if inside else None,
        owed_channels=count(inside.owed_channels) if inside else "",
        s3_key=backup.s3_key,
        s3_error=backup.s3_error,
        mail_error=backup.mail_error,
        progress=progress_of(working, now, zone),
    )


def _took(milliseconds: int) -> str:
    if not milliseconds:
        return "—"
    seconds = milliseconds / 1000
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60} s"


def _maybe(at: int | None, now: int, zone: ZoneInfo) -> Moment | None:
    return None if at is None else moment(at, now, zone)
