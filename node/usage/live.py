"""What a key does at this moment, as the running proxy knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveUse:
    """`per_minute`: calls that passed in the last sixty seconds, counted for keys with a limit
    (else None); `streams`: open now."""

    per_minute: int | None = None
    streams: int = 0


# Takes the id of a consumer key and the present in Unix seconds; on the proxy's event loop.
ReadLive = Callable[[str, int], LiveUse]
