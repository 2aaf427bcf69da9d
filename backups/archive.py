"""Writing a backup: members to tar to zstd to age to disk, as one stream.

Nothing here grows with the database: whatever pulls at the end pulls a few kilobytes
through all of it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyrage
import zstandard

from backups.header import BackupKey, encode_header
from backups.keyring import manifest_mac
from backups.manifest import MAC_NAME, MANIFEST_NAME, Manifest, Member, encode_manifest
from backups.pace import Pacer
from backups.tape import Entry, TapeWriter

Progress = Callable[[str, int, int], None]
_LEVEL = 1  # of books, 3 makes no smaller file in twice the time
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Small:
    """A member that fits into memory: keystores and settings are read once, so that what is
    hashed is what is written."""

    name: str
    content: bytes

    @property
    def member(self) -> Member:
        return Member(self.name, len(self.content), hashlib.sha256(self.content).hexdigest())


def describe(path: Path, name: str) -> Member:
    """The member that a large file becomes; reads all of it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return Member(name, file.tell(), digest.hexdigest())


def write_archive(
    target: Path,
    key: BackupKey,
    identity: str,
    manifest: Manifest,
    smalls: Sequence[Small],
    database: Path,
    progress: Progress,
) -> int:
    """Write a whole backup to `target`, which must not exist, and have it on disk when this
    returns. Its size in bytes. Raises OSError; half a file is then left to the caller."""
    entries = _entries(manifest, identity, smalls, database, progress)
    tape = TapeWriter(entries, manifest.created_at)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    recipient = pyrage.x25519.Recipient.from_str(key.recipient)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(encode_header(key))
        with compressor.stream_reader(tape) as packed:  # type: ignore[arg-type]
            pyrage.encrypt_io(packed, _Paced(file), [recipient])
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _entries(
    manifest: Manifest,
    identity: str,
    smalls: Sequence[Small],
    database: Path,
    progress: Progress,
) -> list[Entry]:
    about = encode_manifest(manifest)
    mac = manifest_mac(identity, about).encode()
    first = [Small(MANIFEST_NAME, about), Small(MAC_NAME, mac), *smalls]
    last = manifest.database_member

    def open_database() -> BinaryIO:
        return _Counted(database, last.size, progress)

    return [
        *(Entry(each.name, len(each.content), _opener(each.content)) for each in first),
        Entry(last.name, last.size, open_database),
    ]


def _opener(content: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(content)


class _Paced:
    """A file that is put on disk in small portions while it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, file.tell()
        self._pacer = Pacer(file.fileno())

    def write(self, data: bytes) -> int:
        self._size += self._file.write(data)
        self._pacer.written(self._size)
        return len(data)

    def flush(self) -> None:
        self._file.flush()


class _Counted(io.FileIO):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, size: int, progress: Progress) -> None:
        super().__init__(path, "rb")
        self._size, self._done, self._progress = size, 0, progress

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(-1 if size is None else size)
        self._done += len(piece)
        self._progress("writing", self._done, self._size)
        return piece
