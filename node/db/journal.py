"""Group commit: one writer thread that makes everything waiting durable at once.

Callers hand in a `Batch` and wait. The loop gathers them while more keep coming, because a
commit with sixteen batches costs what one costs. The thread takes all that is queued, writes
each kind of statement with one `executemany` of the driver, and commits once. If a guard
does not hold for the group, the group is rolled back and written again one batch at a
time, so that only the batch at fault is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from sqlalchemy import Engine, PoolProxiedConnection
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.expression import Executable

from finance.errors import StoreConflict, StoreUnavailable
from finance.store import Batch, Write
from node.db.doubt import number_in, was_committed
from node.db.lookup import Lookup
from node.db.statements import Statements

MAX_GROUP = 256
# How often the loop looks whether more batches have come before it hands them over: with
# each look it also reads its sockets. One caller alone is handed over after the first.
MAX_LOOKS = 4
# PostgreSQL undid the transaction, though nothing was wrong with it: deadlock_detected,
# serialization_failure. It always lets the other side through, so writing again ends.
_UNDONE = frozenset({"40P01", "40001"})


class _Outcome(asyncio.Future[None]):
    """Not cancelled together with whoever waits for it."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


class _Waiting(NamedTuple):
    batch: Batch
    loop: asyncio.AbstractEventLoop
    future: _Outcome


