"""Two folders trade places in one step of the file system, or none does."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from backups.errors import FolderUnusable
from backups.folder import sync_folder, unusable

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_NOT_OFFERED = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}


def swap_in(new: Path, target: Path, kept: Path) -> None:
    """`new` becomes `target`; what was there becomes `kept`, which must not exist.

    Killed at any moment, `target` is the old folder or the new one, whole. Raises
    FolderUnusable with everything as it was.
    """
    try:
        if not target.exists():
            os.rename(new, target)
        elif _exchange(new, target):
            _keep(new, target, kept)
        else:
            _in_turn(new, target, kept)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise FolderUnusable(
                f"{target} is a file system of its own and cannot be swapped. Restore into a"
                f" folder inside it, e.g. FAREBOX_DATA_DIR={target / 'node'}."
            ) from None
        raise unusable(target, error) from None
    sync_folder(target.parent)


def _keep(old: Path, target: Path, kept: Path) -> None:
    """The old folder stands where the new one was made, from where callers remove what failed."""
    try:
        sync_folder(target.parent)
        os.rename(old, kept)
    except OSError:
        _exchange(old, target)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Whether this system can do it, and did."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_OFFERED:
        return False
    raise OSError(code, os.strerror(code))


def _in_turn(new: Path, target: Path, kept: Path) -> None:
    """Where folders cannot trade places: for a moment there is none under the name."""
    os.rename(target, kept)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(kept, target)
        raise
