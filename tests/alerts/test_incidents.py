"""An incident wakes somebody once: not never, and not thirty-two times."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine, event

from node.alerts import reading
from node.alerts.alerts import Report
from node.alerts.choices import AlertRules
from node.alerts.configure import save_rules
from node.alerts.models import NotificationState
from node.alerts.reading import NotificationFilter, list_notifications
from node.alerts.rules import Level, Rule
from node.preferences import change_preference
from tests.alerts.world import ADMIN, World

EVERYTHING = NotificationFilter()


async def test_thirty_two_reports_at_once_are_one_notification(engine: Engine) -> None:
    world = World(engine)
    world.speak(Rule.LOW_USDC, Level.EMAIL_WEBHOOK)
    others = [World(engine) for _ in range(3)]  # as other processes on the same database
    await asyncio.gather(
        *(
            each.alerts.raise_(Rule.LOW_USDC, "wallet", "USDC is low.", "/finance")
            for each in [world, *others]
            for _ in range(8)
        )
    )
    [found] = list_notifications(engine, EVERYTHING, 1).items
    assert (found.rule, found.count, found.state) == ("low_usdc", 32, "new")
    assert world.rows("SELECT channel, kind FROM delivery ORDER BY channel") == [
        ("email", "opened"),
        ("webhook", "opened"),
    ]
    assert world.rows("SELECT type, severity, message FROM event") == [
        ("low_usdc", "warning", "USDC is low.")
    ]


async def test_thirty_two_endings_at_once_are_told_once(engine: Engine) -> None:
    world = World(engine)
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    await asyncio.gather(*(world.alerts.resolve(Rule.LOW_GAS, "") for _ in range(32)))
    assert world.rows("SELECT channel, kind FROM delivery ORDER BY kind") == [
        ("email", "opened"),
        ("email", "resolved"),
    ]
    assert [kind for (kind,) in world.rows("SELECT type FROM event ORDER BY id")] == [
        "low_gas",
        "low_gas_resolved",
    ]


@pytest.mark.parametrize("steps", range(4))
async def test_a_node_that_is_stopped_in_the_moment_of_an_incident_stops(
    world: World, steps: int
) -> None:
    following = asyncio.create_task(world.courier.follow())
    await asyncio.sleep(0.1)
    world.alerts.wake.set()
    for _ in range(steps):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait([following], timeout=1)
    assert following.done()


async def test_next_incident_is_told_anew(world: World) -> None:
    for number in range(3):
        await world.alerts.raise_(Rule.UPSTREAM_DOWN, "lst_1", f"Down, time {number}.", "/listings")
        await world.alerts.resolve(Rule.UPSTREAM_DOWN, "lst_1")
    page = list_notifications(world.engine, EVERYTHING, 1)
    assert [each.state for each in page.items] == ["resolved"] * 3
    assert len(world.rows("SELECT 1 FROM delivery WHERE kind = 'opened'")) == 3
    assert len(world.rows("SELECT 1 FROM delivery WHERE kind = 'resolved'")) == 3


async def test_incidents_of_other_subjects_are_their_own(world: World) -> None:
    await world.alerts.raise_(Rule.PEER_UNREACHABLE, "peer a", "a is away.", "/settings/network")
    await world.alerts.raise_(Rule.PEER_UNREACHABLE, "peer b", "b is away.", "/settings/network")
    await world.alerts.resolve(Rule.PEER_UNREACHABLE, "peer a")
    states = world.rows("SELECT subject, state FROM notification ORDER BY subject")
    assert states == [("peer a", "resolved"), ("peer b", "new")]


async def test_watcher_that_no_longer_finds_it_ends_it(world: World) -> None:
    rule, alerts = Rule.SETTLEMENT_FAILING, world.alerts
    await alerts.follow(rule, {"x": Report("x fails", "/finance"), "y": Report("y fails", "/")})
    await alerts.follow(rule, {"y": Report("y fails", "/")})
    states = world.rows("SELECT subject, state, count FROM notification ORDER BY subject")
    assert states == [("x", "resolved", 1), ("y", "new", 2)]


async def test_rule_that_is_off_leaves_a_line_of_the_log_and_nothing_else(world: World) -> None:
    world.speak(Rule.LOW_USDC, Level.OFF)
    for _ in range(3):
        await world.alerts.raise_(Rule.LOW_USDC, "", "USDC is low.", "/finance")
    assert world.alerts.unread() == 0
    assert list_notifications(world.engine, EVERYTHING, 1).total == 0
    assert world.rows("SELECT 1 FROM delivery") == []
    assert len(world.rows("SELECT 1 FROM event")) == 1


async def test_rule_switched_on_during_an_incident_tells_it_once(world: World) -> None:
    world.speak(Rule.LOW_USDC, Level.OFF)
    await world.alerts.raise_(Rule.LOW_USDC, "", "USDC is low.", "/finance")
    world.speak(Rule.LOW_USDC, Level.EMAIL)
    for _ in range(3):
        await world.alerts.raise_(Rule.LOW_USDC, "", "USDC is low.", "/finance")
    assert world.alerts.unread() == 1
    assert world.rows("SELECT channel FROM delivery") == [("email",)]


async def test_rule_at_panel_rings_the_bell_and_sends_nothing(world: World) -> None:
    world.speak(Rule.LOW_USDC, Level.PANEL)
    await world.alerts.raise_(Rule.LOW_USDC, "", "USDC is low.", "/finance")
    await world.alerts.resolve(Rule.LOW_USDC, "")
    assert list_notifications(world.engine, EVERYTHING, 1).total == 1
    assert world.rows("SELECT 1 FROM delivery") == []


async def test_endings_are_not_told_when_the_operator_does_not_want_them(world: World) -> None:
    save_rules(world.engine, {}, False, ADMIN, world.now)
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    await world.alerts.resolve(Rule.LOW_GAS, "")
    assert world.rows("SELECT kind FROM delivery") == [("opened",)]


async def test_incident_and_its_deliveries_are_stored_together_or_not_at_all(
    world: World,
) -> None:
    def refuse(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO delivery"):
            raise RuntimeError("the disk is full")

    event.listen(world.engine, "before_cursor_execute", refuse)
    with pytest.raises(RuntimeError):
        await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    event.remove(world.engine, "before_cursor_execute", refuse)
    assert world.rows("SELECT 1 FROM notification") == world.rows("SELECT 1 FROM event") == []
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    assert len(world.rows("SELECT 1 FROM delivery")) == 1


async def test_bell_counts_what_is_new_and_nothing_else(world: World) -> None:
    for subject in "abc":
        await world.alerts.raise_(Rule.UPSTREAM_DOWN, subject, "Down.", "/listings")
    assert world.alerts.unread() == 3
    ids = reading.new_ids(world.engine, None)
    assert await world.alerts.acknowledge(ids[:1], ADMIN) == 1
    assert world.alerts.unread() == 2
    await world.alerts.resolve(Rule.UPSTREAM_DOWN, "c")
    assert world.alerts.unread() == 1
    assert await world.alerts.acknowledge_all(None, ADMIN) == 1
    assert world.alerts.unread() == 0
    assert (
        list_notifications(
            world.engine, NotificationFilter(NotificationState.ACKNOWLEDGED), 1
        ).total
        == 2
    )


async def test_acknowledging_says_who_and_when_and_does_it_once(world: World) -> None:
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    [notification_id] = reading.new_ids(world.engine, None)
    done = await asyncio.gather(
        *(world.alerts.acknowledge([notification_id], ADMIN) for _ in range(8))
    )
    assert sum(done) == 1
    found = reading.read_notification(world.engine, notification_id)
    assert (found.state, found.acknowledged_by, found.acknowledged_at) == (
        "acknowledged",
        "ada",
        world.now,
    )
    assert world.rows("SELECT actor_name, action FROM audit_entry") == [
        ("ada", "notification.acknowledge")
    ]


async def test_what_was_resolved_by_hand_and_still_holds_is_told_again(world: World) -> None:
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    [notification_id] = reading.new_ids(world.engine, None)
    assert await world.alerts.resolve_by_hand([notification_id], ADMIN) == 1
    assert reading.read_notification(world.engine, notification_id).resolved_by == "ada"
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    assert world.alerts.unread() == 1


async def test_hostile_names_stay_on_one_line_and_links_stay_in_the_console(world: World) -> None:
    evil = "Weather\r\nBcc: all@example.org\u202e\u2028\x00 is down"
    for link in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:1"):
        await world.alerts.raise_(Rule.UPSTREAM_DOWN, link, evil, link)
    page = list_notifications(world.engine, EVERYTHING, 1)
    assert {each.message for each in page.items} == {"Weather Bcc: all@example.org is down"}
    assert {each.link for each in page.items} == {"/notifications"}


async def test_text_of_any_length_is_stored_shortened(world: World) -> None:
    await world.alerts.raise_(Rule.UPSTREAM_DOWN, "s" * 5000, "m" * 100_000, "/listings")
    await world.alerts.raise_(Rule.UPSTREAM_DOWN, "s" * 5000, "m" * 100_000, "/listings")
    [found] = list_notifications(world.engine, EVERYTHING, 1).items
    assert (len(found.subject), len(found.message), found.count) == (200, 500, 2)
    await world.alerts.resolve(Rule.UPSTREAM_DOWN, "s" * 5000)
    assert world.alerts.unread() == 0


async def test_thousands_are_listed_and_exported_by_page(world: World) -> None:
    world.speak(Rule.UPSTREAM_DOWN, Level.PANEL)
    found = {f"subject {number}": Report("Down.", "/") for number in range(70)}
    await world.alerts.follow(Rule.UPSTREAM_DOWN, found)
    last = list_notifications(world.engine, EVERYTHING, 99)
    assert (last.page, last.pages, last.total, len(last.items)) == (3, 3, 70, 10)
    exported = list(reading.export_notifications(world.engine, EVERYTHING))
    assert len({each.id for each in exported}) == 70
    other = NotificationFilter(rule=Rule.LOW_GAS)
    assert list_notifications(world.engine, other, 1).total == 0


async def test_rules_that_stand_as_delivered_are_not_stored(world: World) -> None:
    world.speak(Rule.LOW_USDC, Level.OFF)
    save_rules(world.engine, {Rule.LOW_USDC: AlertRules().of(Rule.LOW_USDC)}, True, ADMIN, 1)
    [(value,)] = world.rows("SELECT value FROM preference WHERE name = 'alert_rules'")
    assert '"rules":{}' in value


async def test_rules_written_by_a_newer_version_do_no_harm(world: World) -> None:
    newer = AlertRules(rules={"quota_reached": AlertRules().of(Rule.LOW_GAS)})
    change_preference(world.engine, newer, ADMIN, world.now)
    await world.alerts.raise_(Rule.LOW_GAS, "", "Gas is low.", "/finance")
    assert world.alerts.unread() == 1
