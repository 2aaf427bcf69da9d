"""Group commit: one writer thread that makes everything waiting durable at once.

Callers hand in a `Batch` and wait. The thread takes all that is queued, writes each
kind of statement with one `executemany`, and commits once; a commit with sixteen
batches costs what one costs. If a guard does not hold for the group, the group is
rolled back and written again one batch at a time, so that only the batch at fault
is refused.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from finance.errors import StoreConflict, StoreUnavailable
from finance.store import Batch, Increment, Write
from node.db.engine import writer

MAX_GROUP = 256


class _Waiting(NamedTuple):
    batch: Batch
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Journal:
    """The one writer of a process. `commit` returns once the batch is on disk."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writer = writer(engine)
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._closed = False
        self._thread.start()

    async def commit(self, batch: Batch) -> None:
        """Apply `batch` durably. Raises StoreConflict (a guard did not hold, nothing was
        written) or StoreUnavailable (the database refused; nothing was written)."""
        if self._closed:
            raise StoreUnavailable("the journal is closed: the node is shutting down")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._queue.put(_Waiting(batch, loop, future))
        # A caller that is cancelled stops waiting; its batch is written all the same.
        await asyncio.shield(future)

    def close(self) -> None:
        """Write what is queued, then stop."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, stop = self._take(first)
            _answer(group, self._apply([waiting.batch for waiting in group]))
            if stop:
                return

    def _take(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                waiting = self._queue.get_nowait()
            except Empty:
                break
            if waiting is None:
                return group, True
            group.append(waiting)
        return group, False

    def _apply(self, batches: Sequence[Batch]) -> list[Exception | None]:
        """Write all batches in one transaction; one outcome per batch."""
        try:
            with self._writer.begin() as connection:
                _write(connection, batches)
            return [None] * len(batches)
        except (StoreConflict, IntegrityError) as error:
            if len(batches) == 1:
                return [_conflict(error)]
        except SQLAlchemyError as error:
            return [StoreUnavailable(f"the database refused: {error}")] * len(batches)
        return [outcome for batch in batches for outcome in self._apply([batch])]


def _write(connection: Connection, batches: Sequence[Batch]) -> None:
    writes: dict[int, list[Write]] = defaultdict(list)
    sums: dict[tuple[int, tuple[tuple[str, Any], ...]], list[Increment]] = defaultdict(list)
    for batch in batches:
        for write in batch.writes:
            writes[id(write.statement)].append(write)
        for increment in batch.increments:
            sums[id(increment.statement), increment.key].append(increment)
    for same in writes.values():
        _write_same(connection, same)
    for (_, key), increments in sums.items():
        totals: dict[str, Any] = dict(key)
        for increment in increments:
            for name, delta in increment.deltas:
                totals[name] = totals.get(name, 0) + delta
        connection.execute(increments[0].statement, totals)


def _write_same(connection: Connection, writes: Sequence[Write]) -> None:
    result = connection.execute(writes[0].statement, [dict(write.params) for write in writes])
    expected = [write.rows for write in writes]
    if None not in expected and result.rowcount != sum(rows or 0 for rows in expected):
        raise StoreConflict("a guarded write found other values than it was decided on")


def _conflict(error: Exception) -> StoreConflict:
    if isinstance(error, StoreConflict):
        return error
    return StoreConflict(f"a row with this key exists already: {error}")


def _answer(group: Sequence[_Waiting], outcomes: Sequence[Exception | None]) -> None:
    """Wake the callers, once per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[None], Exception | None]]]
    by_loop = defaultdict(list)
    for waiting, outcome in zip(group, outcomes, strict=True):
        by_loop[waiting.loop].append((waiting.future, outcome))
    for loop, results in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_resolve, results)


def _resolve(results: Sequence[tuple[asyncio.Future[None], Exception | None]]) -> None:
    for future, error in results:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
