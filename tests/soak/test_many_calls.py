"""The first pages stay quick, however many calls there were.

Time on a busy machine says little, so the short form counts the steps that SQLite takes;
the long form (FAREBOX_SOAK=1) makes ten million calls and measures pages over HTTP, in
turns with a node that had ten thousand. Both also have what their calls moved on the chain.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Engine, event

from finance.actions import Action
from finance.history import Filter, read_history
from node.accounts.access import Role
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.usage.call_list import CallFilter, Cursor, Outcome, read_calls
from node.usage.dashboard import read_breakdown, read_call_rate, read_dashboard
from node.usage.events import read_events
from node.usage.models import Side
from tests.console_world import serve_console
from tests.soak.generate_calls import Month, generate
from tests.soak.movements import move_on_chain

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
UNTIL = 1_793_000_000
# The short form only shows that the measurement works; its limits forgive a busy machine.
FEW, MANY = (10_000, 10_000_000) if SOAK else (1_000, 20_000)
ROUNDS, MOST_MS, MOST_TIMES = (100, 100, 2) if SOAK else (5, 2_000, 50)
DATABASES = ["sqlite", "postgres"] if SOAK else ["sqlite"]
# Some ten million a second.
STEPS_PER_PAGE = 600_000
PAGES = (
    "/?side=buyer",
    "/?side=seller&sort=amount",
    "/breakdown.csv?side=buyer",
    "/calls?side=seller",
    "/calls?side=buyer&listing=lst_bought_04",
    "/calls?side=seller&outcome=error",
    "/finance/history",
    "/finance/history?action=gas",
    "/finance/history?action=sweep&token=USDC",
    "/finance/history?action=deposit",
    "/finance/history?text=nobody",
    "/finance/channels",
    "/catalog",
    "/api/dashboard?zone=Asia/Kolkata",
    "/api/breakdown",
    "/api/events",
    "/api/finance/history",
    "/api/calls?listing=lst_served_rare&side=seller",
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A month of a hundred thousand calls."""
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('many') / 'farebox.db'}")
    upgrade(engine)
    fill(engine, Month(100_000, UNTIL))
    yield engine
    engine.dispose()


def fill(engine: Engine, month: Month) -> None:
    """Calls with their ledger, and what they moved on the chain."""
    with engine.connect() as connection:
        move_on_chain(connection, month.calls, month.since, month.until)
    generate(engine, month, ledger=True)


READS: dict[str, Callable[[Engine, Side], object]] = {
    "dashboard": lambda engine, side: read_dashboard(engine, side, UNTIL),
    "call rate": lambda engine, side: read_call_rate(engine, side, UNTIL, ZoneInfo("UTC")),
    "breakdown": read_breakdown,
    "events": lambda engine, _: read_events(engine, "error", None, 15),
    "calls": lambda engine, side: read_calls(engine, CallFilter(side), None, 50),
    "calls of last spring": lambda engine, side: read_calls(
        engine, CallFilter(side), Cursor((UNTIL - 20 * 86_400) * 1000, "x"), 50
    ),
    "calls of an API": lambda engine, side: read_calls(
        engine, CallFilter(side, f"lst_{side}_05"), None, 50
    ),
    "calls of a rare API": lambda engine, side: read_calls(
        engine, CallFilter(side, f"lst_{side}_rare"), None, 50
    ),
    "history": lambda engine, _: read_history(engine, Filter(), None, 50),
    "history of what never was": lambda engine, _: read_history(
        engine, Filter(Action.DEPOSIT), None, 50
    ),
    "history with a text": lambda engine, _: read_history(engine, Filter(text="nobody"), None, 50),
    "failed calls": lambda engine, side: read_calls(
        engine, CallFilter(side, None, Outcome.ERROR), None, 50
    ),
}


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("read", list(READS))
def test_no_page_looks_at_every_call(many: Engine, read: str, side: Side) -> None:
    with counted_steps(many) as steps:
        READS[read](many, side)
    assert steps() <= STEPS_PER_PAGE


@contextmanager
def counted_steps(engine: Engine) -> Iterator[Callable[[], int]]:
    """How many steps SQLite's machine takes for what is asked inside the block, in hundreds."""
    hundreds = 0

    def count() -> int:
        nonlocal hundreds
        hundreds += 1
        return 0

    def listen(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.set_progress_handler(count, 100)

    event.listen(engine, "checkout", listen)
    try:
        yield lambda: hundreds * 100
    finally:
        event.remove(engine, "checkout", listen)


@pytest.mark.parametrize("database", DATABASES)
def test_ten_million_calls_are_as_quick_as_ten_thousand(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    with ExitStack() as stack:
        few, many = (
            stack.enter_context(_month(request, tmp_path, database, calls)) for calls in (FEW, MANY)
        )
        slow = [_compare(few, many, path) for path in PAGES]
    assert [words for words in slow if words] == []


@contextmanager
def _month(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, calls: int
) -> Iterator[httpx.Client]:
    """An admin's browser before a node with a month of so many calls behind it."""
    url = f"sqlite:///{tmp_path / f'{calls}.db'}"
    if database == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    upgrade(engine)
    fill(engine, Month(calls, int(time.time())))
    with serve_console(engine, tmp_path) as console, console.client(Role.ADMIN) as client:
        yield client
    engine.dispose()


def _typical(found: list[float]) -> float:
    """The 95th of a hundred; of the short form's few the middle one, since one of them may have
    met a pause of the machine."""
    return quantiles(found, n=20)[-1] if SOAK else median(found)


def _compare(few: httpx.Client, many: httpx.Client, path: str) -> str:
    """Empty when `path` is quick enough with many calls; else what is wrong."""
    for client in (few, many):
        client.timeout = httpx.Timeout(60)  # while the other one's page is made, too
        answer = client.get(path)
        assert answer.status_code == 200, path
        if path in ("/finance/history", "/api/finance/history"):
            assert "sweep" in answer.text.lower(), path
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for client, found in zip((few, many), times, strict=True):
            started = time.perf_counter()
            client.get(path)
            found.append((time.perf_counter() - started) * 1000)
    before, after = (_typical(found) for found in times)
    words = f"{path}: {after:.1f} ms with many calls, {before:.1f} ms with few"
    print(words)
    return words if after > MOST_MS or after > MOST_TIMES * before else ""
