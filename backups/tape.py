"""A tar archive as a stream, both ways, and nothing of tar that a backup does not need.

Members are regular files with short names, in a known order. The reader refuses all
else, so that no header can make it read without bounds or write outside its folder.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from backups.errors import BackupDamaged

BLOCK = 512
_CHUNK = 1 << 20
_END_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to write: `size` bytes that `open` gives."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


class TapeWriter:
    """A readable stream of the archive: for whoever compresses or encrypts it."""

    def __init__(self, entries: Iterable[Entry], at: int) -> None:
        self._pieces = filter(None, _pieces(entries, at))
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; empty at the end."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
        if size < 0:
            size = len(self._rest)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


def _pieces(entries: Iterable[Entry], at: int) -> Iterator[bytes]:
    for entry in entries:
        info = tarfile.TarInfo(entry.name)
        info.size, info.mtime, info.mode = entry.size, at, 0o600
        yield info.tobuf(tarfile.GNU_FORMAT)
        left = entry.size
        with entry.open() as file:
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise OSError(f"{entry.name} became shorter while it was read")
                left -= len(piece)
                yield piece
        yield b"\0" * (-entry.size % BLOCK)
    yield b"\0" * (BLOCK * _END_BLOCKS)


class Receiver(Protocol):
    """Takes members one after the other; raises BackupDamaged for what has no place."""

    def begin(self, name: str, size: int) -> None: ...

    def take(self, piece: bytes) -> None: ...

    def end(self) -> None: ...


class TapeReader:
    """Write the archive into it piece by piece; `finish` says whether it was whole."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._header = bytearray()
        self._left = 0
        self._padding = 0
        self._ended = False

    def write(self, data: bytes | memoryview) -> int:
        """Take a piece of any length. Raises BackupDamaged."""
        view = memoryview(data)
        while view:
            if self._ended:
                self._require_zeros(bytes(view))
                break
            view = view[self._step(view) :]
        return len(data)

    def finish(self) -> None:
        """Raises BackupDamaged unless the archive ended where it may."""
        if not self._ended or self._left or self._padding:
            raise BackupDamaged("This backup is cut off. Use another backup.")

    def _step(self, view: memoryview) -> int:
        if self._left:
            piece = view[: self._left]
            self._left -= len(piece)
            self._receiver.take(bytes(piece))
            if not self._left:
                self._receiver.end()
            return len(piece)
        if self._padding:
            piece = view[: self._padding]
            self._require_zeros(bytes(piece))
            self._padding -= len(piece)
            return len(piece)
        piece = view[: BLOCK - len(self._header)]
        self._header += piece
        if len(self._header) == BLOCK:
            self._take_header(bytes(self._header))
            self._header.clear()
        return len(piece)

    def _take_header(self, block: bytes) -> None:
        if not block.strip(b"\0"):
            self._ended = True
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError):
            raise BackupDamaged("The archive inside this backup is damaged.") from None
        if info.type != tarfile.REGTYPE or info.size < 0:
            raise BackupDamaged(f"This backup holds something that is no file, {info.name}.")
        self._left, self._padding = info.size, -info.size % BLOCK
        self._receiver.begin(info.name, info.size)
        if not self._left:
            self._receiver.end()

    def _require_zeros(self, piece: bytes) -> None:
        if piece.strip(b"\0"):
            raise BackupDamaged("This backup holds more than it says. Use another backup.")
