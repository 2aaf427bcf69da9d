"""Large files reach the disk in small portions.

Left to the system, gigabytes of ours are written at some moment of its choosing, and whoever
waits for a few kilobytes of their own to be on disk, as every paid call does, waits behind them.
"""

from __future__ import annotations

import ctypes
import os

PORTION_BYTES = 2 << 20
# SYNC_FILE_RANGE_…: what is on its way, then the rest, until it is there.
_WRITE_AND_WAIT = 1 | 2 | 4


class Pacer:
    """Told how far a file was written, it has every portion on disk before the next."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._done = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def written(self, size: int) -> None:
        """`size` bytes from the beginning are written. Raises OSError."""
        if size - self._done < PORTION_BYTES:
            return
        self._push(self._done, size - self._done)
        self._done = size

    def _push(self, offset: int, length: int) -> None:
        if hasattr(self._libc, "sync_file_range"):
            start, count = ctypes.c_int64(offset), ctypes.c_int64(length)
            self._libc.sync_file_range(self._handle, start, count, _WRITE_AND_WAIT)
        else:
            os.fdatasync(self._handle)
