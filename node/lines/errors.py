"""What can go wrong on a line.

LineError
├── NotConnected      no byte of the request has left
│   └── ConnectSlow   nobody answered the connection in time
├── Broken            it left; the answer broke off, or is none
└── Silent            it left; no byte came back for the time allowed
"""

from __future__ import annotations


class LineError(OSError):
    """Base of all; the text holds neither address nor headers."""


class NotConnected(LineError):
    """No connection could be made."""


class ConnectSlow(NotConnected):
    """Nobody answered the connection in time."""


class Broken(LineError):
    """The connection ended, or what came is not HTTP, before the answer was whole."""


class Silent(LineError):
    """Nothing came for the time allowed."""
