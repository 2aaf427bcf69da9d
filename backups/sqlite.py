"""SQLite: a snapshot while others write, and the check of one."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from backups.archive import Progress
from backups.errors import BackupDamaged, SnapshotFailed
from backups.manifest import Owed
from backups.pace import Pacer

_PAGES = 512  # 2 MiB a step
Facts = tuple[dict[str, int], str, list[Owed]]


def snapshot(source: Path, target: Path, progress: Progress) -> None:
    """Copy the database as it is now to `target`, which must not exist.

    The copy reads inside one transaction: writers go on, and what they write is not in it;
    without the transaction every write would start the copy again. Raises SnapshotFailed.
    """
    if not source.is_file():
        raise SnapshotFailed(f"There is no database at {source}.")
    try:
        with closing(_connect(source, "rw")) as reader, closing(_connect(target, "rwc")) as copy:
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            reader.execute("PRAGMA busy_timeout=10000")
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()

            _copy(reader, copy, target, progress)
            reader.rollback()
            # What was written meanwhile is put into the database here, not by a paid call.
            reader.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error as error:
        raise SnapshotFailed(f"The database cannot be copied: {error}.") from None


def _copy(
    reader: sqlite3.Connection, copy: sqlite3.Connection, target: Path, progress: Progress
) -> None:
    with target.open("rb") as file:
        pacer = Pacer(file.fileno())

        def report(_status: int, left: int, total: int) -> None:
            pacer.written(os.fstat(file.fileno()).st_size)
            progress("copying", total - left, total)

        reader.backup(copy, pages=_PAGES, progress=report, sleep=0)


def read_facts(path: Path, revision_sql: str, owed_sql: str) -> Facts:
    """Rows per table, schema revision, and what is owed, of a snapshot nobody writes to."""
    try:
        with closing(_connect(path, "ro&immutable=1")) as database:
            revision = database.execute(revision_sql).fetchone()
            owed = [Owed(str(key), int(atoms)) for key, atoms in database.execute(owed_sql)]
            return _counts(database), str(revision[0]) if revision else "", owed
    except sqlite3.Error as error:
        raise SnapshotFailed(f"The copy of the database cannot be read: {error}.") from None


def check(path: Path, progress: Progress, full: bool = False) -> dict[str, int]:
    """Look at every page and count every table; rows per table. `full`: also hold every index
    against its table, which takes several times as long. Raises BackupDamaged."""
    try:
        with closing(_connect(path, "ro&immutable=1")) as database:
            database.execute("PRAGMA cache_size=-16384")
            database.execute("PRAGMA mmap_size=0")
            progress("checking", 0, 0)
            pragma = "integrity_check(3)" if full else "quick_check(3)"
            found = database.execute(f"PRAGMA {pragma}").fetchall()
            if found != [("ok",)]:
                raise BackupDamaged(f"The database in this backup is damaged: {found[0][0]}")
            return _counts(database)
    except sqlite3.Error as error:
        raise BackupDamaged(f"The database in this backup cannot be opened: {error}.") from None


def _counts(database: sqlite3.Connection) -> dict[str, int]:
    tables = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%'"
        " ESCAPE '!' ORDER BY name"
    ).fetchall()
    return {
        name: int(database.execute(f"SELECT COUNT(*) FROM {_quoted(name)}").fetchone()[0])
        for (name,) in tables
    }


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
