"""Calls per hour, for bars that begin on the hour of the viewer's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from node.durations import HOUR
from node.usage.calls import SLOT_SECONDS, slot_of
from node.usage.windows import NOTHING, Sums, add_up

BARS = 48


@dataclass(frozen=True, slots=True)
class HourBucket:
    """One hour that begins at `at` (Unix seconds), the last one up to now."""

    at: int
    succeeded: int
    errors: int


def hours_until(now: int, zone: ZoneInfo, count: int = BARS) -> tuple[int, ...]:
    """Starts of the last `count` hours, the present one last, each on the full hour of the
    zone's clock: at half past in UTC for half-hour zones. An hour has 3600 seconds on the
    days on which clocks are changed, too."""
    local = datetime.fromtimestamp(now, zone)
    start = slot_of(now - local.minute * 60 - local.second)
    return tuple(start - HOUR * back for back in range(count - 1, -1, -1))


def hour_buckets(starts: tuple[int, ...], slots: dict[int, Sums]) -> tuple[HourBucket, ...]:
    """The sums of quarter-hours put into hours."""
    quarters = range(0, HOUR, SLOT_SECONDS)
    sums = [add_up(slots.get(at + quarter, NOTHING) for quarter in quarters) for at in starts]
    return tuple(
        HourBucket(at, hour.succeeded, hour.errors) for at, hour in zip(starts, sums, strict=True)
    )
