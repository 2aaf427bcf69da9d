"""Sums that have become quiet move from `call_rollup` to `call_history` and `call_total`.

`call_rollup` is what paid calls write; it stays as small as a few hours are. A row moves
whole: it is taken out of one table and added to the others in one transaction, so that
the tables together are right at every moment. A call that ends after its quarter-hour
moved begins a new row there, and the next run takes that along.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, delete, select
from sqlmodel import col

from node.db.engine import writer
from node.usage.calls import COUNTERS, SLOT_KEY, adding_to
from node.usage.models import CallRollup

QUIET_SECONDS = 2 * 3600
ROWS_AT_ONCE = 2000  # a few milliseconds of the write lock, which paid calls wait for

_TOTAL_KEY = ("side", "listing_id", "key_id")
_ADD_TO_HISTORY = adding_to("call_history", *SLOT_KEY)
_ADD_TO_TOTAL = adding_to("call_total", *_TOTAL_KEY)


def move_quiet_sums(engine: Engine, now: int) -> int:
    """Move what is older than two hours; the number of rows moved. Blocking; twice is
    harmless, and stopping between two transactions loses nothing."""
    moved = 0
    while rows := _move(engine, now - QUIET_SECONDS):
        moved += rows
    return moved


def _move(engine: Engine, before: int) -> int:
    with writer(engine).begin() as connection:
        statement = (
            delete(CallRollup)
            .where(col(CallRollup.slot) <= _bound(connection, before))
            .returning(*(getattr(CallRollup, name) for name in (*SLOT_KEY, *COUNTERS)))
        )
        rows = [dict(row) for row in connection.execute(statement).mappings()]
        if rows:
            # In one order everywhere, so that no two processes wait for each other.
            rows.sort(key=lambda row: tuple(row[name] for name in SLOT_KEY))
            connection.execute(_ADD_TO_HISTORY, rows)
            connection.execute(_ADD_TO_TOTAL, _per_total(rows))
    return len(rows)


def _bound(connection: Connection, before: int) -> int:
    """The last quarter-hour of one step."""
    quiet = select(col(CallRollup.slot)).where(col(CallRollup.slot) < before)
    last = quiet.order_by(col(CallRollup.slot)).offset(ROWS_AT_ONCE).limit(1)
    return before - 1 if (found := connection.scalar(last)) is None else found


def _per_total(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    sums: dict[tuple[object, ...], dict[str, object]] = {}
    for row in rows:
        key = tuple(row[name] for name in _TOTAL_KEY)
        found = sums.get(key)
        if found is None:
            sums[key] = {name: row[name] for name in (*_TOTAL_KEY, *COUNTERS)}
        else:
            for name in COUNTERS:
                found[name] += row[name]  # type: ignore[operator]
    return sorted(sums.values(), key=lambda row: [str(row[name]) for name in _TOTAL_KEY])
