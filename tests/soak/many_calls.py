"""A database with as many calls as a busy year leaves, written straight by SQLite."""

from __future__ import annotations

from sqlalchemy import Engine, text

from node.db.engine import writer

_PART = 500_000
_CALLS = text(
    "WITH RECURSIVE n(i) AS (SELECT :start UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :stop)"
    " INSERT INTO call (id, side, at_ms, listing_id, method, path, payer, scheme, amount_atoms,"
    " status, latency_us, bytes_out) SELECT lower(hex(randomblob(13))), 'served',"
    " 1700000000000 + i * 3, 'listing-' || (i % 40), 'GET', '/v1/forecast/' || (i % 9973),"
    " '0x' || lower(hex(randomblob(20))), 'batch-settlement', 1000, 200, 1500 + i % 977, 900"
    " FROM n"
)
_LEDGER = text(
    "WITH RECURSIVE n(i) AS (SELECT :start UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :stop)"
    " INSERT INTO ledger_entry (key, account, amount, channel_id, call_id, at)"
    " SELECT 'charge:0x' || lower(hex(zeroblob(24))) || printf('%016x', i % 500) || ':' || i,"
    " 'charged', 1000, '0x' || lower(hex(zeroblob(24))) || printf('%016x', i % 500),"
    " lower(hex(randomblob(13))), 1700000000 + i / 300 FROM n"
)


def write_calls(engine: Engine, count: int) -> None:
    """Add `count` served calls and their charges."""
    for start in range(0, count, _PART):
        bounds = {"start": start, "stop": min(start + _PART, count)}
        with writer(engine).begin() as connection:
            connection.execute(_CALLS, bounds)
            connection.execute(_LEDGER, bounds)
