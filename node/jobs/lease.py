"""One holder per job at a time, so that a job started twice runs once.

On PostgreSQL many processes may share a database: the holder of an advisory lock
runs the job, the others pass. On SQLite the data directory has one node, and the
scheduler starts no job that is still running.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from node.db.locks import locks_of

_SPACE = 0x66617265  # "fare"


class Leases:
    """The leases of one process."""

    def __init__(self, engine: Engine) -> None:
        self._locks = locks_of(engine)

    @contextmanager
    def lease(self, job: str) -> Iterator[bool]:
        """Whether this process may run `job` now; held until the block ends. Blocks for a
        round trip to the database. Raises SQLAlchemyError."""
        if self._locks is None:
            yield True
            return
        number = _SPACE << 32 | zlib.crc32(job.encode())
        if not self._locks.take(number):
            yield False
            return
        try:
            yield True
        finally:
            self._locks.give_back(number)

    def close(self) -> None:
        """Give back whatever is still held."""
        if self._locks is not None:
            self._locks.close()
