"""Booking calls: the row and its hourly rollup, as writes for the journal."""

from __future__ import annotations

import os

import msgspec
from sqlalchemy import insert, text

from finance.store import Increment, Write
from node.usage.models import Call, Side

INSERT_CALL = insert(Call)

# The same words on SQLite and PostgreSQL.
ADD_TO_ROLLUP = text(
    "INSERT INTO call_rollup (side, hour, listing_id, key_id,"
    " calls, errors, paid, amount_atoms, latency_us, bytes_out)"
    " VALUES (:side, :hour, :listing_id, :key_id,"
    " :calls, :errors, :paid, :amount_atoms, :latency_us, :bytes_out)"
    " ON CONFLICT (side, hour, listing_id, key_id) DO UPDATE SET"
    " calls = call_rollup.calls + excluded.calls,"
    " errors = call_rollup.errors + excluded.errors,"
    " paid = call_rollup.paid + excluded.paid,"
    " amount_atoms = call_rollup.amount_atoms + excluded.amount_atoms,"
    " latency_us = call_rollup.latency_us + excluded.latency_us,"
    " bytes_out = call_rollup.bytes_out + excluded.bytes_out"
)


def new_call_id(now_ms: int) -> str:
    """128 bits in hex, ordered by time like a UUIDv7, so that new rows lie side by side."""
    return f"{now_ms:012x}{os.urandom(10).hex()}"


class CallRecord(msgspec.Struct, frozen=True):
    """What is known of a call once it is over; fields as in `node.usage.models.Call`."""

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
        """Its part of the hourly rollup."""
        return Increment(
            ADD_TO_ROLLUP,
            (
                ("side", self.side),
                ("hour", self.at_ms // 3_600_000 * 3600),
                ("listing_id", self.listing_id),
                ("key_id", self.key_id or ""),
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
