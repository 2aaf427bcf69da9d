"""Deleting what is old, a little at a time: paid calls wait for the same write lock."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, Engine, delete, select

from node.db.engine import GAP_SECONDS, writer

ROWS_AT_ONCE = 1000  # a few milliseconds each


def sweep(engine: Engine, key: Any, old: ColumnElement[bool], at_once: int | None = None) -> int:
    """Delete the rows for which `old` holds, by their `key` (a column), so many at once; how many
    (blocking). Stopping half-way leaves the rest to the next run."""
    at_once, swept = at_once or ROWS_AT_ONCE, 0
    while True:
        some = select(key).where(old).limit(at_once)
        with writer(engine).begin() as connection:
            deleted = connection.execute(delete(key.class_).where(key.in_(some))).rowcount
        swept += deleted
        if deleted < at_once:
            return swept
        time.sleep(GAP_SECONDS)
