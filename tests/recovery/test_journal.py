"""Group commit: what is acknowledged is on disk, and one bad batch spoils no other."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, insert, text
from sqlmodel import SQLModel

from finance.buying.models import SpendCounter
from finance.errors import StoreConflict, StoreUnavailable
from finance.ledger import Account, entry
from finance.store import Batch, Write
from node.db.engine import open_engine
from node.db.journal import Journal
from node.usage.calls import CallRecord
from node.usage.models import Side

COUNTER = insert(SpendCounter)
RAISE_TO = text(
    "UPDATE spend_counter SET spent_atoms = :to WHERE scope = 's' AND spent_atoms = :seen"
)


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    engine = open_engine(database_url)
    SQLModel.metadata.create_all(engine)
    journal = Journal(engine)
    yield journal
    journal.close()
    engine.dispose()


def counter(spent: int = 0) -> Write:
    return Write(COUNTER, {"scope": "s", "subject": "*", "window": "w", "spent_atoms": spent})


def count(journal: Journal, table: str) -> int:
    with journal.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


async def test_what_waits_together_is_committed_together(migrated_engine: Engine) -> None:
    statements: list[str] = []
    journal = Journal(migrated_engine)

    @event.listens_for(migrated_engine, "checkout")
    def _trace(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        connection.set_trace_callback(statements.append)

    writes = [entry(f"k{n}", Account.CHARGED, 1, 0) for n in range(200)]
    await asyncio.gather(*(journal.commit(Batch([write])) for write in writes))
    assert count(journal, "ledger_entry") == 200
    assert 0 < statements.count("COMMIT") < 50
    journal.close()


async def test_a_guard_that_fails_refuses_only_its_batch(journal: Journal) -> None:
    await journal.commit(Batch([counter()]))
    good = [Batch([entry(f"k{n}", Account.CHARGED, 1, 0)]) for n in range(20)]
    stale = Batch([entry("lost", Account.CHARGED, 1, 0), Write(RAISE_TO, {"to": 9, "seen": 5})])
    outcomes = await asyncio.gather(
        *(journal.commit(batch) for batch in (*good[:10], stale, *good[10:])),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [StoreConflict]
    assert outcomes[10] is not None
    assert count(journal, "ledger_entry") == 20


async def test_a_key_that_exists_refuses_only_its_batch(journal: Journal) -> None:
    batches = [Batch([entry("same", Account.CHARGED, 1, 0)]) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(journal.commit(batch) for batch in batches), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StoreConflict) for outcome in outcomes) == 4


async def test_a_batch_no_column_takes_leaves_the_journal_working(journal: Journal) -> None:
    bad = Batch([entry("bad", Account.CHARGED, object(), 0)])  # type: ignore[arg-type]
    good = Batch([entry("good", Account.CHARGED, 1, 0)])
    outcomes = await asyncio.gather(
        journal.commit(bad), journal.commit(good), return_exceptions=True
    )
    assert isinstance(outcomes[0], Exception) and outcomes[1] is None
    await journal.commit(Batch([entry("later", Account.CHARGED, 1, 0)]))
    assert count(journal, "ledger_entry") == 2


async def test_counters_of_one_moment_add_up(journal: Journal) -> None:
    records = [
        CallRecord(f"{n:032x}", Side.SERVED, 3_600_000, "l", "GET", "/", 200, 10, amount_atoms=5)
        for n in range(50)
    ]
    await asyncio.gather(*(journal.commit(Batch([r.write()], [r.increment()])) for r in records))
    with journal.engine.connect() as connection:
        row = connection.execute(text("SELECT calls, amount_atoms FROM call_rollup")).one()
    assert tuple(row) == (50, 250)


async def test_a_closed_journal_takes_nothing(journal: Journal) -> None:
    journal.close()
    with pytest.raises(StoreUnavailable):
        await journal.commit(Batch([counter()]))


CHILD = """
import asyncio, sys
from finance.ledger import Account, entry
from finance.store import Batch
from node.db.engine import open_engine
from node.db.journal import Journal

async def one(journal, n):
    await journal.commit(Batch([entry(f"k{n}", Account.CHARGED, 1, 0)]))
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()

async def main():
    journal = Journal(open_engine(sys.argv[1]))
    for start in range(0, 100_000, 16):
        await asyncio.gather(*(one(journal, n) for n in range(start, start + 16)))

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(database_url: str) -> None:
    engine = open_engine(database_url)
    SQLModel.metadata.create_all(engine)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, database_url],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert child.stdout is not None
    acknowledged = [child.stdout.readline().strip() for _ in range(400)]
    child.send_signal(signal.SIGKILL)
    acknowledged += child.stdout.read().split()[:-1]
    child.wait()
    with engine.connect() as connection:
        kept = set(connection.execute(text("SELECT key FROM ledger_entry")).scalars())
    assert {f"k{n}" for n in acknowledged if n} <= kept
    engine.dispose()


async def test_a_time_limit_that_is_met_after_all_cancels_nothing_later(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes while the last thing it limits is written."""
    apply = journal._apply

    def slowly(batches: Sequence[Batch]) -> list[Exception | None]:
        time.sleep(0.2)
        return apply(batches)

    monkeypatch.setattr(journal, "_apply", slowly)
    async with asyncio.timeout(0.05):
        await journal.commit(Batch([counter()]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert count(journal, "spend_counter") == 1
