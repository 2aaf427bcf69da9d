"""The rows of keys and backups: read, written, told to pages and the JSON API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine, Row, func, insert, select, update
from sqlmodel import col

from backups.errors import BackupUnknown, NoBackupKey
from backups.folder import SUFFIX, find
from backups.header import BackupKey
from backups.manifest import Manifest, decode_manifest
from backups.models import Backup, BackupKeyRow, BackupState, CopyState
from backups.retention import Kept
from node.accounts.audit import Actor, record
from node.db.engine import writer

_BACKUP = Backup.__table__  # type: ignore[attr-defined]
_CHUNK = 1 << 18
_KEY = BackupKeyRow.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class BackupView:
    """One backup as it stands; times in Unix seconds, `manifest` None until there is one.
    `current_password`: whether the backup password of today opens it."""

    id: str
    name: str
    path: Path
    reason: str
    state: BackupState
    recipient: str
    current_password: bool
    started_at: int
    finished_at: int | None
    took_ms: int
    size_bytes: int
    sha256: str
    manifest: Manifest | None
    error: str
    remark: str
    verified_at: int | None
    tested_at: int | None
    test_error: str
    s3_state: CopyState
    s3_key: str
    s3_error: str
    mail_state: CopyState
    mail_error: str
    removed_at: int | None

    @property
    def good(self) -> bool:
        return self.state is BackupState.GOOD


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with its identity as the database keeps it."""

    key: BackupKey
    identity_sealed: str
    created_at: int
    retired_at: int | None


def current_key(engine: Engine) -> StoredKey:
    """The key new backups are encrypted to (blocking). Raises NoBackupKey."""
    found = [each for each in read_keys(engine) if each.retired_at is None]
    if not found:
        raise NoBackupKey(
            "Choose a backup password first: in Settings > Backup, or with farebox backup password."
        )
    return found[0]


def read_keys(engine: Engine) -> list[StoredKey]:
    """All keys, the newest first (blocking)."""
    with engine.connect() as connection:
        rows = connection.execute(select(_KEY).order_by(_KEY.c.created_at.desc())).all()
    return [
        StoredKey(
            BackupKey(row.recipient, row.key_block),
            row.identity_sealed,
            row.created_at,
            row.retired_at,
        )
        for row in rows
    ]


def store_key(engine: Engine, key: BackupKey, identity_sealed: str, actor: Actor, now: int) -> None:
    """Take a new key in place of the current one, which goes on opening its files (blocking)."""
    row = {
        "recipient": key.recipient,
        "key_block": key.key_block,
        "identity_sealed": identity_sealed,
        "created_at": now,
        "retired_at": None,
    }
    with writer(engine).begin() as connection:
        retire = update(_KEY).where(_KEY.c.retired_at.is_(None)).values(retired_at=now)
        changed = connection.execute(retire).rowcount
        connection.execute(insert(_KEY), row)
        action = "backup.password_change" if changed else "backup.password_set"
        record(connection, actor, action, key.recipient, now)


def begin(engine: Engine, row: dict[str, Any], actor: Actor, now: int) -> None:
    """A backup is being written (blocking)."""
    with writer(engine).begin() as connection:
        connection.execute(insert(_BACKUP), _blank() | row)
        record(connection, actor, "backup.create", row["id"], now, after=row["name"])


def change(engine: Engine, backup_id: str, **values: Any) -> None:
    """Set columns of one backup (blocking)."""
    with writer(engine).begin() as connection:
        connection.execute(update(_BACKUP).where(_BACKUP.c.id == backup_id).values(values))


def interrupted(engine: Engine, now: int) -> None:
    """What was running when a node died has failed (blocking)."""
    with writer(engine).begin() as connection:
        connection.execute(
            update(_BACKUP)
            .where(_BACKUP.c.state == BackupState.RUNNING)
            .values(
                state=BackupState.FAILED,
                finished_at=now,
                error="The node ended while the backup was being written.",
            )
        )
        for state, error in (("s3_state", "s3_error"), ("mail_state", "mail_error")):
            connection.execute(
                update(_BACKUP)
                .where(_BACKUP.c[state] == CopyState.SENDING)
                .values({state: CopyState.FAILED, error: "The node ended while it was sent."})
            )


def read_backup(engine: Engine, backup_id: str) -> BackupView:
    """One backup (blocking). Raises BackupUnknown."""
    with engine.connect() as connection:
        row = connection.execute(select(_BACKUP).where(_BACKUP.c.id == backup_id)).one_or_none()
        current = _current(connection)
    if row is None:
        raise BackupUnknown("There is no such backup.")
    return _view(row, current)


