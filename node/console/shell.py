"""What surrounds every page: sidebar, top bar, notes of what was just done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import Environment

from finance.networks import Network
from node.accounts.service import Accounts
from node.console.facts import NodeFacts
from node.console.tabs import TabLink

_MOST_NOTES = 5


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence shown once; `tone` is good, bad, loud or info."""

    text: str
    tone: str


class Notes:
    """Sentences waiting for the next page of a session; gone with the process."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Note]] = defaultdict(list)

    def add(self, session_id: str, note: Note) -> None:
        self._waiting[session_id] = [*self._waiting[session_id][1 - _MOST_NOTES :], note]

    def take(self, session_id: str) -> tuple[Note, ...]:
        return tuple(self._waiting.pop(session_id, ()))


@dataclass(frozen=True, slots=True)
class Frame:
    """What the console has for all pages. `unread` counts open notifications."""

    environment: Environment
    facts: NodeFacts
    network: Network
    accounts: Accounts
    notes: Notes
    unread: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Shell:
    """Everything the layouts show besides the page itself."""

    title: str
    network: str
    main_network: bool
    uptime: str
    theme: str  # light, dark or system
    here: str
    user: str = ""
    role: str = ""
    csrf: str = ""
    unread: int = 0
    tabs: tuple[TabLink, ...] = ()
    sections: tuple[TabLink, ...] = ()
    notes: tuple[Note, ...] = ()
    restricted: bool = False
