"""Which of the processes that share a database are alive, told by a lock each of them holds.

What a process reserves carries its number. On PostgreSQL the number is an advisory lock
that ends with the process's connection, however it died. On SQLite the data directory has
one node: whatever has another number was left by one that is gone.
"""

from __future__ import annotations

import secrets
from collections.abc import Set
from contextlib import suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

_SPACE = 0x66617270  # "farp"
_LOCK = text("SELECT pg_try_advisory_lock(:space, :number)")
_STILL_THERE = text("SELECT 1")
_ALIVE = text(
    "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted"
    " AND classid::bigint = :space AND objsubid = 2"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Presence:
    """This process among the others. All methods block; call them off the event loop."""

    def __init__(self, engine: Engine) -> None:
        self.number = secrets.randbelow(2**31 - 1) + 1
        self.shared = engine.dialect.name == "postgresql"
        self._engine = engine
        self._connection: Connection | None = None

    def show(self) -> None:
        """Take the lock, or take it again after a connection broke. Raises SQLAlchemyError."""
        if not self.shared:
            return
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.execute(_STILL_THERE)
                return
            self.leave()
        autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connection = autocommit.connect()
        # False while the database has not noticed yet that the old connection broke; the
        # lock then still speaks for us.
        self._connection.execute(_LOCK, {"space": _SPACE, "number": self.number})

    def leave(self) -> None:
        """Give the lock back with its connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not into the pool: a session that lives on would keep the lock.
            with suppress(SQLAlchemyError):
                connection.invalidate()
            connection.close()

    def departed(self, numbers: Set[int]) -> Set[int]:
        """Those of `numbers` whose process is gone. Raises SQLAlchemyError."""
        others = numbers - {self.number}
        if not self.shared or not others:
            return others
        with self._engine.connect() as connection:
            return others - set(connection.execute(_ALIVE, {"space": _SPACE}).scalars())
