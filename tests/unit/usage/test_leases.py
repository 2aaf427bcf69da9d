"""Several processes on one database share a quota, and together never pass it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, text

from finance.store import Batch
from node.db import presence
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.db.presence import Presence
from node.usage import leases as leasing
from node.usage.leases import Leases, open_leases
from node.usage.quotas import Meter, QuotaExceeded, Quotas, key_subject, used_together

NOW = 1_780_000_000


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = open_engine(request.getfixturevalue("postgres").new_database())
    upgrade(engine)
    yield engine
    engine.dispose()


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


async def call(quotas: Quotas, journal: Journal, key: str, limit: int) -> bool:
    """One call as the proxy books it; False when it is refused."""
    try:
        held = await quotas.claim(key_subject(key), Meter.CALLS, 1, limit, NOW, shared=True)
    except QuotaExceeded:
        return False
    await journal.commit(Batch([], [held.commit()]))
    return True


def process(url: str, name: str, calls: int, limit: int, told: Any, both: Any) -> None:
    """A process of its own, with its own memory; tells how many of its calls came through."""

    async def run() -> int:
        engine = open_engine(url)
        journal, quotas = Journal(engine), Quotas(engine, open_leases(engine))
        await quotas.load(NOW)
        both.wait()
        keys = [f"{name}{number % 7}" for number in range(calls)]
        through = await asyncio.gather(*(call(quotas, journal, key, limit) for key in keys))
        journal.close()
        await quotas.stop()
        engine.dispose()
        return sum(through)

    told.put(asyncio.run(run()))


def test_500_calls_at_once_over_two_processes_let_exactly_100_through(shared: Engine) -> None:
    context = multiprocessing.get_context("spawn")
    told, both = context.Queue(), context.Barrier(2)
    started = [
        context.Process(target=process, args=(url_of(shared), name, 250, 100, told, both))
        for name in "ab"
    ]
    for each in started:
        each.start()
    counts = [told.get(timeout=60) for _ in started]
    for each in started:
        each.join(60)
    assert sum(counts) == 100
    assert used_together(shared, Meter.CALLS, NOW) == 100


async def opened(engine: Engine, count: int) -> list[tuple[Quotas, Journal]]:
    """As many processes, but for their memory, which they have of their own here too."""
    found = []
    for _ in range(count):
        quotas = Quotas(engine, Leases(engine))
        await quotas.load(NOW)
        found.append((quotas, Journal(engine)))
    return found


async def closed(parts: list[tuple[Quotas, Journal]]) -> None:
    for quotas, journal in parts:
        journal.close()
        await quotas.stop()


async def test_a_process_that_ends_while_another_asks_has_used_what_it_used(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, its_journal), (other, other_journal) = await opened(shared, 2)
    # All of the limit is the first one's share, and it uses it up in its last moment.
    held = [one.claim(key_subject("a"), Meter.CALLS, 1, 10, NOW, shared=True) for _ in range(10)]
    increments = [each.commit() for each in await asyncio.gather(*held)]
    loop, departed = asyncio.get_running_loop(), Presence.departed
    monkeypatch.setattr(presence, "GONE_SECONDS", 0.0)

    async def end() -> None:
        await its_journal.commit(Batch([], increments))
        await closed([(one, its_journal)])

    def late(self: Presence, numbers: set[int]) -> Any:
        monkeypatch.setattr(Presence, "departed", departed)
        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        return departed(self, numbers)

    monkeypatch.setattr(Presence, "departed", late)
    with pytest.raises(QuotaExceeded):
        await other.claim(key_subject("b"), Meter.CALLS, 1, 10, NOW, shared=True)
    await closed([(other, other_journal)])


async def test_a_share_is_used_without_asking_the_database(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = await opened(shared, 1)
    quotas, journal = parts[0]
    asked = 0
    grant = Leases._grant

    def counted(self: Leases, *args: Any) -> Any:
        nonlocal asked
        asked += 1
        return grant(self, *args)

    monkeypatch.setattr(Leases, "_grant", counted)
    for _ in range(500):
        assert await call(quotas, journal, "a", 100_000)
    assert asked == 1
    await closed(parts)


async def test_what_one_does_not_need_the_others_get(shared: Engine) -> None:
    parts, limit = await opened(shared, 2), 1_500
    (idle, journal), (busy, its) = parts
    assert await call(idle, journal, "a", limit)  # and holds a sixteenth of it
    through = sum(await asyncio.gather(*(call(busy, its, "b", limit) for _ in range(limit))))
    assert through == limit - limit // 16
    await idle.tidy()
    await idle.tidy()
    await asyncio.sleep(leasing.EMPTY_SECONDS)
    through += sum(await asyncio.gather(*(call(busy, its, "b", limit) for _ in range(limit))))
    assert through == limit - 1 == used_together(shared, Meter.CALLS, NOW) - 1
    await closed(parts)


async def test_a_call_that_delivered_nothing_gives_its_part_to_whoever_comes(
    shared: Engine,
) -> None:
    parts = await opened(shared, 2)
    (one, _), (other, journal) = parts
    subject = key_subject("a")
    held = await one.claim(subject, Meter.CALLS, 1, 1, NOW, shared=True)
    assert not await call(other, journal, "b", 1)
    held.release()
    await one.tidy()
    await asyncio.sleep(leasing.EMPTY_SECONDS)
    assert await call(other, journal, "b", 1)
    assert used_together(shared, Meter.CALLS, NOW) == 1
    await closed(parts)


def hold_and_wait(url: str, told: Any) -> None:
    """Takes a share, and is killed with it."""

    async def run() -> None:
        engine = open_engine(url)
        quotas = Quotas(engine, open_leases(engine))
        await quotas.load(NOW)
        for _ in range(50):
            await quotas.claim(key_subject("a"), Meter.CALLS, 1, 100, NOW, shared=True)
        told.put("held")
        await asyncio.sleep(60)

    asyncio.run(run())


def test_the_share_of_a_killed_process_is_not_lost(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GONE_SECONDS", 1.0)
    context = multiprocessing.get_context("spawn")
    told = context.Queue()
    doomed = context.Process(target=hold_and_wait, args=(url_of(shared), told))
    doomed.start()
    assert told.get(timeout=60) == "held"
    assert doomed.pid is not None
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.join(60)

    async def use() -> int:
        parts = await opened(shared, 1)
        through = 0
        for _ in range(50):  # PostgreSQL notices the end of a connection in its own time
            through += sum([await call(*parts[0], "b", 100) for _ in range(10)])
            if through == 100:
                break
            await asyncio.sleep(leasing.EMPTY_SECONDS / 5)
        await closed(parts)
        return through

    assert asyncio.run(use()) == 100


async def test_what_is_counted_and_what_is_held_never_pass_the_limit(shared: Engine) -> None:
    parts, limit = await opened(shared, 3), 3_000
    for _ in range(12):
        wanted = [
            call(quotas, journal, "k", limit) for quotas, journal in parts for _ in range(100)
        ]
        await asyncio.gather(*wanted)
        for quotas, _ in parts:
            await quotas.tidy()
        with shared.connect() as connection:
            held = connection.execute(
                text("SELECT COALESCE(SUM(allowed - used), 0) FROM quota_lease WHERE owner <> 0")
            ).scalar_one()
        assert used_together(shared, Meter.CALLS, NOW) + int(held) <= limit
    assert used_together(shared, Meter.CALLS, NOW) == limit
    await closed(parts)


async def test_a_process_that_was_thought_gone_uses_nothing_of_what_others_got(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GONE_SECONDS", 1.0)
    (cut_off, its), (other, journal) = parts = await opened(shared, 2)
    limit = 3_200
    assert await call(cut_off, its, "a", limit)  # and holds a part of the rest
    assert cut_off._leases is not None
    await asyncio.to_thread(cut_off._leases._presence.leave)  # as a database does that fails over
    rest = (key_subject("b"), Meter.CALLS, limit - 1, limit, NOW)
    with pytest.raises(QuotaExceeded):
        await other.claim(*rest, shared=True)
    await asyncio.sleep(1.2)
    await other.tidy()
    held = await other.claim(*rest, shared=True)
    await journal.commit(Batch([], [held.commit()]))
    assert not await call(cut_off, its, "a", limit)
    await cut_off.tidy()
    assert not await call(cut_off, its, "a", limit)
    assert used_together(shared, Meter.CALLS, NOW) == limit
    await closed(parts)
