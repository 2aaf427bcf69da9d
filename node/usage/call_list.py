"""The journal of calls, newest first, a page at a time, also among millions.

A page goes on from the last call of the one before (no OFFSET). Where only some calls are
wanted, the sums say in which quarter-hours there are any, and only those are looked
through: a listing that was called twice last spring is found as quickly as a busy one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    SQLColumnExpression,
    and_,
    func,
    or_,
    select,
    union_all,
)
from sqlmodel import col

from catalog.models import Listing
from node.usage.calls import SLOT_SECONDS, slot_of
from node.usage.models import Call, CallHistory, CallRollup, CallTotal, Side
from node.usage.windows import snapshot

SLOTS_AT_ONCE = 200
CSV_ROWS = 500

_CURSOR = re.compile("([0-9]{1,15})-([!-~]{1,80})")


class Outcome(StrEnum):
    ALL = "all"
    OK = "ok"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls. `listing_id` None: of every listing."""

    side: Side
    listing_id: str | None = None
    outcome: Outcome = Outcome.ALL


@dataclass(frozen=True, slots=True)
class Cursor:
    """A call to go on after."""

    at_ms: int
    id: str

    def __str__(self) -> str:
        return f"{self.at_ms}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for what is no cursor of ours: the list begins anew."""
        found = _CURSOR.fullmatch(text)
        return cls(int(found[1]), found[2]) if found else None


@dataclass(frozen=True, slots=True)
class CallLine:
    """One call as journaled; `listing` is its id when the listing is gone."""

    id: str
    at_ms: int
    listing_id: str
    listing: str
    method: str
    path: str
    status: int
    error: str | None
    scheme: str | None
    amount_atoms: int
    latency_us: int
    bytes_out: int
    key_id: str | None
    payer: str | None


@dataclass(frozen=True, slots=True)
class CallPage:
    """`total` counts all that the filter shows; `older` goes on, None at the end."""

    calls: tuple[CallLine, ...]
    total: int
    older: Cursor | None


def read_calls(engine: Engine, wanted: CallFilter, after: Cursor | None, count: int) -> CallPage:
    """One page, newest first (blocking)."""
    with snapshot(engine) as connection:
        found = _page(connection, wanted, after, count + 1)
        names = _names(connection, {row.listing_id for row in found})
        total = _total(connection, wanted)
    calls = tuple(_line(row, names) for row in found[:count])
    older = Cursor(calls[-1].at_ms, calls[-1].id) if len(found) > count else None
    return CallPage(calls, total, older)


def every_call(engine: Engine, wanted: CallFilter) -> Iterator[CallLine]:
    """All of them, newest first, read as they are taken (blocking)."""
    after: Cursor | None = None
    while True:
        page = read_calls(engine, wanted, after, CSV_ROWS)
        yield from page.calls
        if page.older is None:
            return
        after = page.older


def listing_name(engine: Engine, listing_id: str) -> str:
    """Its name, or the id when it is gone (blocking)."""
    with engine.connect() as connection:
        return _names(connection, {listing_id}).get(listing_id, listing_id)


def _page(
    connection: Connection, wanted: CallFilter, after: Cursor | None, count: int
) -> list[Any]:
    if wanted.listing_id is None and wanted.outcome is not Outcome.ERROR:
        return list(connection.execute(_calls(wanted, after).limit(count)))
    found: list[Any] = []
    for first, last in _stretches(connection, wanted, after, count):
        statement = _calls(wanted, after).where(
            col(Call.at_ms) >= first * 1000, col(Call.at_ms) < last * 1000
        )
        found += connection.execute(statement.limit(count - len(found)))
        if len(found) >= count:
            break
    return found


