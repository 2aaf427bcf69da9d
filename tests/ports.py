"""Ports for servers that are started a moment after their port was chosen."""

from __future__ import annotations

import fcntl
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

# Below those that Linux gives to outgoing connections and to whoever asks for any: none of
# these becomes another's while its server is still starting, or is down between two starts.
_FIRST, _EACH, _BLOCKS = 20_000, 200, 60
_ours: list[int] = []
_locks: list[IO[str]] = []  # held for as long as this process lives


def free_port() -> int:
    """A port of loopback that nobody listens on, and that nobody was handed before, here or in
    another process of the tests."""
    while True:
        if not _ours:
            _ours.extend(_claim_block())
        port = _ours.pop(secrets.randbelow(len(_ours)))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _claim_block() -> range:
    """Ports that no other process of the tests hands out."""
    for block in range(_BLOCKS):
        with suppress(OSError):
            lock = (Path(tempfile.gettempdir()) / f"farebox-ports-{block}.lock").open("a")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locks.append(lock)
            first = _FIRST + block * _EACH
            return range(first, first + _EACH)
    raise RuntimeError("Other tests on this machine hold all ports that are meant for tests.")
