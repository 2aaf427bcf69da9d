"""Calls of integrators by key and hour, from the sums that the journal keeps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select, union_all
from sqlmodel import col

from node.durations import HOUR
from node.usage.models import CallHistory, CallRollup, ConsumerKey, Side
from node.usage.windows import NAMES, NOTHING, Sums, add_up, sums_of


@dataclass(frozen=True, slots=True)
class KeyHours:
    """Sums of each key by the start of the hour, Unix seconds."""

    sums: dict[str, dict[int, Sums]]

    def of(self, key_id: str, start: int) -> Sums:
        return self.sums.get(key_id, {}).get(start, NOTHING)

    def together(self, start: int) -> Sums:
        """Of all keys."""
        return add_up(each.get(start, NOTHING) for each in self.sums.values())


def read_key_slots(
    connection: Connection, first: int, last: int, key_id: str | None = None
) -> dict[str, dict[int, Sums]]:
    """Quarter-hours that begin in [first, last), of one key or of every integrator (blocking)."""

    def part(table: type[CallRollup] | type[CallHistory]) -> Any:
        wanted: list[ColumnElement[bool]] = [
            col(table.side) == Side.BOUGHT,
            col(table.slot) >= first,
            col(table.slot) < last,
        ]
        integrators = select(col(ConsumerKey.id)).where(col(ConsumerKey.integrator))
        mine = col(table.key_id).in_(integrators) if key_id is None else col(table.key_id) == key_id
        sums = [func.sum(getattr(table, name)).label(name) for name in NAMES]
        columns = (col(table.key_id), col(table.slot))
        return select(*columns, *sums).where(*wanted, mine).group_by(*columns)

    found: defaultdict[str, dict[int, Sums]] = defaultdict(dict)
    for row in connection.execute(union_all(part(CallRollup), part(CallHistory))):
        slots = found[row[0]]
        slots[row[1]] = slots.get(row[1], NOTHING) + sums_of(row[2:])
    return dict(found)


def read_key_hours(
    connection: Connection, starts: tuple[int, ...], key_id: str | None = None
) -> KeyHours:
    """Hours that begin at `starts`, which follow each other (blocking)."""
    slots = read_key_slots(connection, starts[0], starts[-1] + HOUR, key_id)
    hours: dict[str, dict[int, Sums]] = {}
    for key, sums in slots.items():
        mine: dict[int, Sums] = {}
        hours[key] = mine
        for slot, each in sums.items():
            start = slot - (slot - starts[0]) % HOUR
            mine[start] = mine.get(start, NOTHING) + each
    return KeyHours(hours)
