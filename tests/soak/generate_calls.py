"""Millions of calls in minutes, as a node would have journaled them in a month.

    python -m tests.soak.generate_calls sqlite:///farebox.db --calls 10000000 --ledger

The rows are made by the database itself from their number alone, so the same count gives
the same calls on SQLite and PostgreSQL; `synthetic_call` says what call `n` is.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, insert, text

from catalog.models import Listing, ListingOrigin
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.usage.calls import CallRecord
from node.usage.models import Side
from node.usage.totals import move_quiet_sums

MONTH_SECONDS = 30 * 86_400
LISTINGS = 12  # on each side
KEYS = 8
RARE = 4  # calls of the listing that is hardly ever called
STEP = 500_000  # calls per transaction


@dataclass(frozen=True)
class Month:
    """`calls` calls, evenly spread over the 30 days that end at `until` (Unix seconds)."""

    calls: int
    until: int

    @property
    def since(self) -> int:
        return self.until - MONTH_SECONDS

    @property
    def rare_every(self) -> int:
        return self.calls // RARE + 1


def synthetic_call(month: Month, n: int) -> CallRecord:
    """Call `n` of the month, in the words of the journal."""
    h = n * 2_654_435_761 % 4_294_967_296
    at_ms = month.since * 1000 + n * MONTH_SECONDS * 1000 // month.calls
    side = Side.SERVED if h // 16 % 10 < 6 else Side.BOUGHT
    listing = "rare" if n % month.rare_every == 7 else f"{h // 64 % LISTINGS:02d}"
    status = 502 if h // 256 % 50 == 3 else 200
    paid = status < 400 and h // 1024 % 20 > 0
    return CallRecord(
        id=f"{at_ms:012x}{n:020x}",
        side=side,
        at_ms=at_ms,
        listing_id=f"lst_{side}_{listing}",
        method="GET",
        path="/forecast/lisbon",
        status=status,
        latency_us=2_000 + h % 90_000,
        key_id=f"key_{h // 4096 % KEYS}" if side is Side.BOUGHT else None,
        payer="0x90f79bf6eb2c4f870365e785982e1f101e93b906" if side is Side.SERVED else None,
        scheme="batch-settlement" if paid else None,
        amount_atoms=1_000 + h // 32 % 5 * 250 if paid else 0,
        error="upstream_failed" if status >= 400 else None,
        bytes_out=h % 5_000,
        route="GET /forecast/{city}",
    )


_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL"
    " SELECT n + 1 FROM numbers WHERE n + 1 < :last)",
    "postgresql": "WITH numbers(n) AS"
    " (SELECT generate_series(CAST(:first AS BIGINT), CAST(:last AS BIGINT) - 1))",
}
_ID = {
    "sqlite": "printf('%012x%020x', at_ms, n)",
    "postgresql": "lpad(to_hex(at_ms), 12, '0') || lpad(to_hex(n), 20, '0')",
}
_LISTING_NUMBER = {
    "sqlite": f"printf('%02d', h / 64 % {LISTINGS})",
    "postgresql": f"lpad((h / 64 % {LISTINGS})::text, 2, '0')",
}


def _insert_calls(dialect: str) -> str:
    return f"""
INSERT INTO call (id, side, at_ms, listing_id, method, path, route, key_id, payer, scheme,
  amount_atoms, status, error, latency_us, bytes_out)
{_NUMBERS[dialect]},
hashed AS (SELECT n, n * 2654435761 % 4294967296 AS h,
  :since_ms + n * :span_ms / :calls AS at_ms FROM numbers),
sided AS (SELECT n, h, at_ms,
  CASE WHEN h / 16 % 10 < 6 THEN 'served' ELSE 'bought' END AS side,
  CASE WHEN h / 256 % 50 = 3 THEN 502 ELSE 200 END AS status FROM hashed),
priced AS (SELECT n, h, at_ms, side, status,
  status < 400 AND h / 1024 % 20 > 0 AS paid FROM sided)
SELECT {_ID[dialect]}, side, at_ms,
  'lst_' || side || '_' ||
    CASE WHEN n % :rare_every = 7 THEN 'rare' ELSE {_LISTING_NUMBER[dialect]} END,
  'GET', '/forecast/lisbon', 'GET /forecast/{{city}}',
  CASE WHEN side = 'bought' THEN 'key_' || (h / 4096 % {KEYS}) END,
  CASE WHEN side = 'served' THEN '0x90f79bf6eb2c4f870365e785982e1f101e93b906' END,
  CASE WHEN paid THEN 'batch-settlement' END,
  CASE WHEN paid THEN 1000 + h / 32 % 5 * 250 ELSE 0 END,
  status, CASE WHEN status >= 400 THEN 'upstream_failed' END, 2000 + h % 90000, h % 5000
