"""What nobody looks at any more goes; what may still be needed stays."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, insert

from finance.models import FORGOTTEN_ONE_DAY, StoredAnswer
from node.accounts.access import Role
from node.accounts.audit import SYSTEM
from node.accounts.sessions import Client, begin_session
from node.accounts.users import NewUser, create_user
from node.alerts.choices import EmailSettings
from node.alerts.configure import send_warnings_to
from node.alerts.rules import Level, Rule
from node.db import sweep
from node.db.engine import writer
from node.jobs.forget import ANSWERS_KEPT_SECONDS, KEPT_SECONDS, forget_job
from node.preferences import read_preference
from node.usage.models import Event
from tests.alerts.world import ADMIN, NOON, World

LATER = NOON + KEPT_SECONDS + 1


async def _incident(world: World, subject: str, ends_at: int | None) -> None:
    await world.alerts.raise_(Rule.LOW_GAS, subject, f"Gas of {subject} is low.", "/finance")
    await world.courier.deliver_due()
    if ends_at is not None:
        world.now = ends_at
        await world.alerts.resolve(Rule.LOW_GAS, subject)
        await world.courier.deliver_due()
    world.now = NOON


async def test_a_resolved_incident_goes_with_all_about_it_and_an_open_one_stays(
    engine: Engine,
) -> None:
    world = World(engine)
    world.speak(Rule.LOW_GAS, Level.EMAIL)
    await _incident(world, "long over", NOON)
    await _incident(world, "over today", LATER)
    await _incident(world, "not over", None)
    await forget_job(engine, lambda: LATER)()
    subjects = [row[0] for row in world.rows("SELECT subject FROM notification ORDER BY id")]
    assert subjects == ["over today", "not over"]
    about = world.rows("SELECT DISTINCT notification_id FROM delivery ORDER BY 1")
    assert about == world.rows("SELECT id FROM notification ORDER BY 1")
    mails = [row[0] for row in world.rows("SELECT text FROM mail")]
    assert len(mails) == 1 and "over today" in mails[0]
    # Whoever heard that it began hears that it ended, half a year later too.
    world.now = LATER
    await world.alerts.resolve(Rule.LOW_GAS, "not over")
    await world.courier.deliver_due()
    [(newest,)] = world.rows("SELECT text FROM mail ORDER BY id DESC LIMIT 1")
    assert "not over" in newest


async def test_old_events_and_ended_sessions_go_and_the_trail_of_changes_stays(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "ROWS_AT_ONCE", 7)
    world = World(engine)
    user = create_user(engine, NewUser("ada", "", Role.ADMIN, "x", False), SYSTEM, NOON)
    line = {"type": "test", "severity": "info", "message": "m"}
    with writer(engine).begin() as connection:
        connection.execute(insert(Event), [{**line, "at": NOON + i // 20} for i in range(40)])
        begin_session(connection, user.id, Client("127.0.0.1"), NOON)
        begin_session(connection, user.id, Client("127.0.0.1"), NOON)
    before = world.rows("SELECT * FROM audit_entry ORDER BY id")
    assert before
    await forget_job(engine, lambda: LATER)()
    assert world.rows("SELECT id FROM user_session") == []
    with writer(engine).begin() as connection:
        alive = begin_session(connection, user.id, Client("127.0.0.1"), LATER)
    await forget_job(engine, lambda: LATER)()
    assert world.rows("SELECT DISTINCT at FROM event") == [(NOON + 1,)]
    assert world.rows("SELECT COUNT(*) FROM event") == [(20,)]
    assert world.rows("SELECT id FROM user_session") == [(alive.id,)]
    assert world.rows("SELECT * FROM audit_entry ORDER BY id") == before


def test_the_admin_gets_the_mail_until_somebody_else_is_chosen(world: World) -> None:
    send_warnings_to(world.engine, "ada@example.org", ADMIN, NOON)
    assert read_preference(world.engine, EmailSettings).recipients == ("ada@example.org",)
    world.use_mail(25, recipients=("ops@example.org",))
    send_warnings_to(world.engine, "eve@example.org", ADMIN, NOON)
    assert read_preference(world.engine, EmailSettings).recipients == ("ops@example.org",)
    assert "ada@example.org" in str(world.rows("SELECT after FROM audit_entry"))


async def test_old_answers_go_and_the_last_one_of_a_channel_stays(engine: Engine) -> None:
    world, now = World(engine), NOON + ANSWERS_KEPT_SECONDS
    kept = {"fingerprint": "f", "call_id": "c", "status": 200, "headers": "[]", "body": b"x"}
    kinds = ("auth:1:a:b", "channel:0xc1", "id:l:p", "idem:k:i")
    ages = (("old", NOON - 1), ("young", NOON + 1))
    rows = [{"key": f"{kind}:{age}", "created_at": at} for kind in kinds for age, at in ages]
    with writer(engine).begin() as connection:
        connection.execute(insert(StoredAnswer), [{**kept, **row} for row in rows])
    await forget_job(engine, lambda: now)()
    left = {row[0] for row in world.rows("SELECT key FROM stored_answer")}
    assert left == {f"{kind}:young" for kind in kinds} | {"channel:0xc1:old"}
    if engine.dialect.name == "sqlite":
        asked = f"SELECT key FROM stored_answer WHERE {FORGOTTEN_ONE_DAY} AND created_at < 1"
        [plan] = world.rows(f"EXPLAIN QUERY PLAN {asked}")
        assert "ix_stored_answer_age" in plan[-1]