class Journal:
    """The one writer of a process. `commit` returns once the batch is on disk."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Taken at once: a reader that wants to become a writer could fail half-way.
        self._begin = "BEGIN IMMEDIATE" if engine.dialect.name == "sqlite" else None
        self._connection: PoolProxiedConnection | None = None
        self._statements = Statements(engine.dialect)
        self._lookup = Lookup(engine)
        dbapi = engine.dialect.loaded_dbapi
        self._database_error: type[Exception] = dbapi.Error
        self._integrity_error: type[Exception] = dbapi.IntegrityError
        self._batch_errors = (dbapi.DataError, dbapi.InterfaceError, dbapi.ProgrammingError)
        self._queue: SimpleQueue[list[_Waiting] | None] = SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._closed = False
        self._thread.start()

    async def commit(self, batch: Batch) -> None:
        """Apply `batch` durably. Raises StoreConflict (a guard did not hold, nothing was
        written) or StoreUnavailable (the database refused; nothing was written). Who is
        cancelled meanwhile learns that first, and is cancelled where it waits next: what it
        does in between keeps its memory equal to its books."""
        if self._closed:
            raise StoreUnavailable("the journal is closed: the node is shutting down")
        loop = asyncio.get_running_loop()
        future = _Outcome(loop=loop)
        gathered = self._gathered.get(loop)
        if gathered is None:
            gathered = self._gathered[loop] = []
            loop.call_soon(self._look, loop, 0, 0)
        gathered.append(_Waiting(batch, loop, future))
        try:
            await future
        except asyncio.CancelledError:
            _cancel_later()
            future.result()

    async def first(self, query: Executable, params: Mapping[str, Any]) -> Sequence[Any] | None:
        return await self._lookup.first(query, params)

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._closed = True
        for loop in list(self._gathered):
            self._hand_over(loop)
        self._queue.put(None)
        self._thread.join()
        self._lookup.close()
        if self._connection is not None:
            self._connection.close()

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int, looks: int) -> None:
        """Hand over once no more have come since the last look."""
        found = len(self._gathered.get(loop, ()))
        if found > max(seen, 1) and looks < MAX_LOOKS:
            loop.call_soon(self._look, loop, found, looks + 1)
        else:
            self._hand_over(loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        gathered = self._gathered.pop(loop, None)
        if gathered:
            self._queue.put(gathered)

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, stop = self._take(first)
            _answer(group, self._apply([waiting.batch for waiting in group]))
            if stop:
                return

    def _take(self, group: list[_Waiting]) -> tuple[list[_Waiting], bool]:
        while len(group) < MAX_GROUP:
            try:
                gathered = self._queue.get_nowait()
            except Empty:
                break
            if gathered is None:
                return group, True
            group.extend(gathered)
        return group, False

    def _apply(self, batches: Sequence[Batch]) -> list[Exception | None]:
        """Write all batches in one transaction; one outcome per batch."""
        try:
            self._write(batches)
            return [None] * len(batches)
        except (StoreConflict, self._integrity_error) as error:
            if len(batches) == 1:
                return [_conflict(error)]
        except self._batch_errors as error:
            # A value that no column takes: the fault of one batch.
            if len(batches) == 1:
                return [StoreUnavailable(f"the database refused: {error}")]
        except (SQLAlchemyError, self._database_error) as error:
            if getattr(error, "sqlstate", None) in _UNDONE:
                return self._apply(batches)
            return [StoreUnavailable(f"the database refused: {error}")] * len(batches)
        except Exception as error:
            # A parameter that is missing, say; the thread must outlive it.
            if len(batches) == 1:
                return [error]
        return [outcome for batch in batches for outcome in self._apply([batch])]

    def _write(self, batches: Sequence[Batch]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self.engine.raw_connection()
        number = None
        try:
            with closing(connection.cursor()) as cursor:
                if self._begin is not None:
                    cursor.execute(self._begin)
                self._write_rows(cursor, batches)
                if self._begin is None:
                    number = number_in(cursor)
        except Exception as error:
            self._undo(connection, error)
            raise
        self._make_durable(connection, number)

    def _make_durable(self, connection: PoolProxiedConnection, number: int | None) -> None:
        """Commit. What was committed before its connection broke has been written."""
        try:
            connection.commit()
        except Exception as error:
            self._undo(connection, error)
            if number is None or not was_committed(self.engine, number):
                raise

    def _undo(self, connection: PoolProxiedConnection, error: Exception) -> None:
        try:
            connection.rollback()
        except self._database_error:
            pass
        else:
            if not isinstance(error, self._database_error) or isinstance(
                error, self._integrity_error
            ):
                return
        # Whatever broke it may have broken the connection.
        connection.invalidate()
        self._connection = None

    def _write_rows(self, cursor: DBAPICursor, batches: Sequence[Batch]) -> None:
        for statement, writes in _by_statement(batches):
            names = tuple(writes[0].params)
            sql, rows = self._statements.bind(statement, names, [w.params for w in writes])
            cursor.executemany(sql, rows)
            if writes[0].rows is None:
                continue
            if cursor.rowcount != sum(write.rows or 0 for write in writes):
                raise StoreConflict("a guarded write found other values than it was decided on")
        for statement, totals in _sums(batches):
            sql, rows = self._statements.bind(statement, tuple(totals), [totals])
            cursor.execute(sql, rows[0])


def _by_statement(batches: Sequence[Batch]) -> Iterable[tuple[Executable, list[Write]]]:
    """Writes of one kind together, kinds in the order in which they first appear. Those that
    may touch any number of rows stay apart from those that are counted."""
    groups: dict[tuple[int, bool, tuple[str, ...]], list[Write]] = {}
    for batch in batches:
        for write in batch.writes:
            key = (id(write.statement), write.rows is None, tuple(write.params))
            groups.setdefault(key, []).append(write)
    return [(writes[0].statement, writes) for writes in groups.values()]


def _sums(batches: Sequence[Batch]) -> Iterable[tuple[Executable, dict[str, Any]]]:
    """Increments of one row added up."""
    sums: dict[tuple[int, tuple[tuple[str, Any], ...]], tuple[Executable, dict[str, Any]]] = {}
    for batch in batches:
        for increment in batch.increments:
            key = (id(increment.statement), increment.key)
            found = sums.get(key)
            if found is None:
                totals = {**dict(increment.key), **dict(increment.deltas)}
                sums[key] = (increment.statement, totals)
            else:
                for name, delta in increment.deltas:
                    found[1][name] = found[1].get(name, 0) + delta
    return sums.values()


def _conflict(error: Exception) -> StoreConflict:
    if isinstance(error, StoreConflict):
        return error
    return StoreConflict(f"a row with this key exists already: {error}")


def _answer(group: Sequence[_Waiting], outcomes: Sequence[Exception | None]) -> None:
    """Wake the callers, once per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Outcome, Exception | None]]]
    by_loop = defaultdict(list)
    for waiting, outcome in zip(group, outcomes, strict=True):
        by_loop[waiting.loop].append((waiting.future, outcome))
    for loop, results in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: Sequence[tuple[_Outcome, Exception | None]]) -> None:
    for future, error in results:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _cancel_later() -> None:
    """Have the running task cancelled where it waits next."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(_cancel_again, task)


def _cancel_again(task: asyncio.Task[object]) -> None:
    """As the one cancellation that was asked for; not if it was taken back meanwhile, by a time
    limit around all that was to be done."""
    if task.cancelling():
        task.uncancel()
        task.cancel()
