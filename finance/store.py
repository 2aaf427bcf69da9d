"""What money asks of a database: guarded writes that are durable together.

A `Batch` is applied as one transaction or not at all. Its writes name the number
of rows they must touch; when another process was quicker the count differs and
the whole batch is refused with `StoreConflict`. node.db.journal implements it.
Structs rather than dataclasses: several are made for each paid call, ten times quicker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, Engine
from sqlalchemy.sql.expression import Executable

from finance.errors import StoreConflict


class Write(msgspec.Struct, frozen=True):
    """One statement with its parameters; `rows` is the number it must touch (None: any).

    Reuse one statement object for all writes of a kind: the journal groups by identity.
    """

    statement: Executable
    params: Mapping[str, Any]
    rows: int | None = 1

    def make(self, connection: Connection) -> None:
        """In a transaction that is open already. Raises StoreConflict as a commit would."""
        # What an INSERT touched is forgotten otherwise where it gives its key back (PostgreSQL).
        counted = {"preserve_rowcount": True}
        done = connection.execute(self.statement, dict(self.params), execution_options=counted)
        touched = done.rowcount
        if self.rows not in (None, touched):
            raise StoreConflict("a guarded write found other values than it was decided on")


class Increment(msgspec.Struct, frozen=True):
    """Counters to add up in one row: an upsert whose `deltas` are summed per `key`.

    `statement` is an INSERT … ON CONFLICT DO UPDATE that adds; `key` holds its key
    columns, `deltas` its counters. Equal keys of one commit become one statement.
    """

    statement: Executable
    key: tuple[tuple[str, Any], ...]
    deltas: tuple[tuple[str, int], ...]


class Batch(msgspec.Struct, frozen=True):
    """Writes that become durable together or not at all."""

    writes: Sequence[Write]
    increments: Sequence[Increment] = ()


class Store(Protocol):
    """The journal, as finance sees it. `engine` is for all other reads, off the event loop."""

    engine: Engine

    async def commit(self, batch: Batch) -> None:
        """Return once `batch` is on disk. Raises StoreConflict if a guard did not hold."""
        ...

    async def first(self, query: Executable, params: Mapping[str, Any]) -> Sequence[Any] | None:
        """The first row of a short question that an index answers, quicker than by a thread of
        one's own. Raises SQLAlchemyError if the database cannot be asked."""
        ...


class Locks(Protocol):
    """Locks by number, of all processes (node.db.locks); its methods block."""

    def take(self, number: int) -> bool: ...

    def has(self, number: int) -> bool: ...

    def check(self) -> None: ...

    def give_back(self, number: int) -> None: ...

    def close(self) -> None: ...
