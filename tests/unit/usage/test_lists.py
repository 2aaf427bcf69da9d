"""The list of calls and the event log: everything once, newest first, filtered, to the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import event as event_of

from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.usage.call_list import CallFilter, Cursor, Outcome, every_call, read_calls
from node.usage.calls import CallRecord
from node.usage.events import SEVERITIES, event, every_event, read_events
from node.usage.models import Side
from node.usage.totals import move_quiet_sums
from tests.conftest import book_calls
from tests.soak.generate_calls import Month, generate, synthetic_call

UNTIL = 1_793_000_000
MONTH = Month(4_000, UNTIL)


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def month(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path_factory.mktemp('month') / 'farebox.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    upgrade(engine)
    generate(engine, MONTH)
    yield engine
    engine.dispose()


def wanted_ids(wanted: CallFilter) -> list[str]:
    calls = [synthetic_call(MONTH, n) for n in reversed(range(MONTH.calls))]
    return [call.id for call in calls if _matches(call, wanted)]


def _matches(call: CallRecord, wanted: CallFilter) -> bool:
    outcome = {
        Outcome.ALL: True,
        Outcome.OK: call.status < 400,
        Outcome.ERROR: call.status >= 400,
    }[wanted.outcome]
    listed = wanted.listing_id in (None, call.listing_id)
    return call.side is wanted.side and listed and outcome


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("listing", [None, "lst_bought_03", "lst_bought_rare", "lst_unknown"])
def test_pages_show_every_call_of_the_filter_once(
    month: Engine, listing: str | None, outcome: Outcome
) -> None:
    wanted = CallFilter(Side.BOUGHT, listing, outcome)
    known = wanted_ids(wanted)
    found: list[str] = []
    after: Cursor | None = None
    while True:
        page = read_calls(month, wanted, after, 97)
        assert page.total == len(known)
        found += [call.id for call in page.calls]
        if page.older is None:
            break
        after = Cursor.parse(str(page.older))
    assert found == known
    assert [call.id for call in every_call(month, wanted)] == known


@pytest.mark.parametrize("after_rows", [0, 10])
@pytest.mark.parametrize(
    "wanted",
    [CallFilter(Side.BOUGHT, "lst_bought_03"), CallFilter(Side.BOUGHT, None, Outcome.ERROR)],
)
def test_a_page_takes_a_handful_of_statements_however_scattered_its_calls_are(
    month: Engine, wanted: CallFilter, after_rows: int
) -> None:
    """Dozens of calls, each in a quarter-hour of its own."""
    after = read_calls(month, wanted, None, after_rows).older if after_rows else None
    asked: list[str] = []

    def count(*arguments: Any) -> None:
        asked.append(arguments[2])

    event_of.listen(month, "before_cursor_execute", count)
    page = read_calls(month, wanted, after, 50)
    event_of.remove(month, "before_cursor_execute", count)
    known = wanted_ids(wanted)[after_rows : after_rows + 50]
    assert [call.id for call in page.calls] == known
    assert len({call.at_ms // 900_000 for call in page.calls}) > 15
    calls = [statement for statement in asked if "FROM call " in statement]
    assert 1 <= len(calls) <= 2, asked


def test_calls_of_one_millisecond_are_neither_lost_nor_repeated(migrated_engine: Engine) -> None:
    calls = [
        CallRecord(f"{n:032x}", Side.SERVED, UNTIL * 1000, "l", "GET", "/", 200 + n % 2 * 300, 1)
        for n in range(250)
    ]
    book_calls(migrated_engine, *calls)
    move_quiet_sums(migrated_engine, UNTIL + 10**6)
    for outcome, count in ((Outcome.ALL, 250), (Outcome.ERROR, 125)):
        wanted = CallFilter(Side.SERVED, None, outcome)
        seen, after = [], None
        while True:
            page = read_calls(migrated_engine, wanted, after, 20)
            seen += [call.id for call in page.calls]
            after = page.older
            if after is None:
                break
        assert len(seen) == len(set(seen)) == count


@pytest.mark.parametrize("text", ["", "-", "x-y", "12", "-3-a", "9" * 40 + "-a", "１２-a", "1-\0"])
def test_a_cursor_that_is_none_begins_anew(text: str) -> None:
    assert Cursor.parse(text) is None


def test_a_call_is_shown_as_it_was_journaled(migrated_engine: Engine) -> None:
    call = synthetic_call(MONTH, 5)
    book_calls(migrated_engine, call)
    line = read_calls(migrated_engine, CallFilter(call.side), None, 5).calls[0]
    assert line.listing == call.listing_id
    for name in CallRecord.__struct_fields__:
        if name != "side":
            assert getattr(line, name) == getattr(call, name)


def test_event_log_pages_and_filters(migrated_engine: Engine) -> None:
    with writer(migrated_engine).begin() as connection:
        for number in range(61):
            line = event(
                "catalog_synced", SEVERITIES[number % 3], f"Line {number}.", 1_000 + number
            )
            line.make(connection)
    newest = read_events(migrated_engine, None, None, 25)
    assert [line.message for line in newest.events[:2]] == ["Line 60.", "Line 59."]
    second = read_events(migrated_engine, None, newest.older, 25)
    third = read_events(migrated_engine, None, second.older, 25)
    assert [len(second.events), len(third.events), third.older] == [25, 11, None]
    assert [line.at for line in every_event(migrated_engine, None)] == list(range(1_060, 999, -1))
    errors = [line.message for line in every_event(migrated_engine, "error")]
    assert errors == [f"Line {number}." for number in range(59, 0, -3)]
