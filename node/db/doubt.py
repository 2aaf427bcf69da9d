"""Whether a transaction was committed whose acknowledgement was lost.

A connection to PostgreSQL can break between a commit and the word of it. The number of the
transaction, asked for while it was open, tells afterwards; also after a restart of the server.
SQLite answers in the process itself.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from sqlalchemy import Engine, text
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError

# A server that restarts is back by then; commits wait for it behind the one in doubt.
ASK_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 0.1
_NUMBER: Final = "SELECT txid_current()"
_STATUS: Final = text("SELECT txid_status(:number)")


def number_in(cursor: DBAPICursor) -> int:
    """The number of the open transaction (PostgreSQL)."""
    cursor.execute(_NUMBER)
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def was_committed(engine: Engine, number: int) -> bool:
    """Ask until the server knows (blocking); False also if it does not say so in time."""
    until = time.monotonic() + ASK_SECONDS
    while True:
        with suppress(SQLAlchemyError), engine.connect() as connection:
            status = connection.scalar(_STATUS, {"number": number})
            if status in ("committed", "aborted"):
                return bool(status == "committed")
        if time.monotonic() >= until:
            return False
        time.sleep(_PAUSE_SECONDS)
