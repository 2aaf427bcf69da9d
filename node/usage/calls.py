"""Booking calls: the row and what it adds to the sums, as writes for the journal."""

from __future__ import annotations

import os
from typing import Any, Self

import msgspec
from sqlalchemy import Row, TextClause, insert, text

from finance.store import Increment, Write
from node.usage.models import Call, Side

SLOT_SECONDS = 900  # calls are counted by quarter-hour: see CallRollup

COUNTERS = ("calls", "errors", "paid", "amount_atoms", "latency_us", "bytes_out")
SLOT_KEY = ("side", "slot", "listing_id", "key_id")
ROLLUP_KEY = (*SLOT_KEY, "route", "status")

# Whatever else a stranger calls a method is one: the names of routes are few.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"})

INSERT_CALL = insert(Call)


def adding_to(table: str, *key: str) -> TextClause:
    """Counters put into `table`, or added to the row with this key. The same words on SQLite
    and PostgreSQL."""
    names = (*key, *COUNTERS)
    sums = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in COUNTERS)
    values = ", ".join(f":{name}" for name in names)
    return text(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"
        f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sums}"
    )


ADD_TO_ROLLUP = adding_to("call_rollup", *ROLLUP_KEY)


def new_call_id(now_ms: int) -> str:
    """128 bits in hex, ordered by time like a UUIDv7, so that new rows lie side by side."""
    return f"{now_ms:012x}{os.urandom(10).hex()}"


def route_name(method: str, template: str = "/*") -> str:
    """`GET /forecast/{city}`; without a template, what is known of a call's route."""
    return f"{method if method in _METHODS else '*'} {template}"


def slot_of(at_seconds: int) -> int:
    """The start of the quarter-hour a moment is in, Unix seconds."""
    return at_seconds - at_seconds % SLOT_SECONDS


class CallRecord(msgspec.Struct, frozen=True):
    """What is known of a call once it is over; fields as in `node.usage.models.Call`. `route`
    is empty where only the method is known."""

    id: str
    side: Side
    at_ms: int
    listing_id: str
    method: str
    path: str
    status: int
    latency_us: int
    key_id: str | None = None
    payer: str | None = None
    scheme: str | None = None
    amount_atoms: int = 0
    error: str | None = None
    bytes_out: int = 0
    route: str = ""

    @classmethod
    def of(cls, row: Call | Row[Any]) -> Self:
        """A call as it is journaled."""
        values = {name: getattr(row, name) for name in cls.__struct_fields__}
        return cls(**{**values, "side": Side(row.side)})

    def write(self) -> Write:
        """The row of `call`."""
        return Write(
            INSERT_CALL,
            {
                "id": self.id,
                "side": self.side,
                "at_ms": self.at_ms,
                "listing_id": self.listing_id,
                "method": self.method,
                "path": self.path,
                "route": self.route or route_name(self.method),
                "key_id": self.key_id,
                "payer": self.payer,
                "scheme": self.scheme,
                "amount_atoms": self.amount_atoms,
                "status": self.status,
                "error": self.error,
                "latency_us": self.latency_us,
                "bytes_out": self.bytes_out,
            },
        )

    def increment(self) -> Increment:
        """Its part of the sums."""
        return Increment(
            ADD_TO_ROLLUP,
            (
                ("side", self.side),
                ("slot", slot_of(self.at_ms // 1000)),
                ("listing_id", self.listing_id),
                ("key_id", self.key_id or self.payer or ""),
                ("route", self.route or route_name(self.method)),
                ("status", self.status),
            ),
            (
                ("calls", 1),
                ("errors", int(self.status >= 400)),
                ("paid", int(self.scheme is not None and self.amount_atoms > 0)),
                ("amount_atoms", self.amount_atoms),
                ("latency_us", self.latency_us),
                ("bytes_out", self.bytes_out),
            ),
        )


def replaced(before: CallRecord, after: CallRecord) -> list[Increment]:
    """What the sums change by where a call is journaled anew."""
    was = before.increment()
    taken_back = tuple((name, -delta) for name, delta in was.deltas)
    return [Increment(was.statement, was.key, taken_back), after.increment()]
