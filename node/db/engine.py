"""The database connection: SQLite on one machine, PostgreSQL when one is not enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

# Between the steps of long work that writes. SQLite lets those who wait for its write lock look
# again every 25 ms at first: a shorter gap they would often miss.
GAP_SECONDS = 0.05
DATABASE_NAME = "farebox.db"  # of the file in a data directory


def sqlite_url(path: Path) -> str:
    """The address of a database in a file, whatever its folder is called."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def open_engine(url: str) -> Engine:
    """An engine for `url`. On SQLite every commit is on disk before it returns.

    Transactions that write must be begun on `writer(engine)`, so that SQLite takes its
    write lock at once instead of failing half-way when a reader wants to become a writer.
    """
    if url.startswith("sqlite"):
        engine = create_engine(url)
    else:
        # As many as the threads that look something up at once, and those that keep one:
        # the journal, the leases of the jobs, the sign of life.
        engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=30)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _configure_postgres)
    return engine


def writer(engine: Engine) -> Engine:
    """The same pool, for transactions that write."""
    return engine.execution_options(write=True)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours, see _begin_sqlite
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_postgres(connection: Any, _record: Any) -> None:
    """Questions are short, and asked many times: to start workers for one, or to compile it,
    takes longer than its answer."""
    with connection.cursor() as cursor:
        cursor.execute("SET jit = off")
        cursor.execute("SET max_parallel_workers_per_gather = 0")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
