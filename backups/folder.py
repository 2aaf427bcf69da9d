"""Where backups lie: one folder, one writer at a time, no name before its file is good."""

from __future__ import annotations

import calendar
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backups.errors import BackupBusy, FolderUnusable

SUFFIX = ".farebox"
_LOCK = ".lock"
_WORK = ".work-"
_TAG = "backups.tag"
_SPARE_BYTES = 64 << 20
_STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"farebox-(\d{8}T\d{6}Z)-[a-z]+-([0-9a-f]{4})[0-9a-f]{4}\.farebox")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def file_name(at: int, reason: str, tag: str) -> str:
    """`farebox-20260102T030405Z-manual-1a2b3c4d.farebox`; sorts by time. 1a2b is the tag of whoever
    writes it."""
    stamp = time.strftime(_STAMP, time.gmtime(at))
    return f"farebox-{stamp}-{reason}-{tag}{secrets.token_hex(2)}{SUFFIX}"


def own_tag(data_dir: Path) -> str:
    """Four hex digits that stay those of a data directory. Raises FolderUnusable."""
    path = data_dir / _TAG
    try:
        if path.exists() and re.fullmatch("[0-9a-f]{4}", tag := path.read_text()):
            return tag
        path.write_text(tag := secrets.token_hex(2))
    except OSError as error:
        raise unusable(path, error) from None
    return tag


def tag_of(name: str) -> str:
    """Whose file it is, by a name that `file_name` gave; empty for every other name."""
    found = _NAME.fullmatch(name)
    return found[2] if found else ""


def time_of(name: str) -> int | None:
    """When a file was begun, by a name that `file_name` gave; None for every other name."""
    found = _NAME.fullmatch(name)
    try:
        return calendar.timegm(time.strptime(found[1], _STAMP)) if found else None
    except ValueError:
        return None


def prepare_folder(folder: Path) -> None:
    """Make it, for its owner only. Raises FolderUnusable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise FolderUnusable(
            f"{folder} cannot be written by this user. Give it the rights, or choose another"
            " folder in Settings > Backup."
        )


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Be its only writer, and clear away what a killed one left. Raises BackupBusy,
    FolderUnusable. The lock ends with the process."""
    prepare_folder(folder)
    try:
        handle = _lock(folder)
    except BlockingIOError:
        raise BackupBusy(
            "Another backup or check is running in this folder. Wait until it has ended."
        ) from None
    except OSError as error:
        raise unusable(folder, error) from None
    try:
        sweep(folder)
        yield
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    """A handle that keeps everybody else from it. Raises BlockingIOError while somebody has it."""
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def is_there(path: Path) -> bool:
    """Whether a file can be had now: a mount whose server is gone answers with errors, which
    `Path.is_file` passes on."""
    try:
        return path.is_file()
    except OSError:
        return False


def find(folder: Path, pattern: str) -> list[Path]:
    """What of a folder fits a pattern; nothing where it cannot be read."""
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


def remove(path: Path) -> None:
    """A file that may be gone already. Raises FolderUnusable where it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unusable(path, error) from None


def sweep(folder: Path) -> None:
    """Remove what was half done, by whoever is not at work on it any more."""
    for path in find(folder, f"{_WORK}*"):
        try:
            handle = _lock(path)
        except OSError:
            continue
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


@contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """A place for what is not finished, on the same file system; gone afterwards."""
    path = folder / f"{_WORK}{secrets.token_hex(8)}"
    try:
        path.mkdir(mode=0o700)
        handle = _lock(path)
    except OSError as error:
        raise unusable(folder, error) from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def require_space(folder: Path, wanted_bytes: int) -> None:
    """Raises FolderUnusable rather than to fill the disk under a running node."""
    free = shutil.disk_usage(folder).free
    if free < wanted_bytes + _SPARE_BYTES:
        raise FolderUnusable(
            f"There is not enough room in {folder}: {(wanted_bytes + _SPARE_BYTES) >> 20} MiB are"
            f" needed for a while, {free >> 20} MiB are free. Make room, or choose another folder."
        )


def place(finished: Path, target: Path) -> None:
    """Give a finished file its name; it is there whole or not at all, also after a crash."""
    os.rename(finished, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unusable(where: Path, error: OSError) -> FolderUnusable:
    """An operating system's refusal as a sentence."""
    if error.errno in _FULL:
        return FolderUnusable(
            f"The disk is full, or a file may not grow further, at {where}. Make room and try"
            " again; nothing that was there has been changed."
        )
    return FolderUnusable(f"{where} cannot be used: {error.strerror or error}.")