def list_backups(
    engine: Engine, offset: int = 0, limit: int = 30, good: bool = False
) -> tuple[list[BackupView], int]:
    """A page of them, the newest first, and how many there are (blocking)."""
    condition = [_BACKUP.c.state == BackupState.GOOD] if good else []
    query = select(_BACKUP).where(*condition).order_by(_BACKUP.c.started_at.desc(), _BACKUP.c.id)
    count = select(func.count()).select_from(_BACKUP).where(*condition)
    with engine.connect() as connection:
        rows = connection.execute(query.offset(offset).limit(limit)).all()
        total = connection.scalar(count) or 0
        current = _current(connection)
    return [_view(row, current) for row in rows], total


def good_backups(engine: Engine) -> list[BackupView]:
    """Every good one, the newest first (blocking)."""
    return list_backups(engine, limit=100_000, good=True)[0]


def copied(engine: Engine) -> list[BackupView]:
    """Every one with a copy in the bucket, or perhaps with one (blocking)."""
    there = _BACKUP.c.s3_state.in_((CopyState.SENT, CopyState.FAILED))
    with engine.connect() as connection:
        rows = connection.execute(select(_BACKUP).where(there, _BACKUP.c.s3_key != "")).all()
        current = _current(connection)
    return [_view(row, current) for row in rows]


def left_behind(engine: Engine, folder: Path) -> list[BackupView]:
    """Whose file is in `folder` though the history says that it was not finished, or was let go:
    the node ended between the two, or could not note it; or that it was missing: the folder was
    away; or elsewhere: the node was restored on the same machine (blocking)."""
    names = [path.name for path in find(folder, f"*{SUFFIX}")]
    not_there = (BackupState.REMOVED, BackupState.MISSING, BackupState.ELSEWHERE)
    states = _BACKUP.c.state.in_((BackupState.RUNNING, BackupState.FAILED, *not_there))
    conditions = (states, _BACKUP.c.folder == str(folder))
    with engine.connect() as connection:
        query = select(_BACKUP).where(_BACKUP.c.name.in_(names), *conditions)
        rows = connection.execute(query).all()
        current = _current(connection)
    return [_view(row, current) for row in rows]


def kept_of(backups: Sequence[BackupView]) -> list[Kept]:
    return [Kept(each.id, each.started_at) for each in backups]


def last_good_at(engine: Engine, now: int) -> int | None:
    """When the newest good backup was begun: what came later is not in it (blocking). Here and
    below nothing counts that a clock, which was wrong then, puts into the future."""
    return _newest(engine, now, col(Backup.started_at), col(Backup.state) == BackupState.GOOD)


def last_try_at(engine: Engine, now: int) -> int:
    """When a backup was last begun, 0 if never (blocking)."""
    return _newest(engine, now, col(Backup.started_at)) or 0


def last_test_at(engine: Engine, now: int) -> int | None:
    """When a test restore was last made (blocking)."""
    return _newest(engine, now, col(Backup.tested_at))


def _newest(engine: Engine, now: int, column: Any, *conditions: Any) -> int | None:
    query = select(func.max(column)).where(column <= now, *conditions)
    with engine.connect() as connection:
        found: int | None = connection.scalar(query)
    return found


def _current(connection: Any) -> str:
    query = select(_KEY.c.recipient).where(_KEY.c.retired_at.is_(None))
    return str(connection.scalar(query) or "")


def _blank() -> dict[str, Any]:
    texts = ("sha256", "manifest", "error", "remark", "test_error", "s3_key", "s3_error")
    blank: dict[str, Any] = dict.fromkeys((*texts, "mail_error", "s3_state", "mail_state"), "")
    return blank | {"state": BackupState.RUNNING, "took_ms": 0, "size_bytes": 0}


def _view(row: Row[Any], current: str) -> BackupView:
    values = dict(row._mapping)
    folder, text = values.pop("folder"), values.pop("manifest")
    values["path"] = Path(folder) / row.name
    values["manifest"] = decode_manifest(text.encode()) if text else None
    values["current_password"] = row.recipient == current
    values["state"] = BackupState(row.state)
    values["s3_state"], values["mail_state"] = CopyState(row.s3_state), CopyState(row.mail_state)
    return BackupView(**values)


def read_file(path: Path) -> Iterator[bytes]:
    """A file in pieces; it is open until the last one was taken (blocking)."""
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            yield piece


def manifest_text(manifest: Manifest) -> str:
    return msgspec.json.encode(manifest).decode()
