"""Sums that have become quiet move from `call_rollup` to the tables of the time before.

`call_rollup` is what paid calls write; it stays as small as a few hours are. A row moves
whole: it is taken out of one table and added to the others in one transaction, so that
the tables together are right at every moment. A call that ends after its quarter-hour
moved begins a new row there, and the next run takes that along.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Engine, delete, select, tuple_
from sqlmodel import col

from node.db.engine import GAP_SECONDS, writer
from node.durations import HOUR
from node.usage.calls import COUNTERS, ROLLUP_KEY, SLOT_KEY, adding_to
from node.usage.models import CallRollup, Side

QUIET_SECONDS = 2 * 3600
# Paid calls wait for the write lock. A step of so many takes 8 ms of one processor, one of 2000
# takes 60; beside them a commit on a busy machine took 26 ms at the 90th percentile, and 610 ms
# with steps of 2000 and no gap between them.
ROWS_AT_ONCE = 100

_TOTAL_KEY = ("side", "listing_id", "key_id")
_HOUR_KEY = ("side", "key_id", "hour", "listing_id", "route", "status")
_ADD_TO_HISTORY = adding_to("call_history", *SLOT_KEY)
_ADD_TO_TOTAL = adding_to("call_total", *_TOTAL_KEY)
_ADD_TO_HOURS = adding_to("usage_hour", *_HOUR_KEY)
_KEY: Final[Any] = [getattr(CallRollup, name) for name in ROLLUP_KEY]

_Row = Mapping[str, Any]


def move_quiet_sums(engine: Engine, now: int, gap_seconds: float = GAP_SECONDS) -> int:
    """Move what is older than two hours; the number of rows moved. Blocking; twice is
    harmless, and stopping between two transactions loses nothing."""
    moved = 0
    while rows := _move(engine, now - QUIET_SECONDS):
        moved += rows
        if rows == ROWS_AT_ONCE:
            time.sleep(gap_seconds)
    return moved


def _move(engine: Engine, before: int) -> int:
    with writer(engine).begin() as connection:
        statement = (
            delete(CallRollup)
            .where(*_some(connection, before))
            .returning(*_KEY, *(getattr(CallRollup, name) for name in COUNTERS))
        )
        rows = [dict(row) for row in connection.execute(statement).mappings()]
        if rows:
            plain = [_without_customer(row) for row in rows]
            connection.execute(_ADD_TO_HISTORY, _added(plain, SLOT_KEY))
            connection.execute(_ADD_TO_TOTAL, _added(plain, _TOTAL_KEY))
            hours = [{**row, "hour": row["slot"] - row["slot"] % HOUR} for row in rows]
            connection.execute(_ADD_TO_HOURS, _added(hours, _HOUR_KEY))
    return len(rows)


def _some(connection: Connection, before: int) -> list[ColumnElement[bool]]:
    """The rows of one step: those that come first among the quiet ones."""
    quiet = (col(CallRollup.slot) < before) & col(CallRollup.side).in_(list(Side))
    keys = select(*_KEY).where(quiet).order_by(*_KEY)
    last = connection.execute(keys.offset(ROWS_AT_ONCE - 1).limit(1)).first()
    return [quiet] if last is None else [quiet, tuple_(*_KEY) <= tuple_(*last)]


def _without_customer(row: _Row) -> _Row:
    """Customers are without number: the sums of the first pages stay as small as listings are."""
    return {**row, "key_id": ""} if row["side"] == Side.SERVED else row


def _added(rows: Iterable[_Row], key: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the same key added up, in one order everywhere, so that no two processes wait
    for each other."""
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        of = tuple(row[name] for name in key)
        found = sums.get(of)
        if found is None:
            sums[of] = {name: row[name] for name in (*key, *COUNTERS)}
        else:
            for name in COUNTERS:
                found[name] += row[name]
    return [sums[of] for of in sorted(sums)]
