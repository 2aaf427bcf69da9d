"""Connection time is what an operator may be billed by: exact, also through crashes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from finance.store import Batch
from node.db import presence
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.stream_time import By, HourOfStreams, read_hours, read_totals, split_by_hour
from node.usage.streams import NODE_LOST, NODE_STOPPED, Stream, Streams

HOUR = 3600
AT = 1_772_323_200  # 2026-03-01 00:00:00 UTC


@dataclass
class Clock:
    """Unix seconds that a test moves."""

    now: float = float(AT)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    engine = open_engine(database_url)
    upgrade(engine)
    journal = Journal(engine)
    yield journal
    journal.close()
    engine.dispose()


def begin(
    streams: Streams, name: str, stop: Callable[[str], None] | None = None, key: str = "key-1"
) -> Stream:
    kind, asked = StreamKind.WEBSOCKET, stop or (lambda reason: None)
    return streams.open(name, Side.BOUGHT, kind, "weather", asked, key_id=key)


def rows(engine: Engine, columns: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT {columns} FROM stream_session ORDER BY id"))
        return [tuple(row) for row in found]


async def test_an_idle_stream_costs_its_time_to_the_second(journal: Journal) -> None:
    clock = Clock()
    streams = Streams(journal, clock, clock)
    await streams.start()
    stream = begin(streams, "a")
    clock.now += 3_601
    stream.end("closed")
    await streams.stop()
    found = rows(journal.engine, "seconds, state, reason, ended_at - started_at")
    assert found == [(3_601, "ended", "closed", 3_601)]


async def test_open_streams_are_written_by_one_batch_and_end_at_their_last_tick_in_a_crash(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GONE_SECONDS", 0.0)
    clock = Clock()
    dying = Streams(journal, clock, clock)
    for index in range(50):
        begin(dying, f"s{index:02}")
    clock.now += 15
    await dying.tick()
    clock.now += 7  # what a kill may cost at most: the time since the last tick
    again = Streams(journal, clock, clock)
    await again.start()
    found = rows(journal.engine, "seconds, state, reason, ended_at - started_at")
    assert found == [(15, "cut", NODE_LOST, 15)] * 50
    # A process that was only thought dead opens nothing again.
    await dying.tick()
    assert rows(journal.engine, "seconds, state") == [(15, "cut")] * 50
    await again.stop()


async def test_a_node_that_stops_asks_every_stream_to_close_and_bills_it(journal: Journal) -> None:
    clock = Clock()
    streams = Streams(journal, clock, clock)
    await streams.start()
    asked: list[str] = []
    polite = begin(streams, "a", lambda reason: (asked.append(reason), polite.end(reason)))  # type: ignore[func-returns-value]
    begin(streams, "b")  # one that does not listen
    clock.now += 20
    await streams.close_all(seconds=0.05)
    assert asked == [NODE_STOPPED]
    begin(streams, "c", asked.append)  # comes too late
    assert asked == [NODE_STOPPED] * 2
    await streams.stop()
    found = rows(journal.engine, "id, seconds, state, reason")
    assert found == [
        ("a", 20, "ended", NODE_STOPPED),
        ("b", 20, "cut", NODE_STOPPED),
        ("c", 0, "cut", NODE_STOPPED),
    ]


@pytest.mark.parametrize("step", [-3_600, 3_600])
async def test_a_clock_that_is_set_neither_takes_nor_adds_time(journal: Journal, step: int) -> None:
    clock, steady = Clock(), Clock()
    streams = Streams(journal, clock, steady)
    await streams.start()
    stream = begin(streams, "a")
    steady.now += 100
    clock.now += step
    await streams.tick()
    assert rows(journal.engine, "seconds, last_tick_at - started_at") == [(100, 100)]
    steady.now += 1
    stream.end("closed")
    await streams.stop()
    assert rows(journal.engine, "seconds, ended_at - started_at") == [(101, 101)]


async def test_hours_hold_exactly_the_seconds_that_fall_into_them(journal: Journal) -> None:
    clock = Clock(AT + HOUR - 61)
    streams = Streams(journal, clock, clock)
    await streams.start()
    first = begin(streams, "a")
    clock.now = AT + HOUR
    second = begin(streams, "b", key="key-2")
    clock.now = AT + 3 * HOUR
    first.end("closed")
    clock.now += 1
    second.end("closed")
    await streams.stop()
    engine, day = journal.engine, (AT, AT + 24 * HOUR)
    assert read_hours(engine, Side.BOUGHT, *day) == [
        HourOfStreams(AT, "", 61),
        HourOfStreams(AT + HOUR, "", 2 * HOUR),
        HourOfStreams(AT + 2 * HOUR, "", 2 * HOUR),
        HourOfStreams(AT + 3 * HOUR, "", 1),
    ]
    by_key = read_hours(engine, Side.BOUGHT, AT + HOUR, AT + HOUR + 60, By.KEY)
    assert by_key == [
        HourOfStreams(AT + HOUR, "key-1", 60),
        HourOfStreams(AT + HOUR, "key-2", 60),
    ]
    assert read_hours(engine, Side.SERVED, *day) == []
    assert read_hours(engine, Side.BOUGHT, *day, key_id="key-2")[-1].seconds == 1
    with engine.connect() as connection:
        month = read_totals(connection, Side.BOUGHT, AT + HOUR, AT + 30 * 24 * HOUR)
    assert {name: (each.seconds, each.streams) for name, each in month.items()} == {
        "key-1": (2 * HOUR, 1),
        "key-2": (2 * HOUR + 1, 1),
    }


@given(st.integers(0, 10**6), st.integers(0, 10**5))
def test_no_second_is_lost_or_counted_twice_between_hours(start: int, length: int) -> None:
    parts = list(split_by_hour(start, start + length))
    assert sum(seconds for _, seconds in parts) == length
    assert all(0 < seconds <= HOUR and hour % HOUR == 0 for hour, seconds in parts)
    assert len({hour for hour, _ in parts}) == len(parts)


async def test_ten_thousand_streams_are_read_at_once(journal: Journal) -> None:
    """A month of streams is a page, not a wait."""
    with writer(journal.engine).begin() as connection:
        connection.execute(
            text(
                "INSERT INTO stream_session (id, side, listing_id, key_id, kind, started_at,"
                " last_tick_at, ended_at, seconds, state, reason, owner) VALUES (:id, 'bought',"
                " 'weather', :key, 'sse', :at, :end, :end, 600, 'ended', 'closed', 1)"
            ),
            [
                {"id": f"{n:06}", "key": f"key-{n % 50}", "at": AT + n * 250, "end": end}
                for n in range(10_000)
                for end in [AT + n * 250 + 600]
            ],
        )
    hours = read_hours(journal.engine, Side.BOUGHT, AT, AT + 31 * 24 * HOUR)
    with journal.engine.connect() as connection:
        by_key = read_totals(connection, Side.BOUGHT, AT, AT + 31 * 24 * HOUR)
    assert sum(hour.seconds for hour in hours) == 6_000_000
    assert {time.seconds for time in by_key.values()} == {120_000} and len(by_key) == 50


async def test_streams_stop_though_a_tick_is_late_and_is_being_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told to stop while it writes hears of it afterwards, also when it is late by
    then: a node would not end else."""
    clock, writing, apply = Clock(), threading.Event(), journal._apply

    def slowly(batches: Sequence[Batch]) -> list[Exception | None]:
        writing.set()
        time.sleep(0.8)
        return apply(batches)

    streams = Streams(journal, clock, clock, tick_seconds=0.5, flush_seconds=0.01)
    await streams.start()
    monkeypatch.setattr(journal, "_apply", slowly)
    one = begin(streams, "one")
    clock.now += 1
    one.end("caller_closed")
    assert await asyncio.to_thread(writing.wait, 10)
    async with asyncio.timeout(10):
        await streams.stop()
    assert rows(journal.engine, "state, reason") == [("ended", "caller_closed")]
