"""How long streams were connected, by hour, listing, key or payer: exact at every edge.

Times are read from when streams began and until when they are known to have been open,
so an hour holds exactly the seconds that fall into it, and a month those of its hours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, Engine, case, func, select
from sqlmodel import col

from node.usage.models import Side
from node.usage.stream_rows import StreamSession

HOUR_SECONDS = 3600


class By(StrEnum):
    """What streams are told apart by."""

    ALL = "all"
    LISTING = "listing_id"
    KEY = "key_id"
    PAYER = "payer"


@dataclass(frozen=True, slots=True)
class HourOfStreams:
    """Seconds of connection in one hour. `of` is what it was asked by (empty for ALL and for
    whoever has no name); `hour` the Unix time at which it starts."""

    hour: int
    of: str
    seconds: int


@dataclass(frozen=True, slots=True)
class StreamTime:
    """Connection time of a period: seconds in it, and the streams that were open in it."""

    seconds: int = 0
    streams: int = 0


def read_hours(
    engine: Engine,
    side: Side,
    since: int,
    until: int,
    by: By = By.ALL,
    *,
    listing_id: str | None = None,
    key_id: str | None = None,
    payer: str | None = None,
) -> list[HourOfStreams]:
    """Connection time in [since, until), Unix seconds, per UTC hour, in order; hours without
    any are left out. Blocking."""
    of = col(StreamSession.id) if by is By.ALL else getattr(StreamSession, by)
    sessions = select(of, col(StreamSession.started_at), col(StreamSession.last_tick_at)).where(
        *_inside(side, since, until, listing_id, key_id, payer)
    )
    sums: Counter[tuple[int, str]] = Counter()
    with engine.connect() as connection:
        for name, start, end in connection.execute(sessions):
            shown = "" if by is By.ALL else name or ""
            for hour, seconds in split_by_hour(max(start, since), min(end, until)):
                sums[hour, shown] += seconds
    return [HourOfStreams(hour, of, seconds) for (hour, of), seconds in sorted(sums.items())]


def read_totals(
    connection: Connection, side: Side, since: int, until: int, by: By = By.KEY
) -> dict[str, StreamTime]:
    """Connection time in [since, until) by name. Blocking."""
    start, end = col(StreamSession.started_at), col(StreamSession.last_tick_at)
    first = case((start < since, since), else_=start)
    last = case((end > until, until), else_=end)
    of = getattr(StreamSession, by) if by is not By.ALL else col(StreamSession.side)
    statement = (
        select(of, func.sum(last - first), func.count())
        .where(*_inside(side, since, until, None, None, None))
        .group_by(of)
    )
    rows = connection.execute(statement)
    return {
        "" if by is By.ALL else name or "": StreamTime(int(seconds), count)
        for name, seconds, count in rows
    }


def split_by_hour(start: int, end: int) -> Iterable[tuple[int, int]]:
    """(hour, seconds) of every hour that [start, end) touches."""
    while start < end:
        hour = start - start % HOUR_SECONDS
        edge = min(hour + HOUR_SECONDS, end)
        yield hour, edge - start
        start = edge


def _inside(
    side: Side,
    since: int,
    until: int,
    listing_id: str | None,
    key_id: str | None,
    payer: str | None,
) -> list[ColumnElement[bool]]:
    conditions = [
        col(StreamSession.side) == side,
        col(StreamSession.last_tick_at) > since,
        col(StreamSession.started_at) < until,
    ]
    named = (("listing_id", listing_id), ("key_id", key_id), ("payer", payer))
    conditions += [
        getattr(StreamSession, name) == wanted for name, wanted in named if wanted is not None
    ]
    return conditions
