"""Every API that was called, with its sums since the first call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, select, union_all
from sqlmodel import col

from catalog.models import Listing
from node.usage.models import CallRollup, CallTotal, Side
from node.usage.windows import NAMES, Sums, sums_of


class SortBy(StrEnum):
    """Columns of the table."""

    NAME = "name"
    CALLS = "calls"
    SUCCESS = "success"
    ERRORS = "errors"
    AMOUNT = "amount"
    LATENCY = "latency"
    SUCCESS_RATE = "success_rate"


@dataclass(frozen=True, slots=True)
class ApiSums:
    """One API; `name` is its id when its listing is gone."""

    listing_id: str
    name: str
    sums: Sums


def api_sums(connection: Connection, side: Side) -> tuple[ApiSums, ...]:
    """Every API of one side, most calls first, inside the caller's snapshot."""

    def part(table: type[CallRollup] | type[CallTotal]) -> Any:
        columns = [getattr(table, name) for name in ("listing_id", *NAMES)]
        return select(*columns).where(col(table.side) == side)

    both = union_all(part(CallTotal), part(CallRollup)).subquery()
    sums = (
        select(both.c.listing_id, *(func.sum(both.c[name]).label(name) for name in NAMES))
        .group_by(both.c.listing_id)
        .subquery()
    )
    statement = select(
        sums.c.listing_id, col(Listing.name), *(sums.c[name] for name in NAMES)
    ).outerjoin(Listing, col(Listing.id) == sums.c.listing_id)
    rows = [
        ApiSums(row[0], row[1] or row[0], sums_of(row[2:])) for row in connection.execute(statement)
    ]
    return sort_breakdown(rows, SortBy.CALLS, descending=True)


def sort_breakdown(rows: Sequence[ApiSums], by: SortBy, descending: bool) -> tuple[ApiSums, ...]:
    """In the order of one column; equals stand by name, so that pages never shuffle."""
    named = sorted(rows, key=lambda row: (row.name.casefold(), row.listing_id))
    if by is SortBy.NAME:
        return tuple(reversed(named) if descending else named)
    return tuple(sorted(named, key=_KEYS[by], reverse=descending))


def _success_rate(row: ApiSums) -> float:
    return row.sums.succeeded / row.sums.calls if row.sums.calls else 0.0


_KEYS: dict[SortBy, Callable[[ApiSums], float]] = {
    SortBy.CALLS: lambda row: row.sums.calls,
    SortBy.SUCCESS: lambda row: row.sums.succeeded,
    SortBy.ERRORS: lambda row: row.sums.errors,
    SortBy.AMOUNT: lambda row: row.sums.amount_atoms,
    SortBy.LATENCY: lambda row: row.sums.mean_latency_us or 0,
    SortBy.SUCCESS_RATE: _success_rate,
}
