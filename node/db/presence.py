"""Which of the processes that share a database are alive, told by a lock each of them holds.

What a process reserves carries its number. On PostgreSQL the number is an advisory lock
that ends with the process's connection, however it died. A server that restarts ends the
connections of the living, too: who is missing has a while to show itself again before it
counts as gone. On SQLite the data directory has one node: whatever has another number was
left by one that is gone.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Set
from contextlib import suppress

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

# How long a process that is missing may live: each shows itself every 15 seconds or more often.
GONE_SECONDS = 30.0

_SPACE = 0x66617270  # "farp"
_LOCK = text("SELECT pg_try_advisory_lock(:space, :number)")
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
        self._missing: dict[int, float] = {}  # since when, on the monotonic clock
        self._shown = time.monotonic()

    def show(self) -> None:
        """Take the lock, or take it again after a connection broke. Raises SQLAlchemyError."""
        if not self.shared:
            return
        now = time.monotonic()
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._lock(self._connection)
                self._shown = now
                return
            self.leave()
        autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connection = autocommit.connect()
        self._lock(self._connection)
        self._shown = now

    @property
    def doubted(self) -> bool:
        """Whether this process has not shown itself for so long that others may count it as
        gone, and have what it held."""
        return self.shared and time.monotonic() - self._shown >= GONE_SECONDS

    def leave(self) -> None:
        """Give the lock back with its connection."""
        self._missing.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not into the pool: a session that lives on would keep the lock.
            with suppress(SQLAlchemyError):
                connection.invalidate()
            connection.close()

    def missing(self, numbers: Set[int]) -> Set[int]:
        """Those of `numbers` whose process is not to be seen now. Raises SQLAlchemyError."""
        others = numbers - {self.number}
        if not self.shared or not others:
            return others
        return others - self._alive()

    def departed(self, numbers: Set[int]) -> Set[int]:
        """Those of `numbers` whose process is gone: missing at two looks, GONE_SECONDS apart.
        Raises SQLAlchemyError."""
        others = numbers - {self.number}
        if not self.shared or not others:
            return others
        alive, now = self._alive(), time.monotonic()
        if self.number not in alive:
            # What ended our lock may have ended theirs.
            self._missing.clear()
            return set()
        for number in others & alive:
            self._missing.pop(number, None)
        since = {each: self._missing.setdefault(each, now) for each in others - alive}
        return {each for each, at in since.items() if now - at >= GONE_SECONDS}

    def _lock(self, connection: Connection) -> None:
        """Asked each time, and given once more to a session that has it: while the database has
        not noticed that an old connection broke, that one has the lock, and speaks for us."""
        connection.execute(_LOCK, {"space": _SPACE, "number": self.number})

    def _alive(self) -> Set[int]:
        return alive(self._engine)


def alive(engine: Engine) -> Set[int]:
    """The numbers of all processes that are to be seen on PostgreSQL (blocking). Raises
    SQLAlchemyError."""
    with engine.connect() as connection:
        return set(connection.execute(_ALIVE, {"space": _SPACE}).scalars())