FROM priced ORDER BY n
"""


_COUNT_CALLS = """
INSERT INTO call_rollup (side, slot, listing_id, key_id, route, status,
  calls, errors, paid, amount_atoms, latency_us, bytes_out)
SELECT side, at_ms / 900000 * 900, listing_id, COALESCE(key_id, payer, ''), route, status, COUNT(*),
  SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END), SUM(CASE WHEN amount_atoms > 0 THEN 1 ELSE 0 END),
  SUM(amount_atoms), SUM(latency_us), SUM(bytes_out)
FROM call GROUP BY 1, 2, 3, 4, 5, 6
"""
_BOOK_CALLS = """
INSERT INTO ledger_entry (key, account, amount, channel_id, call_id, at)
SELECT CASE WHEN side = 'served' THEN 'charge:0xc1:' || id ELSE 'purchase:' || id END,
  CASE WHEN side = 'served' THEN 'charged' ELSE 'spent' END,
  CASE WHEN side = 'served' THEN amount_atoms ELSE -amount_atoms END,
  CASE WHEN side = 'served' THEN '0xc1' END, id, at_ms / 1000
FROM call WHERE scheme IS NOT NULL AND at_ms >= :since_ms AND at_ms < :until_ms ORDER BY id
"""
_INDEXED = "side, at_ms, listing_id, status, amount_atoms, latency_us"


def generate(engine: Engine, month: Month, ledger: bool = False) -> None:
    """Fill an empty database at the newest schema (blocking, minutes for millions)."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Nothing here is worth surviving a crash.
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
            connection.exec_driver_sql("PRAGMA cache_size=-200000")
            connection.exec_driver_sql("BEGIN")
        _insert_listings(connection, month)
        connection.execute(text("DROP INDEX ix_call_side_at"))
        connection.commit()
        _insert_all(connection, month)
        connection.execute(text(f"CREATE INDEX ix_call_side_at ON call ({_INDEXED})"))
        connection.execute(text(_COUNT_CALLS))
        connection.commit()
        if ledger:
            _book_all(connection, month)
        connection.invalidate()  # the next one is opened with the node's own settings
    move_quiet_sums(engine, month.until, gap_seconds=0)
    _tidy(engine)


def _insert_all(connection: Connection, month: Month) -> None:
    statement = text(_insert_calls(connection.dialect.name))
    for first in range(0, month.calls, STEP):
        values = {
            "first": first,
            "last": min(first + STEP, month.calls),
            "since_ms": month.since * 1000,
            "span_ms": MONTH_SECONDS * 1000,
            "calls": month.calls,
            "rare_every": month.rare_every,
        }
        connection.execute(statement, values)
        connection.commit()


def _book_all(connection: Connection, month: Month) -> None:
    step = MONTH_SECONDS * 1000 // 20
    for since_ms in range(month.since * 1000, month.until * 1000, step):
        connection.execute(text(_BOOK_CALLS), {"since_ms": since_ms, "until_ms": since_ms + step})
        connection.commit()


def _insert_listings(connection: Connection, month: Month) -> None:
    names = [*(f"{number:02d}" for number in range(LISTINGS)), "rare"]
    rows = [
        {
            "id": f"lst_{side}_{name}",
            "origin": ListingOrigin.OWN if side is Side.SERVED else ListingOrigin.REMOTE,
            "slug": f"weather-{name}",
            "name": f"Weather {name}",
            "base_url": "http://127.0.0.1:9",
            "created_at": month.since,
            "updated_at": month.since,
        }
        for side in Side
        for name in names
    ]
    connection.execute(insert(Listing), rows)


def _tidy(engine: Engine) -> None:
    """What autovacuum does in the life of a server, where `call_rollup` never holds more than
    some hours: here it held the whole month for a moment."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM FULL call_rollup"))
            connection.execute(text("VACUUM ANALYZE"))


def main() -> None:
    """The command in this file's first lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database_url")
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--until", type=int, default=int(time.time()), help="Unix seconds")
    parser.add_argument("--ledger", action="store_true", help="a ledger row per paid call, too")
    chosen = parser.parse_args()
    engine = open_engine(chosen.database_url)
    upgrade(engine)
    started = time.monotonic()
    generate(engine, Month(chosen.calls, chosen.until), chosen.ledger)
    print(f"{chosen.calls:,} calls in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
