"""A way to PostgreSQL that breaks when a transaction is committed: before the server hears of
it, or after it has done so and before its answer comes back."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from enum import Enum
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

_COMMIT, _INSERT = b"COMMIT", b"INSERT"
_BYTES = 1 << 16


class Cut(Enum):
    NEVER = "never"
    BEFORE = "before"
    AFTER = "after"


class CuttingRelay:
    """Between a client and the server of `url`, over sockets of files; `cut` holds once, for the
    next commit of a connection that writes."""

    def __init__(self, url: str) -> None:
        self.cut = Cut.NEVER
        self._original = urlsplit(url)
        folder = parse_qs(self._original.query)["host"][0]
        self._server = str(Path(folder) / ".s.PGSQL.5432")
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="relay-")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name) / ".s.PGSQL.5432"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for the next one
        self._listener.close()
        for each in self._open:
            each.close()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return self._original._replace(query=f"host={self._folder.name}").geturl()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        deaf = threading.Event()
        answers = threading.Thread(target=self._answer, args=(server, client, deaf), daemon=True)
        answers.start()
        writes = False
        with contextlib.suppress(OSError):
            while asked := client.recv(_BYTES):
                writes = writes or _INSERT in asked
                if writes and _COMMIT in asked and self.cut is not Cut.NEVER:
                    if self.cut is Cut.AFTER:
                        deaf.set()
                        server.sendall(asked)
                        answers.join()
                    self.cut = Cut.NEVER
                    break
                server.sendall(asked)
        for each in (client, server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket, deaf: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while answer := server.recv(_BYTES):
                if deaf.is_set():
                    return
                client.sendall(answer)
