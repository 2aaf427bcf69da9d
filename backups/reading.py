"""Reading a backup: checked while it streams, believed only when it ended well.

The manifest comes first and is authenticated; every later byte is counted and hashed
against it. Nothing is taken into memory or onto disk beyond what it announced.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pyrage
import zstandard

from backups.archive import Progress
from backups.errors import BackupDamaged, FolderUnusable
from backups.header import BackupKey, read_header
from backups.keyring import manifest_mac, parse_identity, require_match
from backups.manifest import (
    MAC_NAME,
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Manifest,
    Member,
    decode_manifest,
)
from backups.pace import Pacer
from backups.tape import TapeReader

_MAX_WINDOW = 1 << 27  # what zstd itself takes without being asked
_MAC_BYTES = 64
_DAMAGED = "This backup is damaged or cut off. Use another backup."


def open_front(path: Path) -> BackupKey:
    """The key in front of a file. Raises NotABackup, BackupTooNew, BackupDamaged."""
    with _opened(path) as file:
        return read_header(file)


def read_manifest(path: Path, identity: str) -> Manifest:
    """What is inside, from the first few kilobytes; the rest is not looked at.

    Raises NotABackup, BackupTooNew, BackupDamaged.
    """
    contents = _Contents(identity, None, _silent, None)
    with suppress(_Enough):
        _stream(path, identity, contents)
    return contents.require_manifest()


def read_backup(
    path: Path,
    identity: str,
    into: Path,
    progress: Progress,
    accept: Callable[[Manifest], None],
) -> Manifest:
    """Check a whole backup and write its members below `into`, an empty folder.

    `accept` is asked once the manifest is known, before anything is written, and raises to
    refuse it. Raises NotABackup, BackupTooNew, BackupDamaged, OSError.
    """
    contents = _Contents(identity, into, progress, accept)
    _stream(path, identity, contents)
    return contents.finish()


def read_through(path: Path, identity: str, progress: Progress) -> Manifest:
    """Check a whole backup as `read_backup` does, and write nothing: for whoever has the same
    contents at hand. Raises NotABackup, BackupTooNew, BackupDamaged, OSError."""
    contents = _Contents(identity, Path(os.devnull), progress, lambda _: None, _nowhere)
    _stream(path, identity, contents)
    return contents.finish()


class _Enough(Exception):
    """The manifest was all that was wanted."""


class _Contents:
    """Receives members; compares each with the manifest."""

    def __init__(
        self,
        identity: str,
        into: Path | None,
        progress: Progress,
        accept: Callable[[Manifest], None] | None,
        create: Callable[[Path], _File] | None = None,
    ) -> None:
        self._identity, self._into = identity, into
        self._create = create or _OnDisk
        self._progress, self._accept = progress, accept
        self._manifest: Manifest | None = None
        self._about = b""
        self._expected: list[Member] = []
        self._name = ""
        self._seen = 0
        self._hash = hashlib.sha256()
        self._held = bytearray()
        self._file: _File | None = None

    def require_manifest(self) -> Manifest:
        if self._manifest is None:
            raise BackupDamaged(_DAMAGED)
        return self._manifest

    def finish(self) -> Manifest:
        """Raises BackupDamaged when members are missing."""
        manifest = self.require_manifest()
        if self._expected:
            raise BackupDamaged(_DAMAGED)
        return manifest

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, name: str, size: int) -> None:
        self._name, self._seen = name, 0
        self._hash = hashlib.sha256()
        self._held.clear()
        if self._manifest is None:
            self._begin_front(name, size)
            return
        expected = self._expected[0] if self._expected else None
        if expected is None or (expected.name, expected.size) != (name, size):
            raise BackupDamaged(f"This backup holds a file that has no place in it, {name}.")
        assert self._into is not None
        self._file = self._create(self._into / name)

    def _begin_front(self, name: str, size: int) -> None:
        expected = MAC_NAME if self._about else MANIFEST_NAME
        most = _MAC_BYTES if self._about else MAX_MANIFEST_BYTES
        if name != expected or not 0 < size <= most:
            raise BackupDamaged("This backup does not say what it holds. Use another backup.")

    def take(self, piece: bytes) -> None:
        if self._file is None:
            self._held += piece
            return
        self._hash.update(piece)
        self._file.write(piece)
        self._seen += len(piece)
        self._progress("reading", self._seen, self._expected[0].size)

    def end(self) -> None:
        if self._file is None:
            self._end_front()
            return
        self._file.finish()
        self._file = None
        expected = self._expected.pop(0)
        if self._hash.hexdigest() != expected.sha256:
            raise BackupDamaged(f"{expected.name} in this backup is not what was backed up.")

    def _end_front(self) -> None:
        if not self._about:
            self._about = bytes(self._held)
            return
        proof = manifest_mac(self._identity, self._about)
        if not hmac.compare_digest(proof.encode(), bytes(self._held)):
            raise BackupDamaged(
                "This backup was not written by whoever holds its key: somebody made it to look"
                " like yours. Do not use it."
            )
        self._manifest = decode_manifest(self._about)
        self._expected = list(self._manifest.members)
        if self._into is None:
            raise _Enough
        assert self._accept is not None
        self._accept(self._manifest)


def _stream(path: Path, identity: str, contents: _Contents) -> None:
    with _opened(path) as file:
        require_match(read_header(file), identity)
        reader = TapeReader(contents)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        sink = _Sink(unpacker.stream_writer(reader, closefd=False))  # type: ignore[arg-type]
        try:
            pyrage.decrypt_io(file, sink, [parse_identity(identity)])
            reader.finish()
        except (pyrage.DecryptError, zstandard.ZstdError):
            raise BackupDamaged(_DAMAGED) from None
        except OSError as error:
            if error.errno is None:  # age's own: a chunk that was changed, or is missing
                raise BackupDamaged(_DAMAGED) from None
            raise
        finally:
            contents.close()


class _Sink:
    """What pyrage writes to."""

    def __init__(self, unpacker: Any) -> None:
        self._unpacker = unpacker

    def write(self, data: bytes) -> int:
        self._unpacker.write(data)
        return len(data)

    def flush(self) -> None:
        """Members reach the disk one by one, see `_Contents.end`."""


@contextmanager
def _opened(path: Path) -> Any:
    try:
        file = path.open("rb")
    except OSError as error:
        raise FolderUnusable(f"{path} cannot be read: {error.strerror}.") from None
    with file:
        yield file


class _File(Protocol):
    """Where a member goes."""

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None:
        """All of it was written."""
        ...

    def close(self) -> None: ...


class _OnDisk:
    """A new file, on disk when it is finished."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file, self._size = os.fdopen(handle, "wb"), 0
        self._pacer = Pacer(handle)

    def write(self, piece: bytes) -> None:
        self._file.write(piece)
        self._size += len(piece)
        self._pacer.written(self._size)

    def finish(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()


class _Nowhere:
    """Forgets what it is given."""

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


def _nowhere(_path: Path) -> _File:
    return _Nowhere()


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody waits for this one."""
