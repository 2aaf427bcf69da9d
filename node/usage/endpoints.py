"""Usage by endpoint: what a key or a customer called in any stretch of time, to the call.

Whole hours are read from the sums that the journal keeps. Where a stretch begins or ends
within an hour, the calls of its shorter part are looked at one by one, and added to the
hours or taken away from them: of a month, which begins at 00:01, one minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, case, func, select, union_all
from sqlmodel import col

from catalog.models import Listing
from node.durations import HOUR
from node.usage.models import Call, CallRollup, Side, UsageHour
from node.usage.windows import NAMES, NOTHING, Sums, add_up, sums_of

# What calls can be told apart by, in the order of the columns of a sum.
Apart = Sequence[Literal["key_id", "listing_id", "route", "status"]]
_ENDPOINTS: Final[Apart] = ("listing_id", "route", "status")


@dataclass(frozen=True, slots=True)
class StatusUse:
    """Calls that were answered with one HTTP status."""

    status: int
    sums: Sums


@dataclass(frozen=True, slots=True)
class EndpointUse:
    """One route of one listing, e.g. `GET /forecast/{city}`; `name` is the listing's id when it
    is gone. Statuses in order."""

    listing_id: str
    name: str
    route: str
    statuses: tuple[StatusUse, ...]

    @property
    def sums(self) -> Sums:
        return add_up(each.sums for each in self.statuses)


def read_endpoints(
    connection: Connection,
    side: Side,
    since: int,
    until: int,
    *,
    whose: str | None = None,
    listing_id: str | None = None,
    without: Sequence[str] = (),
) -> tuple[EndpointUse, ...]:
    """Calls that arrived in [since, until), Unix seconds, most of them first (blocking).

    `whose`: of one consumer key (bought) or one customer (served), None for all of them;
    `without` as in `read_sums`. Ask inside a snapshot, so that hours and calls are of one moment.
    """
    found = read_sums(
        connection,
        side,
        since,
        until,
        _ENDPOINTS,
        whose=whose,
        listing_id=listing_id,
        without=without,
    )
    return _endpoints(connection, found)


def read_sums(
    connection: Connection,
    side: Side,
    since: int,
    until: int,
    apart: Apart,
    *,
    whose: str | None = None,
    listing_id: str | None = None,
    without: Sequence[str] = (),
) -> dict[tuple[Any, ...], Sums]:
    """The same calls summed by the columns of `apart`; `key_id` is a consumer key or a customer.
    `without`: patterns of routes that are left out (LIKE)."""
    first, last = _near(since), _near(until)
    wanted = _Wanted(side, apart, whose, listing_id, without)
    found: dict[tuple[Any, ...], Sums] = {}
    _add(found, wanted, _hours(connection, first, last, wanted))
    _add(found, wanted, _calls(connection, since, first, wanted), 1 if since < first else -1)
    _add(found, wanted, _calls(connection, last, until, wanted), 1 if last < until else -1)
    return found


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Whose calls are summed, and by what."""

    side: Side
    apart: Apart
    whose: str | None
    listing_id: str | None
    without: Sequence[str]

    def where(self, columns: dict[str, Any], side: Any) -> list[ColumnElement[bool]]:
        wanted = [side == self.side, *(~columns["route"].like(each) for each in self.without)]
        if self.whose is not None:
            wanted.append(columns["key_id"] == self.whose)
        if self.listing_id is not None:
            wanted.append(columns["listing_id"] == self.listing_id)
        return wanted


def _near(at: int) -> int:
    """The nearest full hour."""
    return (at + HOUR // 2) // HOUR * HOUR


def _add(
    found: dict[tuple[Any, ...], Sums], wanted: _Wanted, parts: Iterable[Any], sign: int = 1
) -> None:
    size = len(wanted.apart)
    for row in parts:
        sums, key = sums_of(row[size:]), tuple(row[:size])
        found[key] = found.get(key, NOTHING) + (sums if sign > 0 else _less(sums))


def _less(sums: Sums) -> Sums:
    return Sums(-sums.calls, -sums.errors, -sums.amount_atoms, -sums.latency_us)


def _hours(connection: Connection, first: int, last: int, wanted: _Wanted) -> Iterable[Any]:
    """Sums of the hours in [first, last)."""

    def part(table: type[UsageHour] | type[CallRollup], time: Any) -> Any:
        columns = {name: col(getattr(table, name)) for name in _COLUMNS}
        where = [*wanted.where(columns, col(table.side)), time >= first, time < last]
        apart = [columns[name] for name in wanted.apart]
        sums = [func.sum(getattr(table, name)).label(name) for name in NAMES]
        return select(*apart, *sums).where(*where).group_by(*apart)

    hours, quarters = part(UsageHour, col(UsageHour.hour)), part(CallRollup, col(CallRollup.slot))
    return connection.execute(union_all(hours, quarters))


def _calls(connection: Connection, one: int, other: int, wanted: _Wanted) -> Iterable[Any]:
    """The same of the short stretch between two moments, one call after the other."""
    since, until = min(one, other), max(one, other)
    if since == until:
        return ()
    columns: dict[str, Any] = {name: col(getattr(Call, name)) for name in _COLUMNS}
    columns["key_id"] = func.coalesce(col(Call.key_id), col(Call.payer), "")
    within = (col(Call.at_ms) >= since * 1000, col(Call.at_ms) < until * 1000)
    apart = [columns[name] for name in wanted.apart]
    failed = func.sum(case((col(Call.status) >= 400, 1), else_=0))
    sums = (func.sum(col(Call.amount_atoms)), func.sum(col(Call.latency_us)))
    where = (*wanted.where(columns, col(Call.side)), *within)
    statement = select(*apart, func.count(), failed, *sums).where(*where).group_by(*apart)
    return connection.execute(statement)


def _endpoints(
    connection: Connection, found: dict[tuple[Any, ...], Sums]
) -> tuple[EndpointUse, ...]:
    statuses: dict[tuple[str, str], list[StatusUse]] = {}
    for (listing_id, route, status), sums in sorted(found.items()):
        if sums.calls:
            statuses.setdefault((listing_id, route), []).append(StatusUse(status, sums))
    ids = {listing_id for listing_id, _ in statuses}
    names = _names(connection, ids)
    endpoints = [
        EndpointUse(listing_id, names.get(listing_id, listing_id), route, tuple(each))
        for (listing_id, route), each in statuses.items()
    ]
    return tuple(sorted(endpoints, key=_by_calls))


def _by_calls(each: EndpointUse) -> tuple[int, str, str, str]:
    return -each.sums.calls, each.name.casefold(), each.listing_id, each.route


def _names(connection: Connection, ids: set[str]) -> dict[str, str]:
    statement = select(col(Listing.id), col(Listing.name)).where(col(Listing.id).in_(ids))
    return {row[0]: row[1] for row in connection.execute(statement)}


_COLUMNS: Final = ("key_id", "listing_id", "route", "status")
