"""Which backups are kept: all of the last hours, then one a day, a week, a month.

The newest of each period stands for it, so that a rule applied again and again keeps the
same ones. The last good one is never let go, however old it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

_HOUR = 3600
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Keeping:
    """For how long: `all_hours`, then so many days, weeks and months with one each."""

    all_hours: int = 24
    days: int = 7
    weeks: int = 4
    months: int = 12


@dataclass(frozen=True, slots=True)
class Kept:
    """A good backup: when it was begun, Unix seconds."""

    id: str
    at: int


def superfluous(backups: Sequence[Kept], now: int, rule: Keeping) -> set[str]:
    """Ids of those that may go. Periods are days, ISO weeks and months of UTC."""
    newest_first = sorted(backups, key=lambda each: (each.at, each.id), reverse=True)
    kept = {each.id for each in newest_first[:1]}
    kept |= {each.id for each in newest_first if now - each.at < rule.all_hours * _HOUR}
    kept |= _newest_of_each(newest_first, _day, now - rule.days * _DAY)
    kept |= _newest_of_each(newest_first, _week, now - rule.weeks * 7 * _DAY)
    kept |= _newest_of_each(newest_first, _month, _months_before(now, rule.months))
    return {each.id for each in backups} - kept


def superfluous_copies(
    good: Sequence[Kept], others: Sequence[Kept], now: int, rule: Keeping
) -> set[str]:
    """Which copies elsewhere may go. `good` are those that were read back: the rule applies to
    them as if there were no `others`, so that one nobody checked takes no place of theirs."""
    among_all = superfluous([*good, *others], now, rule)
    return superfluous(good, now, rule) | {each.id for each in others if each.id in among_all}


def _newest_of_each(
    newest_first: Iterable[Kept], period: Callable[[int], tuple[int, ...]], since: int
) -> set[str]:
    found: dict[tuple[int, ...], str] = {}
    for each in newest_first:
        if each.at > since:
            found.setdefault(period(each.at), each.id)
    return set(found.values())


def _utc(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _day(at: int) -> tuple[int, ...]:
    moment = _utc(at)
    return moment.year, moment.month, moment.day


def _week(at: int) -> tuple[int, ...]:
    return tuple(_utc(at).isocalendar()[:2])


def _month(at: int) -> tuple[int, ...]:
    moment = _utc(at)
    return moment.year, moment.month


def _months_before(now: int, months: int) -> int:
    """The beginning of the month `months` - 1 before this one, less a second: with this
    month, so many months have one."""
    moment = _utc(now)
    index = moment.year * 12 + moment.month - 1 - max(months - 1, 0)
    start = datetime(index // 12, index % 12 + 1, 1, tzinfo=UTC)
    return int(start.timestamp()) - 1 if months else now
