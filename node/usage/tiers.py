"""Free and Pro: how much integrators together may use of each meter in a month."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Engine

from node.accounts.audit import Actor
from node.accounts.errors import AccountInvalid
from node.durations import HOUR
from node.preferences import Preference, change_preference
from node.usage.quotas import Meter

MOST: Final = 10**12


class Tier(StrEnum):
    """Stored; only ever added to."""

    FREE = "free"
    PRO = "pro"

    @property
    def label(self) -> str:
        return self.value.capitalize()


class UsageTiers(Preference, frozen=True, tag="usage_tiers"):
    """The tier of each meter, and what tiers are: calls, and seconds of streams, a month."""

    calls: Tier = Tier.FREE
    streams: Tier = Tier.FREE
    free_calls: int = 10_000
    pro_calls: int = 1_000_000
    free_stream_seconds: int = 50 * HOUR
    pro_stream_seconds: int = 2_000 * HOUR

    def tier(self, meter: Meter) -> Tier:
        return self.calls if meter is Meter.CALLS else self.streams

    def quota(self, meter: Meter, tier: Tier | None = None) -> int:
        """Of the tier that is chosen, or of another."""
        free = (tier or self.tier(meter)) is Tier.FREE
        if meter is Meter.CALLS:
            return self.free_calls if free else self.pro_calls
        return self.free_stream_seconds if free else self.pro_stream_seconds


@dataclass(frozen=True, slots=True)
class _Pair:
    free: str
    pro: str
    unit: str


_PAIRS: Final = (
    _Pair("free_calls", "pro_calls", "calls"),
    _Pair("free_stream_seconds", "pro_stream_seconds", "hours"),
)


def change_tiers(engine: Engine, tiers: UsageTiers, actor: Actor, now: int) -> None:
    """Store them; a running node takes them over within a second (blocking). Raises
    AccountInvalid."""
    for pair in _PAIRS:
        free, pro = getattr(tiers, pair.free), getattr(tiers, pair.pro)
        for name, value in ((pair.free, free), (pair.pro, pro)):
            if not 0 <= value <= MOST:
                raise AccountInvalid(name, f"Choose a number of {pair.unit} from 0 on.")
        if pro < free:
            raise AccountInvalid(pair.pro, "Pro has at least as much as Free.")
    change_preference(engine, tiers, actor, now)
