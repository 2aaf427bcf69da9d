"""Tables read whole, some hundred rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

CHUNK: Final = 500
_T = TypeVar("_T")


def in_chunks(read: Callable[[_T | None], Sequence[_T]]) -> Iterator[_T]:
    """What `read` gives from the beginning (None), then what it gives after the last of that, and
    so on. It has to go by a key: rows that come, go or change move no others into another chunk."""
    last: _T | None = None
    while found := read(last):
        yield from found
        last = found[-1]
