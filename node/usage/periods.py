"""Stretches of time one may ask usage of: months as quotas have them, days back, any days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from node.accounts.errors import AccountInvalid
from node.durations import DAY
from node.usage.windows import last_seconds, window_of

FIRST: Final = date(2020, 1, 1)
LAST: Final = date(2199, 12, 30)


class Span(StrEnum):
    """How a stretch is named."""

    THIS_MONTH = "this_month"
    LAST_MONTH = "last_month"
    WEEK = "7d"
    QUARTER = "90d"
    DAYS = "days"

    @property
    def label(self) -> str:
        return _LABELS[self]


@dataclass(frozen=True, slots=True)
class Period:
    """[since, until), Unix seconds."""

    span: Span
    since: int
    until: int


def read_period(
    span: Span, now: int, zone: ZoneInfo, first: date | None = None, last: date | None = None
) -> Period:
    """The period of that name at a moment. Months begin on the 1st at 00:01 UTC; days are whole
    days of the zone's calendar, `first` and `last` included. Raises AccountInvalid."""
    match span:
        case Span.THIS_MONTH:
            return Period(span, window_of(now).start, now + 1)
        case Span.LAST_MONTH:
            month = window_of(window_of(now).start - 1)
            return Period(span, month.start, month.end)
        case Span.WEEK:
            return Period(span, *last_seconds(7 * DAY, now))
        case Span.QUARTER:
            return Period(span, *last_seconds(90 * DAY, now))
        case Span.DAYS:
            return _days(zone, first, last)


def _days(zone: ZoneInfo, first: date | None, last: date | None) -> Period:
    for field, day in (("first", first), ("last", last)):
        if day is None or not FIRST <= day <= LAST:
            raise AccountInvalid(field, "Choose a day, such as 2026-02-28.")
    assert first is not None and last is not None
    if last < first:
        raise AccountInvalid("last", "Choose a last day that is not before the first one.")
    return Period(Span.DAYS, _midnight(first, zone), _midnight(last + timedelta(days=1), zone))


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


_LABELS: Final = {
    Span.THIS_MONTH: "This month",
    Span.LAST_MONTH: "Last month",
    Span.WEEK: "Last 7 days",
    Span.QUARTER: "Last 90 days",
    Span.DAYS: "Days",
}
