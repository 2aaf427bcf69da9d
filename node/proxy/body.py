"""A request body that can be sent more than once: small ones in memory, large ones on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import IO, Any

from node.proxy.errors import RequestRefused
from node.proxy.headers import find

MEMORY_BYTES = 1 << 20
MOST_BYTES = 64 << 20
_CHUNK = 1 << 16

Receive = Callable[[], Awaitable[dict[str, Any]]]


class ClientGone(Exception):
    """The app hung up before its request was complete."""


class Body:
    """A complete request body; close it when the call is over."""

    def __init__(self) -> None:
        self._start = bytearray()
        self._file: IO[bytes] | None = None
        self._hash = hashlib.blake2b(digest_size=32)
        self.length = 0

    def add(self, chunk: bytes) -> None:
        self.length += len(chunk)
        if self.length > MOST_BYTES:
            raise RequestRefused("body_too_large", f"At most {MOST_BYTES} bytes can be sent.")
        self._hash.update(chunk)
        if self._file is None and self.length > MEMORY_BYTES:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the call
            self._file.write(self._start)
            self._start.clear()
        if self._file is None:
            self._start += chunk
        else:
            self._file.write(chunk)

    def digest(self) -> bytes:
        """BLAKE2b of the content, 32 bytes."""
        return self._hash.digest()

    def content(self) -> bytes | AsyncIterator[bytes] | None:
        """What to send, from the start; None when there is nothing."""
        if self._file is not None:
            return self._chunks(self._file)
        return bytes(self._start) if self._start else None

    async def _chunks(self, file: IO[bytes]) -> AsyncIterator[bytes]:
        file.flush()
        # An answer may begin before all of it has left, and the call ends with that, or is sent
        # once more: each reads on its own.
        own, at = os.dup(file.fileno()), 0
        try:
            while chunk := os.pread(own, _CHUNK, at):
                at += len(chunk)
                yield chunk
        finally:
            os.close(own)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> Body:
    """Take the whole body from the app; raise RequestRefused (413) or ClientGone."""
    body = Body()
    declared = find(headers, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > MOST_BYTES:
        raise RequestRefused("body_too_large", f"At most {MOST_BYTES} bytes can be sent.")
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if chunk := message.get("body"):
                body.add(chunk)
            if not message.get("more_body"):
                return body
    except BaseException:
        body.close()
        raise
