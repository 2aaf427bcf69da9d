"""What is told of quotas and keys: once, when it happens, and again next month."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert, select
from sqlmodel import col

from node.accounts.audit import COMMAND
from node.alerts.alerts import Alerts
from node.alerts.models import Delivery, Notification
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.jobs.quotas import keys_job, quota_job
from node.usage.calls import CallRecord
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.metering import QuotaUsage
from node.usage.models import Side
from node.usage.overrides import grant_override
from node.usage.quotas import Meter, key_subject
from node.usage.tiers import UsageTiers, change_tiers
from node.usage.windows import window_of
from tests.conftest import book_calls

NOW = int(datetime(2026, 5, 12, 10, tzinfo=UTC).timestamp())
JUNE = int(datetime(2026, 6, 1, 0, 1, tzinfo=UTC).timestamp())
DAY = 86_400


class World:
    """A database whose integrators may make 100 calls a month, and a clock."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, NOW
        self.alerts = Alerts(engine, lambda: self.now)
        change_tiers(engine, UsageTiers(free_calls=100), COMMAND, NOW)

    def use(self, calls: int) -> None:
        """Set what one integrator has used this month."""
        table, start = QuotaUsage, window_of(self.now).start
        row = {"subject": key_subject("key_1"), "meter": "calls", "window_start": start}
        with writer(self.engine).begin() as connection:
            connection.execute(
                table.__table__.delete().where(col(table.window_start) == start)  # type: ignore[attr-defined]
            )
            connection.execute(insert(table), row | {"used": calls})

    async def look(self) -> None:
        await quota_job(self.alerts, lambda: self.now)()

    def told(self, *, still_open: bool = False) -> list[tuple[str, str]]:
        """(rule, subject) of what was told, in order."""
        statement = select(col(Notification.rule), col(Notification.subject))
        if still_open:
            statement = statement.where(col(Notification.resolved_at).is_(None))
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(statement.order_by(Notification.id))]  # type: ignore[arg-type, misc]

    def deliveries(self) -> int:
        with self.engine.connect() as connection:
            return len(connection.execute(select(col(Delivery.id))).all())


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    engine = open_engine(database_url)
    upgrade(engine)
    yield World(engine)
    engine.dispose()


async def test_each_threshold_is_told_once_by_32_at_once_and_again_next_month(
    world: World,
) -> None:
    async def all_at_once() -> None:
        jobs = [quota_job(Alerts(world.engine, lambda: world.now), lambda: world.now)] * 32
        await asyncio.gather(*(job() for job in jobs))

    world.use(79)
    await all_at_once()
    assert world.told() == []
    world.use(80)
    await all_at_once()
    assert world.told() == [("quota_near", "calls 2026-05")]
    assert world.deliveries() == 2  # email and webhook
    world.use(100)
    await all_at_once()
    await all_at_once()
    assert world.told() == [("quota_near", "calls 2026-05"), ("quota_full", "calls 2026-05")]
    assert world.deliveries() == 4
    world.now = JUNE - 1
    await world.look()
    assert world.told(still_open=True)[:2] == world.told()[:2]
    world.now = JUNE
    await all_at_once()
    assert world.told(still_open=True) == []
    world.use(100)
    await all_at_once()
    assert world.told(still_open=True) == [
        ("quota_near", "calls 2026-06"),
        ("quota_full", "calls 2026-06"),
    ]


async def test_an_override_ends_the_incident_and_its_end_tells_nothing_twice(world: World) -> None:
    world.use(100)
    await world.look()
    grant_override(world.engine, Meter.CALLS, 1000, NOW + 60, "backfill", NOW, COMMAND)
    await world.look()
    assert world.told(still_open=True) == []
    world.now += 60
    await world.look()
    assert len(world.told()) == 2


async def test_three_days_over_80_percent_are_told_on_the_third(world: World) -> None:
    world.use(85)
    await world.look()
    world.now += 3 * DAY - 1
    await world.look()
    assert [rule for rule, _ in world.told()] == ["quota_near"]
    world.now += 1
    await world.look()
    await world.look()
    assert [rule for rule, _ in world.told()] == ["quota_near", "quota_sustained"]


def calls(key_id: str, at: int, count: int) -> list[CallRecord]:
    return [
        CallRecord(f"{key_id}{at}{n}", Side.BOUGHT, at * 1000, "x", "GET", "/", 200, 1, key_id)
        for n in range(count)
    ]


async def test_a_key_that_stops_calling_is_told_until_it_calls_again(world: World) -> None:
    key = create_key(world.engine, KeyChoices("billing", integrator=True), NOW)
    other = create_key(world.engine, KeyChoices("inner"), NOW)
    for day in range(2, 8):
        book_calls(world.engine, *calls(key.id, NOW - day * DAY, 12))
        book_calls(world.engine, *calls(other.id, NOW - day * DAY, 12))
    job = keys_job(world.alerts, lambda: world.now)
    await job()
    assert world.told() == [("key_quiet", key.id)]
    book_calls(world.engine, *calls(key.id, NOW, 1))
    await job()
    assert world.told(still_open=True) == []


async def test_a_key_that_jumps_past_its_own_last_week_is_told(world: World) -> None:
    key = create_key(world.engine, KeyChoices("billing", integrator=True), NOW)
    busy = create_key(world.engine, KeyChoices("always busy", integrator=True), NOW)
    new = create_key(world.engine, KeyChoices("new", integrator=True), NOW)
    for day in range(1, 7):
        book_calls(world.engine, *calls(key.id, NOW - day * DAY, 30))
        book_calls(world.engine, *calls(busy.id, NOW - day * DAY, 60))
    for each in (key, busy, new):
        book_calls(world.engine, *calls(each.id, NOW - 600, 120))
    await keys_job(world.alerts, lambda: world.now)()
    assert world.told() == [("key_jumped", key.id)]
