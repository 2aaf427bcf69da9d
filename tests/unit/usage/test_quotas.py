"""Nobody gets past a quota together, and nothing is counted twice or lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, select
from sqlmodel import col

from finance.errors import StoreConflict
from finance.store import Batch, Write
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.usage.events import event
from node.usage.metering import QuotaUsage
from node.usage.models import Event
from node.usage.quotas import (
    ALL_KEYS,
    Meter,
    QuotaExceeded,
    Quotas,
    key_subject,
    used_by_subject,
    used_together,
)
from node.usage.windows import window_of

NOW = int(datetime(2026, 5, 12, tzinfo=UTC).timestamp())
KEY = key_subject("key_1")


def at(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type, misc]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("moment", "start", "end"),
    [
        (at(2026, 1, 1, 0, 0, 59), at(2025, 12, 1, 0, 1), at(2026, 1, 1, 0, 1)),
        (at(2026, 1, 1, 0, 1, 0), at(2026, 1, 1, 0, 1), at(2026, 2, 1, 0, 1)),
        (at(2026, 1, 31, 23, 59, 59), at(2026, 1, 1, 0, 1), at(2026, 2, 1, 0, 1)),
        (at(2028, 2, 29, 12), at(2028, 2, 1, 0, 1), at(2028, 3, 1, 0, 1)),
        (at(2028, 3, 1, 0, 0, 59), at(2028, 2, 1, 0, 1), at(2028, 3, 1, 0, 1)),
        (at(2026, 3, 1, 0, 1, 0), at(2026, 3, 1, 0, 1), at(2026, 4, 1, 0, 1)),
        (at(2026, 12, 31, 23, 59, 59), at(2026, 12, 1, 0, 1), at(2027, 1, 1, 0, 1)),
    ],
)
def test_a_month_of_quotas_begins_on_the_first_a_minute_past_midnight(
    moment: int, start: int, end: int
) -> None:
    window = window_of(moment)
    assert (window.start, window.end) == (start, end)


async def test_500_calls_at_once_against_100_left_let_exactly_100_through(engine: Engine) -> None:
    journal, quotas = Journal(engine), Quotas(engine)
    await quotas.load(NOW)

    async def call() -> bool:
        try:
            held = quotas.reserve(KEY, Meter.CALLS, 1, 100, NOW)
        except QuotaExceeded:
            return False
        await asyncio.sleep(0)
        await journal.commit(Batch([], [held.commit()]))
        return True

    through = await asyncio.gather(*(call() for _ in range(500)))
    journal.close()
    assert sum(through) == 100
    assert used_by_subject(engine, Meter.CALLS, NOW) == {KEY: 100}


async def test_a_restart_goes_on_where_the_books_are(engine: Engine) -> None:
    journal = Journal(engine)
    first = Quotas(engine)
    await first.load(NOW)
    held = [first.reserve(KEY, Meter.CALLS, 1, 10, NOW) for _ in range(9)]
    for each in held[:7]:
        await journal.commit(Batch([], [each.commit()]))
    journal.close()
    second = Quotas(engine)  # the two that were under way were not delivered
    await second.load(NOW)
    assert second.used(KEY, Meter.CALLS, NOW) == 7
    second.reserve(KEY, Meter.CALLS, 3, 10, NOW)
    with pytest.raises(QuotaExceeded) as refused:
        second.reserve(KEY, Meter.CALLS, 1, 10, NOW)
    assert (refused.value.used, refused.value.limit) == (10, 10)
    assert refused.value.resets_at == at(2026, 6, 1, 0, 1)


async def test_what_was_not_delivered_is_given_back_once(engine: Engine) -> None:
    quotas = Quotas(engine)
    await quotas.load(NOW)
    held = quotas.reserve(KEY, Meter.CALLS, 1, 1, NOW)
    held.release()
    held.release()
    assert quotas.used(KEY, Meter.CALLS, NOW) == 0
    quotas.reserve(KEY, Meter.CALLS, 1, 1, NOW)


async def test_a_transaction_that_fails_counts_nothing(engine: Engine) -> None:
    journal, quotas = Journal(engine), Quotas(engine)
    await quotas.load(NOW)
    held = quotas.reserve(KEY, Meter.CALLS, 1, 1, NOW)
    line = event("x", "info", "x", NOW)
    impossible = Write(line.statement, line.params, rows=2)
    with pytest.raises(StoreConflict):
        await journal.commit(Batch([impossible], [held.commit()]))
    held.release()
    journal.close()
    assert used_by_subject(engine, Meter.CALLS, NOW) == {}
    assert quotas.used(KEY, Meter.CALLS, NOW) == 0
    with engine.connect() as connection:
        assert connection.execute(select(col(Event.id))).all() == []


async def test_the_quota_of_integrators_is_shared_by_all_of_them(engine: Engine) -> None:
    journal, quotas = Journal(engine), Quotas(engine)
    await quotas.load(NOW)
    for number in range(10):
        held = quotas.reserve(key_subject(str(number)), Meter.CALLS, 1, 10, NOW, shared=True)
        await journal.commit(Batch([], [held.commit()]))
    with pytest.raises(QuotaExceeded):
        quotas.reserve(key_subject("new"), Meter.CALLS, 1, 10, NOW, shared=True)
    again = Quotas(engine)
    await again.load(NOW)
    journal.close()
    assert again.used(ALL_KEYS, Meter.CALLS, NOW) == 10
    assert used_together(engine, Meter.CALLS, NOW) == 10
    assert quotas.reserve("sub:1", Meter.CALLS, 10, 10, NOW, shared=True)


async def test_each_month_begins_at_nothing_and_a_late_call_counts_where_it_began(
    engine: Engine,
) -> None:
    journal, quotas = Journal(engine), Quotas(engine)
    last, first = at(2028, 3, 1, 0, 0, 59), at(2028, 3, 1, 0, 1, 0)
    await quotas.load(last)
    late = quotas.reserve(KEY, Meter.CALLS, 1, 1, last)
    with pytest.raises(QuotaExceeded):
        quotas.reserve(KEY, Meter.CALLS, 1, 1, last)
    new = quotas.reserve(KEY, Meter.CALLS, 1, 1, first)
    await journal.commit(Batch([], [late.commit(), new.commit()]))
    journal.close()
    with engine.connect() as connection:
        rows = connection.execute(
            select(col(QuotaUsage.window_start), col(QuotaUsage.used)).order_by(
                col(QuotaUsage.window_start)
            )
        ).all()
    assert [tuple(row) for row in rows] == [(at(2028, 2, 1, 0, 1), 1), (first, 1)]


@pytest.mark.parametrize("wrong", [at(1970, 1, 1, 12), at(2027, 5, 12)])
async def test_a_clock_that_was_wrong_by_months_gives_no_quota_twice(
    engine: Engine, wrong: int
) -> None:
    """A machine without a battery begins in 1970, until the network tells it the time."""
    journal, before = Journal(engine), Quotas(engine)
    await before.load(NOW)
    await journal.commit(Batch([], [before.reserve(KEY, Meter.CALLS, 90, 100, NOW).commit()]))
    for quotas, seen in ((Quotas(engine), (wrong, NOW)), (before, (NOW, wrong, NOW))):
        await quotas.load(seen[0])
        for moment in seen[:-1]:
            (await quotas.claim(KEY, Meter.CALLS, 1, None, moment)).release()
        held = await asyncio.gather(
            *(quotas.claim(KEY, Meter.CALLS, 1, 100, seen[-1]) for _ in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, QuotaExceeded) for each in held) == 10
    journal.close()


async def test_seconds_of_streams_are_a_meter_of_their_own(engine: Engine) -> None:
    quotas = Quotas(engine)
    await quotas.load(NOW)
    quotas.reserve(KEY, Meter.CALLS, 5, 5, NOW)
    held = quotas.reserve(KEY, Meter.STREAM_SECONDS, 30, 60, NOW)
    assert held.commit(12).deltas == (("used", 12),)
    assert quotas.used(KEY, Meter.STREAM_SECONDS, NOW) == 12
    assert quotas.reserve(KEY, Meter.STREAM_SECONDS, 48, 60, NOW)
