"""A clock on which time passes when a test says so."""

from __future__ import annotations

from dataclasses import dataclass

from node.usage.streams import Streams


@dataclass
class Clock:
    """Unix seconds, as `Streams` asks for them."""

    at: int = 1_780_000_000

    def __call__(self) -> float:
        return float(self.at)

    @classmethod
    def of(cls, *streams: Streams) -> Clock:
        """The same one for all of these."""
        clock = cls()
        for each in streams:
            each._clock = each.steady = clock
        return clock
