"""Look-ups of sessions and tokens, kept for some seconds so that pages need no query.

A change made by this process empties it at once; one made by another process (the
`farebox` command) is noticed when an entry has grown old.
"""

from __future__ import annotations

from typing import Generic, TypeVar

KEPT_SECONDS = 5
MAX_ENTRIES = 4096

T = TypeVar("T")


class ShortMemory(Generic[T]):
    """Values by key for KEPT_SECONDS; never absence."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, T]] = {}
        self.generation = 0

    def get(self, key: str, now: int) -> T | None:
        entry = self._entries.get(key)
        if entry is None or not 0 <= now - entry[0] < KEPT_SECONDS:
            return None
        return entry[1]

    def put(self, key: str, value: T, now: int, generation: int) -> None:
        """Keep what was read since `generation`, unless something changed meanwhile."""
        if generation != self.generation:
            return
        if len(self._entries) >= MAX_ENTRIES:
            self._entries.clear()
        self._entries[key] = (now, value)

    def forget(self) -> None:
        """Something changed: nothing that was read before is trusted."""
        self.generation += 1
        self._entries.clear()
