"""One holder per job at a time, so that a job started twice runs once.

On PostgreSQL many processes may share a database: the holder of an advisory lock
runs the job, the others pass. On SQLite the data directory has one node, and the
scheduler starts no job that is still running.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text

_SPACE = 0x66617265  # "fare"


@contextmanager
def lease(engine: Engine, job: str) -> Iterator[bool]:
    """Whether this process may run `job` now; held until the block ends.

    Blocks for a round trip to the database. The lock ends with the connection, so a
    process that dies leaves no lease behind.
    """
    if engine.dialect.name != "postgresql":
        yield True
        return
    key = {"space": _SPACE, "job": zlib.crc32(job.encode()) - 2**31}
    with engine.connect() as connection:
        held = connection.execute(text("SELECT pg_try_advisory_lock(:space, :job)"), key)
        if not held.scalar_one():
            yield False
            return
        try:
            yield True
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:space, :job)"), key)
