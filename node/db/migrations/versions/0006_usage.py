"""Calls are counted by quarter-hour, with older sums and all-time totals in tables beside,
and hours per key or customer, route and status.

A quarter-hour, because the hours of every time zone are made of them. What was counted by
hour is counted anew from the journal, which has every call.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SLOT_MS, _HOUR_MS = 900_000, 3_600_000


def _counters(table: str, *key: sa.Column[object], **options: Any) -> None:
    names = [column.name for column in key]
    op.create_table(
        table,
        *key,
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("errors", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.BigInteger(), nullable=False),
        sa.Column("amount_atoms", sa.BigInteger(), nullable=False),
        sa.Column("latency_us", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*names),
        **options,
    )


def _name(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.String(), nullable=False)


def _status() -> sa.Column[object]:
    return sa.Column("status", sa.Integer(), nullable=False)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _count_again(time: str, span_ms: int, **apart: str) -> None:
    """`apart`: more columns of the key, and what they are of a call."""
    names, values = ", ".join((time, *apart)), ", ".join(apart.values())
    places = ", ".join(str(n + 1) for n in range(3 + len(apart)))
    op.execute(
        f"INSERT INTO call_rollup (side, listing_id, {names},"
        " calls, errors, paid, amount_atoms, latency_us, bytes_out)"
        f" SELECT side, listing_id, at_ms / {span_ms} * {span_ms // 1000}, {values},"
        " COUNT(*), SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END),"
        " SUM(CASE WHEN scheme IS NOT NULL AND amount_atoms > 0 THEN 1 ELSE 0 END),"
        " SUM(amount_atoms), SUM(latency_us), SUM(bytes_out)"
        f" FROM call GROUP BY {places}"
    )


def upgrade() -> None:
    op.drop_table("call_rollup")
    key = (_name("side"), _time("slot"), _name("listing_id"), _name("key_id"))
    _counters("call_history", *key, sqlite_with_rowid=False)
    key = (_name("side"), _time("slot"), _name("listing_id"), _name("key_id"))
    _counters("call_rollup", *key, _name("route"), _status(), sqlite_with_rowid=False)
    key = (_name("side"), _name("key_id"), _time("hour"), _name("listing_id"))
    _counters("usage_hour", *key, _name("route"), _status(), sqlite_with_rowid=False)
    op.create_index("ix_usage_hour_hour", "usage_hour", ["side", "hour"])
    _counters("call_total", _name("side"), _name("listing_id"), _name("key_id"))
    columns = ["side", "listing_id", "slot", "calls", "errors"]
    op.create_index("ix_call_history_listing", "call_history", columns)
    op.create_index(
        "ix_call_history_errors",
        "call_history",
        ["side", "slot", "errors"],
        sqlite_where=sa.text("errors > 0"),
        postgresql_where=sa.text("errors > 0"),
    )
    op.add_column("call", sa.Column("route", sa.String(), nullable=False, server_default=""))
    op.execute("UPDATE call SET route = method || ' /*'")
    whose = "COALESCE(key_id, payer, '')"
    _count_again("slot", _SLOT_MS, key_id=whose, route="route", status="status")
    op.drop_index("ix_call_side_at", "call")
    columns = ["side", "at_ms", "listing_id", "status", "amount_atoms", "latency_us"]
    op.create_index("ix_call_side_at", "call", columns)
    op.create_index("ix_event_severity", "event", ["severity", "id"])


def downgrade() -> None:
    op.drop_index("ix_event_severity", "event")
    op.drop_index("ix_call_side_at", "call")
    op.create_index("ix_call_side_at", "call", ["side", "at_ms"])
    op.drop_column("call", "route")
    for table in ("usage_hour", "call_total", "call_history", "call_rollup"):
        op.drop_table(table)
    key = (_name("side"), _time("hour"), _name("listing_id"), _name("key_id"))
    _counters("call_rollup", *key)
    _count_again("hour", _HOUR_MS, key_id="COALESCE(key_id, '')")
