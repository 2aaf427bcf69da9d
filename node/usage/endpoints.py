"""Usage by endpoint: what a key or a customer called in any stretch of time, to the call.

Whole hours are read from the sums that the journal keeps. Where a stretch begins or ends
within an hour, the calls of its shorter part are looked at one by one, and added to the
hours or taken away from them: of a month, which begins at 00:01, one minute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, case, func, select, union_all
from sqlmodel import col

from catalog.models import Listing
from node.usage.models import Call, CallRollup, Side, UsageHour
from node.usage.windows import NAMES, NOTHING, Sums, add_up, sums_of

HOUR: Final = 3600

# (listing id, route, status) of calls, and their sums
_Found = dict[tuple[str, str, int], Sums]


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
) -> tuple[EndpointUse, ...]:
    """Calls that arrived in [since, until), Unix seconds, most of them first (blocking).

    `whose`: of one consumer key (bought) or one customer (served), None for all of them.
    Ask inside a snapshot, so that hours and calls are of one moment.
    """
    first, last = _near(since), _near(until)
    wanted = (side, whose, listing_id)
    found: _Found = {}
    _add(found, _hours(connection, first, last, *wanted))
    _add(found, _calls(connection, since, first, *wanted), 1 if since < first else -1)
    _add(found, _calls(connection, last, until, *wanted), 1 if last < until else -1)
    return _endpoints(connection, found)


def _near(at: int) -> int:
    """The nearest full hour."""
    return (at + HOUR // 2) // HOUR * HOUR


def _add(found: _Found, parts: Iterable[Any], sign: int = 1) -> None:
    for row in parts:
        sums, key = sums_of(row[3:]), (row[0], row[1], row[2])
        found[key] = found.get(key, NOTHING) + (sums if sign > 0 else _less(sums))


def _less(sums: Sums) -> Sums:
    return Sums(-sums.calls, -sums.errors, -sums.amount_atoms, -sums.latency_us)


def _hours(
    connection: Connection,
    first: int,
    last: int,
    side: Side,
    whose: str | None,
    listing_id: str | None,
) -> Iterable[Any]:
    """Sums of the hours in [first, last)."""

    def part(table: type[UsageHour] | type[CallRollup], time: Any) -> Any:
        wanted: list[ColumnElement[bool]] = [col(table.side) == side, time >= first, time < last]
        if whose is not None:
            wanted.append(col(table.key_id) == whose)
        if listing_id is not None:
            wanted.append(col(table.listing_id) == listing_id)
        apart = (col(table.listing_id), col(table.route), col(table.status))
        sums = [func.sum(getattr(table, name)).label(name) for name in NAMES]
        return select(*apart, *sums).where(*wanted).group_by(*apart)

    hours, quarters = part(UsageHour, col(UsageHour.hour)), part(CallRollup, col(CallRollup.slot))
    return connection.execute(union_all(hours, quarters))


def _calls(
    connection: Connection,
    one: int,
    other: int,
    side: Side,
    whose: str | None,
    listing_id: str | None,
) -> Iterable[Any]:
    """The same of the short stretch between two moments, one call after the other."""
    since, until = min(one, other), max(one, other)
    if since == until:
        return ()
    wanted = [
        col(Call.side) == side,
        col(Call.at_ms) >= since * 1000,
        col(Call.at_ms) < until * 1000,
    ]
    if whose is not None:
        wanted.append(func.coalesce(col(Call.key_id), col(Call.payer), "") == whose)
    if listing_id is not None:
        wanted.append(col(Call.listing_id) == listing_id)
    apart = (col(Call.listing_id), col(Call.route), col(Call.status))
    failed = func.sum(case((col(Call.status) >= 400, 1), else_=0))
    sums = (func.sum(col(Call.amount_atoms)), func.sum(col(Call.latency_us)))
    statement = select(*apart, func.count(), failed, *sums).where(*wanted).group_by(*apart)
    return connection.execute(statement)


def _endpoints(connection: Connection, found: _Found) -> tuple[EndpointUse, ...]:
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
