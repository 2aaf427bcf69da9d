"""Ports for servers that are started a moment after their port was chosen."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

# Below those that Linux gives to outgoing connections and to whoever asks for any: none of
# these becomes another's while its server is still starting, or is down between two starts.
_PORTS = range(20_000, 32_000)
_chosen: set[int] = set()


def free_port() -> int:
    """A port of loopback that nobody listens on, and that was not handed out before."""
    while True:
        port = secrets.choice(_PORTS)
        if port in _chosen:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _chosen.add(port)
            return port