def _calls(wanted: CallFilter, after: Cursor | None) -> Select[Any]:
    conditions: list[ColumnElement[bool]] = [col(Call.side) == wanted.side]
    if wanted.listing_id is not None:
        conditions.append(col(Call.listing_id) == wanted.listing_id)
    if wanted.outcome is Outcome.OK:
        conditions.append(col(Call.status) < 400)
    elif wanted.outcome is Outcome.ERROR:
        conditions.append(col(Call.status) >= 400)
    if after is not None:
        earlier = or_(col(Call.at_ms) < after.at_ms, col(Call.id) < after.id)
        conditions.append(and_(col(Call.at_ms) <= after.at_ms, earlier))
    return (
        select(*(getattr(Call, name) for name in CallLine.__slots__ if name != "listing"))
        .where(*conditions)
        .order_by(col(Call.at_ms).desc(), col(Call.id).desc())
    )


def _stretches(
    connection: Connection, wanted: CallFilter, after: Cursor | None, count: int
) -> Iterator[tuple[int, int]]:
    """[first, last) of times, newest first, with some `count` of such calls each."""
    until = None if after is None else slot_of(after.at_ms // 1000) + SLOT_SECONDS
    while slots := _slots_with(connection, wanted, until):
        end, number = slots[0][0] + SLOT_SECONDS, 0
        for (slot, calls), (following, _) in zip(slots, [*slots[1:], slots[-1]], strict=True):
            number += calls
            if number >= count or following != slot - SLOT_SECONDS:
                yield slot, end
                end, number = following + SLOT_SECONDS, 0
        until = slots[-1][0]


def _slots_with(
    connection: Connection, wanted: CallFilter, until: int | None
) -> list[tuple[int, int]]:
    """(quarter-hour, such calls), the newest that begin before `until`."""

    def part(table: type[CallRollup] | type[CallHistory]) -> Any:
        conditions = _counted(table, wanted)
        if until is not None:
            conditions.append(col(table.slot) < until)
        slots = select(col(table.slot), func.sum(_count_of(table, wanted)).label("matching"))
        newest = slots.where(*conditions).group_by(col(table.slot)).order_by(col(table.slot).desc())
        return select(newest.limit(SLOTS_AT_ONCE).subquery())

    both = union_all(part(CallRollup), part(CallHistory)).subquery()
    statement = (
        select(both.c.slot, func.sum(both.c.matching))
        .group_by(both.c.slot)
        .order_by(both.c.slot.desc())
        .limit(SLOTS_AT_ONCE)
    )
    return [(row[0], int(row[1])) for row in connection.execute(statement)]


def _total(connection: Connection, wanted: CallFilter) -> int:
    def part(table: type[CallRollup] | type[CallTotal]) -> Any:
        return select(func.sum(_count_of(table, wanted))).where(*_counted(table, wanted))

    return sum(int(connection.scalar(part(table)) or 0) for table in (CallRollup, CallTotal))


def _count_of(
    table: type[CallRollup] | type[CallHistory] | type[CallTotal], wanted: CallFilter
) -> SQLColumnExpression[int]:
    match wanted.outcome:
        case Outcome.ALL:
            return col(table.calls)
        case Outcome.OK:
            return col(table.calls) - col(table.errors)
        case Outcome.ERROR:
            return col(table.errors)


def _counted(
    table: type[CallRollup] | type[CallHistory] | type[CallTotal], wanted: CallFilter
) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [col(table.side) == wanted.side]
    if wanted.listing_id is not None:
        conditions.append(col(table.listing_id) == wanted.listing_id)
    if wanted.outcome is Outcome.OK:
        conditions.append(col(table.calls) > col(table.errors))
    elif wanted.outcome is Outcome.ERROR:
        conditions.append(col(table.errors) > 0)
    return conditions


def _names(connection: Connection, ids: set[str]) -> dict[str, str]:
    statement = select(col(Listing.id), col(Listing.name)).where(col(Listing.id).in_(ids))
    return {row.id: row.name for row in connection.execute(statement)}


def _line(row: Any, names: dict[str, str]) -> CallLine:
    return CallLine(**row._mapping, listing=names.get(row.listing_id, row.listing_id))
