"""Stretches of time: sums over the calls of any, exact to the millisecond, and the months
in which quotas are counted.

Whole quarter-hours are read from the sums that the journal keeps; what sticks out at
either end is added up from `call`, of which an index holds all that is needed. So a
figure of the last 24 hours costs the same whether there were thousands or millions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Subquery,
    case,
    func,
    select,
    union_all,
)
from sqlmodel import col

from node.usage.calls import SLOT_SECONDS, slot_of
from node.usage.models import Call, CallHistory, CallRollup, Side

RESET_SECONDS = 60  # a month of quotas begins on the 1st at 00:01 UTC


@dataclass(frozen=True, slots=True)
class Window:
    """The month in which something counts: [start, end), Unix seconds."""

    start: int
    end: int


def window_of(at: int) -> Window:
    """The month of a moment. Its first minute belongs to the month before."""
    day = datetime.fromtimestamp(at - RESET_SECONDS, UTC)
    first = datetime(day.year, day.month, 1, tzinfo=UTC)
    following = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
    return Window(
        int(first.timestamp()) + RESET_SECONDS, int(following.timestamp()) + RESET_SECONDS
    )


@dataclass(frozen=True, slots=True)
class Sums:
    """Calls added up. `errors`: status 400 or above; `latency_us` is a sum in microseconds."""

    calls: int = 0
    errors: int = 0
    amount_atoms: int = 0
    latency_us: int = 0

    @property
    def succeeded(self) -> int:
        return self.calls - self.errors

    @property
    def mean_latency_us(self) -> int | None:
        """None without calls."""
        return self.latency_us // self.calls if self.calls else None

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            self.errors + other.errors,
            self.amount_atoms + other.amount_atoms,
            self.latency_us + other.latency_us,
        )


NOTHING = Sums()
NAMES = ("calls", "errors", "amount_atoms", "latency_us")


def add_up(parts: Iterable[Sums]) -> Sums:
    """All of them together."""
    return sum(parts, NOTHING)


def sums_of(row: Row[Any] | Sequence[Any]) -> Sums:
    """Four columns in the order of NAMES; PostgreSQL adds up bigints as decimals."""
    return Sums(*(int(value or 0) for value in row))


def last_seconds(seconds: int, now: int) -> tuple[int, int]:
    """[since, until) of exactly that many seconds, the present one included."""
    return now + 1 - seconds, now + 1


def sum_between(connection: Connection, side: Side, since: int, until: int) -> Sums:
    """Calls that arrived in [since, until), Unix seconds."""
    first, last = whole_slots(since, until)
    if first >= last:
        return sum_calls(connection, side, since, until)
    return add_up(
        (
            sum_calls(connection, side, since, first),
            _sum_slots(connection, side, first, last),
            sum_calls(connection, side, last, until),
        )
    )


def whole_slots(since: int, until: int) -> tuple[int, int]:
    """The quarter-hours wholly inside [since, until), as [first, last)."""
    return slot_of(since + SLOT_SECONDS - 1), slot_of(until)


def sum_calls(connection: Connection, side: Side, since: int, until: int) -> Sums:
    """The same, one call after the other: for less than a quarter-hour."""
    if since >= until:
        return NOTHING
    failed = func.sum(case((col(Call.status) >= 400, 1), else_=0))
    amount, latency = func.sum(col(Call.amount_atoms)), func.sum(col(Call.latency_us))
    statement = select(func.count(), failed, amount, latency).where(
        col(Call.side) == side, col(Call.at_ms) >= since * 1000, col(Call.at_ms) < until * 1000
    )
    return sums_of(connection.execute(statement).one())


def read_slots(connection: Connection, side: Side, first: int, last: int) -> dict[int, Sums]:
    """Sums of each quarter-hour that begins in [first, last) and had calls."""
    slots = _slots_between(side, first, last)
    columns = [func.sum(slots.c[name]) for name in NAMES]
    statement = select(slots.c.slot, *columns).group_by(slots.c.slot)
    return {row[0]: sums_of(row[1:]) for row in connection.execute(statement)}


def _sum_slots(connection: Connection, side: Side, first: int, last: int) -> Sums:
    slots = _slots_between(side, first, last)
    statement = select(*(func.sum(slots.c[name]) for name in NAMES))
    return sums_of(connection.execute(statement).one())


def _slots_between(side: Side, first: int, last: int) -> Subquery:
    def part(table: type[CallRollup] | type[CallHistory]) -> Any:
        inside: list[ColumnElement[bool]] = [
            col(table.side) == side,
            col(table.slot) >= first,
            col(table.slot) < last,
        ]
        sums = [func.sum(getattr(table, name)).label(name) for name in NAMES]
        return select(col(table.slot), *sums).where(*inside).group_by(col(table.slot))

    return union_all(part(CallRollup), part(CallHistory)).subquery()
