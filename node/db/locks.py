"""What only one of the processes that share a PostgreSQL may have at a time.

A lock ends with its process's connection, so one that dies leaves none behind.
"""

from __future__ import annotations

import threading
from contextlib import suppress

from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

_TAKE = text("SELECT pg_try_advisory_lock(:number)")
_GIVE_BACK = text("SELECT pg_advisory_unlock(:number)")
_NOTHING = text("SELECT true WHERE :number = 0")
_IN_TURN = text("SELECT pg_advisory_xact_lock(1986359923)")  # "vers"


class Locks:
    """The advisory locks of one part of a process, all on one connection: users that each kept
    one of the pool while they wait for another would wait for each other. All methods block;
    a number is a signed integer of 64 bits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connection: Connection | None = None
        self._held: set[int] = set()
        self._turn = threading.Lock()

    def take(self, number: int) -> bool:
        """Whether the lock is ours now; not if somebody has it, be it in this process.
        Raises SQLAlchemyError."""
        with self._turn:
            # A session is given a lock it has once more.
            if number in self._held or not self._ask(_TAKE, number):
                return False
            self._held.add(number)
            return True

    def has(self, number: int) -> bool:
        """Whether it is ours, as of the last question."""
        return number in self._held

    def check(self) -> None:
        """Notice a connection that was lost, and all locks with it. Raises SQLAlchemyError then."""
        with self._turn:
            if self._connection is not None:
                self._ask(_NOTHING)

    def give_back(self, number: int) -> None:
        """Nothing happens to a lock that ended with its connection."""
        with self._turn:
            if number in self._held:
                self._held.discard(number)
                with suppress(SQLAlchemyError):
                    self._ask(_GIVE_BACK, number)

    def close(self) -> None:
        """Give back whatever is still held."""
        with self._turn:
            self._drop()

    def _ask(self, statement: TextClause, number: int = 0) -> bool:
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            return bool(self._connection.execute(statement, {"number": number}).scalar_one())
        except SQLAlchemyError:
            self._drop()
            raise

    def _drop(self) -> None:
        """The locks are gone with their connection; what they were held for runs on."""
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None:
            # Not into the pool: a session that lives on would keep the locks.
            with suppress(SQLAlchemyError):
                connection.invalidate()
            connection.close()


def number_in_turn(connection: Connection) -> None:
    """Have whoever else numbers a change wait for the end of this transaction: of two with one
    number, whoever follows changes would miss the one that is committed last. On SQLite every
    writer is alone."""
    if connection.dialect.name == "postgresql":
        connection.execute(_IN_TURN)


def locks_of(engine: Engine) -> Locks | None:
    """Locks where several processes may share the database: not on SQLite."""
    return Locks(engine) if engine.dialect.name == "postgresql" else None
