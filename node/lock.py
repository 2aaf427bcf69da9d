"""One node per data directory, and per file of SQLite: two of them would sign against each
other's books, and each would take what the other is doing for left by one that is gone."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from node.db.engine import DATABASE_NAME
from node.errors import AlreadyRunning, DataDirUnusable

FILE_NAME = "node.lock"


class DataDirLock:
    """The lock a node holds while it runs; its file says where the node listens."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Write what other commands need to know (pid, addresses)."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(facts).encode(), 0)


@contextmanager
def hold_data_dir(data_dir: Path) -> Iterator[DataDirLock]:
    """Hold the directory for this process. Raises AlreadyRunning or DataDirUnusable."""
    prepare_data_dir(data_dir)
    with _held(data_dir / FILE_NAME) as handle:
        if handle is None:
            pid = running_node(data_dir).get("pid", "unknown")
            raise AlreadyRunning(
                f"Another node (process {pid}) is running on {data_dir}. Stop it first, or give"
                " this one its own directory with FAREBOX_DATA_DIR."
            )
        lock = DataDirLock(handle)
        try:
            lock.describe({"pid": os.getpid()})  # and no more addresses of one that was killed
            yield lock
        finally:
            os.ftruncate(handle, 0)


@contextmanager
def hold_database(url: str, data_dir: Path) -> Iterator[None]:
    """Hold a file of SQLite for the process that holds `data_dir`; PostgreSQL is for many. Raises
    AlreadyRunning or DataDirUnusable."""
    database = make_url(url)
    path = Path(database.database or "").resolve()
    # A data directory's own is held with it, also against who comes from another one.
    lock = path.with_name(FILE_NAME if path.name == DATABASE_NAME else f"{path.name}.lock")
    if database.get_backend_name() != "sqlite" or lock == data_dir.resolve() / FILE_NAME:
        yield
        return
    with _held(lock) as handle:
        if handle is None:
            raise AlreadyRunning(
                f"Another node is running on {path}. A file of SQLite is for one process: stop"
                " that one, or set FAREBOX_DATABASE_URL to a database of this node's own."
            )
        yield


@contextmanager
def _held(path: Path) -> Iterator[int | None]:
    """The file, locked for this process; None where another has it. Raises DataDirUnusable."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(f"{path} cannot be written: {error.strerror}.") from error
    try:
        yield handle if _take(handle) else None
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    """Whether the lock is ours now. Whoever only asks, as `running_node`, is waited for."""
    while not _flock(handle, fcntl.LOCK_EX):
        if not _flock(handle, fcntl.LOCK_SH):
            return False
        fcntl.flock(handle, fcntl.LOCK_UN)
        time.sleep(0.001)
    return True


def _flock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def prepare_data_dir(data_dir: Path) -> None:
    """Make the directory, for its owner only. Raises DataDirUnusable."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataDirUnusable(f"{data_dir} cannot be made: {error.strerror}.") from error
    if not os.access(data_dir, os.W_OK | os.X_OK):
        raise DataDirUnusable(
            f"{data_dir} cannot be written by this user. Give it the rights, or choose another"
            " directory with FAREBOX_DATA_DIR."
        )


def running_node(data_dir: Path) -> dict[str, Any]:
    """What the node running on this directory says of itself: no addresses before it serves;
    empty when none runs."""
    try:
        with (data_dir / FILE_NAME).open("rb") as file:
            if not _flock(file.fileno(), fcntl.LOCK_SH):
                facts = json.loads(file.read() or b"{}")
                return facts if isinstance(facts, dict) else {}
    except (OSError, ValueError):
        pass
    return {}
