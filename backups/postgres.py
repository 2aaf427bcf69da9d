"""PostgreSQL: `pg_dump` of one snapshot, and `pg_restore` of it.

Where to connect and with which password goes to the programs in their environment: it is
not in their command line, which everybody on the machine may read, nor in a file.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.pq import Conninfo

from backups.archive import Progress
from backups.errors import BackupDamaged, DatabaseUnfit, FolderUnusable, SnapshotFailed
from backups.manifest import Owed
from backups.sqlite import Facts

Server = Mapping[str, str]
# An empty table that is there while books are loaded, until whoever had them loaded drops it.
UNFINISHED = "restore_unfinished"
_LOCK_MS = 60_000  # for another session that holds a table to itself
_TABLES = (
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name"
)


def variables() -> dict[str, str]:
    """libpq's parameters that can be set in the environment, and as what (PostgreSQL 34.15)."""
    known = ((each.keyword, each.envvar) for each in Conninfo.get_defaults())
    return {keyword.decode(): variable.decode() for keyword, variable in known if variable}


def snapshot(
    source: Server, target: Path, revision_sql: str, owed_sql: str, progress: Progress
) -> Facts:
    """Dump the database as it is now to `target`; what is in it, from the same snapshot.

    Raises SnapshotFailed, FolderUnusable.
    """
    progress("copying", 0, 0)
    try:
        with _connect(source) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            (snapshot_id,) = _one(connection, "SELECT pg_export_snapshot()")
            _run(
                source,
                "pg_dump",
                "--format=custom",
                "--compress=0",
                "--no-owner",
                "--no-privileges",
                f"--lock-wait-timeout={_LOCK_MS}",
                f"--snapshot={snapshot_id}",
                f"--file={target}",
                failure=SnapshotFailed,
            )
            (revision,) = _one(connection, revision_sql)
            rows = connection.execute(owed_sql.encode()).fetchall()
            owed = [Owed(str(key), int(atoms)) for key, atoms in rows]
            return _counts(connection), str(revision), owed
    except psycopg.Error as error:
        raise SnapshotFailed(f"The database cannot be read: {_text(error)}.") from None


def check(dump: Path, server: Server | None, counts: Mapping[str, int], full: bool) -> str:
    """Read all of a dump, and load it into a database of its own on `server` if that may be
    made: its schema, or `full`y, with its rows counted. Says what was not done, or "".

    Raises BackupDamaged.
    """
    _run({}, "pg_restore", f"--file={os.devnull}", str(dump), failure=BackupDamaged)
    if server is None:
        return "Its schema was not loaded: there is no PostgreSQL server at hand."
    try:
        with _scratch(server) as scratch:
            part = [] if full else ["--schema-only"]
            _load(scratch, dump, BackupDamaged, *part)
            if full:
                with _connect(scratch) as connection:
                    if _counts(connection) != dict(counts):
                        raise BackupDamaged("The dump in this backup does not hold all its rows.")
    except psycopg.Error as error:
        return f"Its schema was not loaded: {_text(error)}."
    return ""


def restore(dump: Path, target: Server, room: Room) -> None:
    """Load a dump, wholly or not at all, into a database that has `room` for it; what a new node
    made there goes first. The table UNFINISHED is left to the caller. Raises DatabaseUnfit."""
    _clear(target, room)
    _load(target, dump, DatabaseUnfit, "--single-transaction")


@dataclass(frozen=True, slots=True)
class Room:
    """What a database may hold and still be taken for one that nobody uses: `tables`, of which
    only those `by_itself` have rows: a node fills them before anybody did anything with it."""

    tables: frozenset[str]
    by_itself: frozenset[str]


def require_room(target: Server, room: Room) -> list[str]:
    """The tables of a database that nobody uses; none where it is empty. Raises DatabaseUnfit when
    there is anything of worth in it, or no such database."""
    try:
        with _connect(target) as connection:
            return _unused(connection, room)
    except psycopg.Error as error:
        raise DatabaseUnfit(f"The PostgreSQL database cannot be used: {_text(error)}.") from None


def _unused(connection: psycopg.Connection[Any], room: Room) -> list[str]:
    names = [name for (name,) in connection.execute(_TABLES).fetchall()]
    worth = sorted(set(names) - room.tables)
    worth += [each for each in names if each not in room.by_itself and _any_row(connection, each)]
    if worth:
        raise DatabaseUnfit(
            "The PostgreSQL database to restore into is not empty. Make a new one, name it in"
            " FAREBOX_DATABASE_URL, and restore again; the old one stays as it is. (There is"
            f" something in: {', '.join(worth[:5])}.)"
        )
    return names


def _any_row(connection: psycopg.Connection[Any], table: str) -> bool:
    query = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table))
    return connection.execute(query).fetchone() is not None


def _clear(target: Server, room: Room) -> None:
    try:
        with _connect(target) as connection:
            connection.execute(f"SET lock_timeout = {_LOCK_MS}")
            for name in _unused(connection, room):
                drop = sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(name))
                connection.execute(drop)
            made = sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(UNFINISHED))
            connection.execute(made)
    except psycopg.Error as error:
        raise DatabaseUnfit(f"The PostgreSQL database cannot be used: {_text(error)}.") from None


def _load(target: Server, dump: Path, failure: type[Exception], *options: str) -> None:
    fixed = (
        "--exit-on-error",
        "--no-owner",
        "--no-privileges",
        f"--dbname={target.get('dbname', '')}",
    )
    _run(target, "pg_restore", *fixed, *options, str(dump), failure=failure)


@contextmanager
def _scratch(server: Server) -> Iterator[Server]:
    """A database for a moment. Raises psycopg.Error when the role may not make one."""
    name = f"farebox_check_{secrets.token_hex(6)}"
    with _connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield {**server, "dbname": name}
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def _connect(target: Server, autocommit: bool = False) -> psycopg.Connection[Any]:
    return psycopg.connect("", autocommit=autocommit, **cast(Any, dict(target)))


def _one(connection: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = connection.execute(query.encode()).fetchone()
    return tuple(row) if row else ("",)


def _counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    counts = {}
    for (name,) in connection.execute(_TABLES).fetchall():
        query = sql.SQL("SELECT COUNT(*) FROM {}").format(sql.Identifier(name))
        counts[name] = int(connection.execute(query).fetchone()[0])  # type: ignore[index]
    return counts


def _run(target: Server, program: str, *arguments: str, failure: type[Exception]) -> None:
    path = shutil.which(program)
    if path is None:
        raise FolderUnusable(
            f"{program} is not installed on this machine. Install PostgreSQL's client programs"
            " (on Debian and Ubuntu: apt-get install postgresql-client)."
        )
    names = variables()
    environment = os.environ | {names[key]: value for key, value in target.items() if key in names}
    done = subprocess.run(
        [path, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        why = lines[0] if lines else f"{program} ended with {done.returncode}"
        raise failure(f"{program} could not do its work: {why}")


def _text(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
