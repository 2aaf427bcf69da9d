"""A node that moved to another network shows what was earned and spent there, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from msgspec import structs
from sqlalchemy import Engine

from finance.networks import NETWORKS
from finance.snapshot import snapshot
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.usage.call_list import CallFilter, every_call
from node.usage.calls import CallRecord
from node.usage.dashboard import read_dashboard
from node.usage.endpoints import read_endpoints
from node.usage.events import read_events
from node.usage.models import Side
from node.usage.set_aside import show_calls_of
from node.usage.totals import move_quiet_sums
from tests.conftest import book_calls

NOW = 1_793_000_000
TEST, MAIN = NETWORKS["base-sepolia"], NETWORKS["base"]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    show_calls_of(engine, TEST, NOW)
    yield engine
    engine.dispose()


def sell_and_buy(engine: Engine, name: str, atoms: int) -> None:
    """One call of each side long ago, whose sums have moved, and one just now."""
    call = CallRecord("", Side.SERVED, 0, "lst_1", "GET", "/", 200, 5, scheme="exact")
    for at, age in ((NOW - 9_000, "old"), (NOW - 60, "new")):
        for side in Side:
            id_ = f"{name}-{age}-{side}"
            booked = structs.replace(call, id=id_, side=side, at_ms=at * 1000, amount_atoms=atoms)
            book_calls(engine, booked)
        move_quiet_sums(engine, NOW)


def shown(engine: Engine, side: Side) -> tuple[int, int]:
    """(calls, atoms), the same wherever they stand."""
    page = read_dashboard(engine, side, NOW)
    calls = list(every_call(engine, CallFilter(side)))
    assert page.day.calls == page.ever.calls == len(calls)
    assert sum(hour.succeeded for hour in page.hours) == len(calls)
    atoms = sum(call.amount_atoms for call in calls)
    assert page.day.amount_atoms == page.ever.amount_atoms == atoms
    with snapshot(engine) as connection:
        used = read_endpoints(connection, side, NOW - 86_400, NOW + 1)
    assert sum(each.sums.amount_atoms for each in used) == atoms
    return len(calls), atoms


@pytest.mark.parametrize("side", list(Side))
def test_what_was_earned_and_spent_on_a_test_network_is_no_money(
    engine: Engine, side: Side
) -> None:
    sell_and_buy(engine, "test", 7_000_000)
    show_calls_of(engine, TEST, NOW)
    assert shown(engine, side) == (2, 14_000_000)
    show_calls_of(engine, MAIN, NOW)
    move_quiet_sums(engine, NOW + 86_400)
    assert shown(engine, side) == (0, 0)
    sell_and_buy(engine, "main", 3)
    show_calls_of(engine, MAIN, NOW)
    assert shown(engine, side) == (2, 6)
    show_calls_of(engine, TEST, NOW)
    assert shown(engine, side) == (2, 14_000_000)
    show_calls_of(engine, replace(MAIN, chain_id=1, name="third"), NOW)
    assert shown(engine, side) == (0, 0)
    show_calls_of(engine, MAIN, NOW)
    assert shown(engine, side) == (2, 6)


def test_the_event_log_says_where_the_calls_have_gone(engine: Engine) -> None:
    assert read_events(engine, None, None, 9).events == ()
    show_calls_of(engine, MAIN, NOW)
    (line,) = read_events(engine, None, None, 9).events
    assert "those of base-sepolia are kept" in line.message
