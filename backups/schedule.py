"""When a backup, a test restore or a warning is due: rules over times in Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass

INTERVALS_HOURS = (0, 1, 3, 6, 12, 24)  # 0: only when asked
TEST_EVERY_SECONDS = 7 * 86400
RETRY_SECONDS = 900
_HOUR = 3600
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Overdue:
    """`days`: whole days since the last good backup, or since the first start."""

    overdue: bool
    days: int
    ever: bool = True


def backup_due(now: int, every_hours: int, last_good_at: int | None, last_try_at: int) -> bool:
    """Whether the schedule wants a backup now. One that failed is tried again after a while,
    not at once; a clock that was set back does not put the next one off for ever."""
    if not every_hours or 0 <= now - last_try_at < RETRY_SECONDS:
        return False
    if last_good_at is None or last_good_at > now:
        return True
    return now - last_good_at >= every_hours * _HOUR


def test_due(now: int, last_test_at: int | None) -> bool:
    """Whether the weekly test restore is due."""
    return last_test_at is None or not 0 <= now - last_test_at < TEST_EVERY_SECONDS


def overdue(now: int, first_start_at: int, last_good_at: int | None, after_days: int) -> Overdue:
    """Whether the operator must be warned: `after_days` without a good backup."""
    since = first_start_at if last_good_at is None else last_good_at
    days = max(0, now - since) // _DAY
    return Overdue(now - since >= after_days * _DAY, days, last_good_at is not None)
