"""The journal of calls, newest first, a page at a time, also among millions.

A page goes on from the last call of the one before (no OFFSET). Where only some calls are
wanted, the sums say in which quarter-hours there are any, and only those are looked
through, all at once: a listing that was called twice last spring is found as quickly as a
busy one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Any, Self

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Select,
    SQLColumnExpression,
    and_,
    column,
    func,
    or_,
    select,
    true,
    union_all,
    values,
)
from sqlmodel import col

from catalog.models import Listing
from finance.snapshot import snapshot
from node.usage.calls import SLOT_SECONDS, slot_of
from node.usage.models import Call, CallHistory, CallRollup, CallTotal, Side

SLOTS_AT_ONCE = 200
CSV_ROWS = 500

_CURSOR = re.compile("([0-9]{1,15})-([!-~]{1,80})")


class Outcome(StrEnum):
    ALL = "all"
    OK = "ok"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls. `listing_id` None: of every listing; `key_id` None: of every key."""

    side: Side
    listing_id: str | None = None
    outcome: Outcome = Outcome.ALL
    key_id: str | None = None

    @property
    def everything(self) -> bool:
        """Most calls of the side are wanted, so that looking from the newest on is quick."""
        some = self.listing_id is not None or self.key_id is not None
        return not some and self.outcome is not Outcome.ERROR


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
    route: str


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
    if wanted.everything:
        return list(connection.execute(_calls(wanted, after).limit(count)))
    found: list[Any] = []
    until = None if after is None else slot_of(after.at_ms // 1000) + SLOT_SECONDS
    while len(found) < count and (slots := _slots_with(connection, wanted, until)):
        missing = count - len(found)
        looked = _enough(slots, missing)
        dialect = connection.dialect.name
        found += connection.execute(_calls_of(dialect, wanted, after, looked, missing))
        until = looked[-1][0]
    return found


def _enough(slots: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """The first of `slots` that have `count` calls together, as far as the sums tell."""
    before = [0, *accumulate(calls for _, calls in slots)]
    return [slot for slot, reached in zip(slots, before, strict=False) if reached < count]


def _calls_of(
    dialect: str,
    wanted: CallFilter,
    after: Cursor | None,
    slots: list[tuple[int, int]],
    count: int,
) -> Select[Any]:
    """The newest `count` calls of these quarter-hours, in one statement. Only the last may
    hold more than are wanted: it is read backwards and no further than needed."""
    first = slots[-1][0] * 1000
    parts = [_calls(wanted, after).where(*_within(first)).limit(count)]
    if len(slots) > 1:
        parts.append(_among(dialect, wanted, after, [slot for slot, _ in slots[:-1]], count))
    both = union_all(*(select(part.subquery()) for part in parts)).subquery()
    return select(both).order_by(both.c.at_ms.desc(), both.c.id.desc()).limit(count)


def _among(
    dialect: str, wanted: CallFilter, after: Cursor | None, slots: list[int], count: int
) -> Select[Any]:
    """Such calls of quarter-hours that have fewer than `count` together."""
    starts = [(slot * 1000,) for slot in slots]
    sparse = values(column("at_ms", BigInteger), name="sparse").data(starts).cte()
    if dialect == "sqlite":
        among = true() if after is None else _older(after)
        return _matching(wanted).where(*_within(sparse.c.at_ms), among)
    # In a plain join PostgreSQL takes the few quarter-hours for many, and reads every call;
    # what is limited is asked for each of them by itself.
    each = _calls(wanted, after).where(*_within(sparse.c.at_ms)).limit(count).lateral()
    return select(each).select_from(sparse.join(each, true()))


def _within(start: Any) -> tuple[ColumnElement[bool], ...]:
    """Whether a call is of the quarter-hour that begins at `start` (milliseconds)."""
    return col(Call.at_ms) >= start, col(Call.at_ms) < start + SLOT_SECONDS * 1000


def _calls(wanted: CallFilter, after: Cursor | None) -> Select[Any]:
    found = _matching(wanted).order_by(col(Call.at_ms).desc(), col(Call.id).desc())
    return found if after is None else found.where(_older(after))


def _matching(wanted: CallFilter) -> Select[Any]:
    conditions: list[ColumnElement[bool]] = [col(Call.side) == wanted.side]
    if wanted.listing_id is not None:
        conditions.append(col(Call.listing_id) == wanted.listing_id)
    if wanted.key_id is not None:
        conditions.append(col(Call.key_id) == wanted.key_id)
    if wanted.outcome is Outcome.OK:
        conditions.append(col(Call.status) < 400)
    elif wanted.outcome is Outcome.ERROR:
        conditions.append(col(Call.status) >= 400)
    names = (name for name in CallLine.__slots__ if name != "listing")
    return select(*(getattr(Call, name) for name in names)).where(*conditions)


def _older(after: Cursor) -> ColumnElement[bool]:
    earlier = or_(col(Call.at_ms) < after.at_ms, col(Call.id) < after.id)
    return and_(col(Call.at_ms) <= after.at_ms, earlier)


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
    if wanted.key_id is not None:
        conditions.append(col(table.key_id) == wanted.key_id)
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
