"""A month of calls with known answers: every figure of the first page, to the atom and call.

What is right is added up here in Python, call by call, from the list that was journaled.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, insert, text

from catalog.models import Listing, ListingOrigin
from finance.snapshot import snapshot
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.jobs.totals import totals_job
from node.usage.breakdown import SortBy, sort_breakdown
from node.usage.call_rate import hours_until
from node.usage.calls import CallRecord
from node.usage.dashboard import read_breakdown, read_call_rate, read_dashboard
from node.usage.models import Side
from node.usage.totals import move_quiet_sums
from node.usage.windows import Sums, add_up, sum_between
from tests.conftest import book_calls
from tests.soak.generate_calls import Month, generate, synthetic_call

DAY = 86_400
# Berlin's clocks go back in this month, and Samoa knows no summer time since 2021.
UNTIL = int(datetime(2026, 11, 2, 10, 7, 13, tzinfo=UTC).timestamp())
MONTH = Month(6_000, UNTIL)
ZONES = ["UTC", "Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "Pacific/Apia"]


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def month(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, list[CallRecord]]]:
    """The generated month and some more calls at awkward moments, with the list of them all."""
    url = f"sqlite:///{tmp_path_factory.mktemp('month') / 'farebox.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    upgrade(engine)
    generate(engine, MONTH)
    awkward = _awkward_calls()
    book_calls(engine, *awkward)
    yield engine, [*(synthetic_call(MONTH, n) for n in range(MONTH.calls)), *awkward]
    engine.dispose()


def _awkward_calls() -> list[CallRecord]:
    """On the edges of every window and quarter-hour, a millisecond before and after."""
    edges = [UNTIL + 1 - days * DAY for days in (0, 1, 2, 7)]
    edges += [edge - edge % 900 for edge in edges]
    chance = random.Random(8402)
    moments = [edge * 1000 + ms for edge in edges for ms in (-1, 0, 1)]
    moments += [chance.randrange((UNTIL - 9 * DAY) * 1000, UNTIL * 1000) for _ in range(200)]
    return [
        CallRecord(
            id=f"awkward_{number:04d}_{side}",
            side=side,
            at_ms=at_ms,
            listing_id="lst_gone" if number % 3 else f"lst_{side}_01",
            method="GET",
            path="/",
            status=chance.choice((200, 200, 302, 400, 502)),
            latency_us=chance.randrange(1, 10**8),
            key_id="key_1" if side is Side.BOUGHT else None,
            scheme="exact",
            amount_atoms=chance.randrange(10**9),
        )
        for number, at_ms in enumerate(moments)
        for side in Side
    ]


def added(calls: list[CallRecord], side: Side, since: int, until: int) -> Sums:
    inside = [c for c in calls if c.side is side and since * 1000 <= c.at_ms < until * 1000]
    return add_up(Sums(1, int(c.status >= 400), c.amount_atoms, c.latency_us) for c in inside)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("ago", [0, 1, 899, 3600 + 17, 2 * DAY + 12_345])
def test_a_day_and_a_week_are_exact_at_any_moment(
    month: tuple[Engine, list[CallRecord]], side: Side, ago: int
) -> None:
    engine, calls = month
    now = UNTIL - ago
    page = read_dashboard(engine, side, now)
    assert page.day == added(calls, side, now + 1 - DAY, now + 1)
    if side is Side.SERVED:
        assert page.week == added(calls, side, now + 1 - 7 * DAY, now + 1)
    else:
        assert page.week is None


def test_any_window_is_exact(month: tuple[Engine, list[CallRecord]]) -> None:
    engine, calls = month
    chance = random.Random(402)
    windows = [(UNTIL - 100, UNTIL - 40), (UNTIL - 900, UNTIL), (UNTIL, UNTIL), (0, UNTIL * 2)]
    for _ in range(40):
        since = chance.randrange(MONTH.since - DAY, UNTIL)
        windows.append((since, since + chance.randrange(5 * DAY)))
    with snapshot(engine) as connection:
        for since, until in windows:
            found = sum_between(connection, Side.SERVED, since, until)
            assert found == added(calls, Side.SERVED, since, until), (since, until)


@pytest.mark.parametrize("name", ZONES)
@pytest.mark.parametrize("side", list(Side))
def test_every_bar_counts_one_hour_of_the_viewers_clock(
    month: tuple[Engine, list[CallRecord]], side: Side, name: str
) -> None:
    engine, calls = month
    zone = ZoneInfo(name)
    hours = read_dashboard(engine, side, UNTIL, zone).hours
    assert (side, hours) == read_call_rate(engine, side, UNTIL, zone)
    assert len(hours) == 48
    for hour in hours:
        local = datetime.fromtimestamp(hour.at, zone)
        assert (local.minute, local.second) == (0, 0)
        known = added(calls, side, hour.at, hour.at + 3600)
        assert (hour.succeeded, hour.errors) == (known.succeeded, known.errors)


def test_breakdown_and_lifetime_are_all_there_ever_was(
    month: tuple[Engine, list[CallRecord]],
) -> None:
    engine, calls = month
    for side in Side:
        page = read_dashboard(engine, side, UNTIL)
        assert page.ever == added(calls, side, 0, 10**10)
        assert (side, page.apis) == read_breakdown(engine, side)
        by_listing = {row.listing_id: row for row in page.apis}
        assert len(by_listing) == 12 + 2  # of the generator, the rare one, the one that is gone
        for listing_id, row in by_listing.items():
            of_it = [call for call in calls if call.listing_id == listing_id]
            assert row.sums == added(of_it, side, 0, 10**10)
        assert by_listing["lst_gone"].name == "lst_gone"
        assert by_listing[f"lst_{side}_01"].name == "Weather 01"


def test_figures_equal_plain_sums_over_the_journal(
    month: tuple[Engine, list[CallRecord]],
) -> None:
    engine, _ = month
    plain = text(
        "SELECT COUNT(*), SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END), SUM(amount_atoms),"
        " SUM(latency_us) FROM call WHERE side = 'served' AND at_ms >= :since AND at_ms < :until"
    )
    with engine.connect() as connection:
        times = {"since": (UNTIL + 1 - DAY) * 1000, "until": (UNTIL + 1) * 1000}
        day = tuple(int(value) for value in connection.execute(plain, times).one())
    sums = read_dashboard(engine, Side.SERVED, UNTIL).day
    assert (sums.calls, sums.errors, sums.amount_atoms, sums.latency_us) == day


def test_sums_of_history_move_without_a_figure_changing(database_url: str) -> None:
    engine = open_engine(database_url)
    upgrade(engine)
    calls = [synthetic_call(MONTH, n) for n in range(0, MONTH.calls, 20)]
    book_calls(engine, *calls)
    before = [read_dashboard(engine, side, UNTIL) for side in Side]
    assert move_quiet_sums(engine, UNTIL - 10 * DAY) > 0
    assert [read_dashboard(engine, side, UNTIL) for side in Side] == before
    move_quiet_sums(engine, UNTIL)
    assert move_quiet_sums(engine, UNTIL) == 0
    assert [read_dashboard(engine, side, UNTIL) for side in Side] == before
    engine.dispose()


def test_a_call_that_ends_days_later_is_still_counted(database_url: str) -> None:
    """A stream may be booked long after its quarter-hour was moved away."""
    engine = open_engine(database_url)
    upgrade(engine)
    calls = [synthetic_call(MONTH, n) for n in range(MONTH.calls - 200, MONTH.calls)]
    book_calls(engine, *calls[::2])
    move_quiet_sums(engine, UNTIL + 10 * DAY)
    book_calls(engine, *calls[1::2])
    for _ in range(2):
        page = read_dashboard(engine, Side.SERVED, UNTIL)
        assert page.ever == page.week == added(calls, Side.SERVED, 0, 10**10)
        move_quiet_sums(engine, UNTIL + 10 * DAY)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM call_rollup")).scalar_one() == 0
    engine.dispose()


def test_a_call_booked_while_sums_move_is_counted_once(database_url: str) -> None:
    engine = open_engine(database_url)
    upgrade(engine)
    calls = [synthetic_call(MONTH, n) for n in range(300)]

    def book() -> None:
        for first in range(0, len(calls), 5):
            book_calls(engine, *calls[first : first + 5])

    with ThreadPoolExecutor(1) as pool:
        booked = pool.submit(book)
        moved = 0
        while not booked.done():
            moved += move_quiet_sums(engine, UNTIL)
        booked.result()
    assert moved > 0
    for side in Side:
        assert read_dashboard(engine, side, UNTIL).ever == added(calls, side, 0, 10**10)
    engine.dispose()


async def test_the_job_moves_what_is_quiet_and_nothing_younger(migrated_engine: Engine) -> None:
    now = int(time.time())
    month = Month(1_000, now)
    book_calls(migrated_engine, *(synthetic_call(month, n) for n in range(900, 1_000)))
    await totals_job(migrated_engine)()
    with migrated_engine.connect() as connection:
        youngest = connection.execute(text("SELECT MAX(slot) FROM call_history")).scalar_one()
        oldest = connection.execute(text("SELECT MIN(slot) FROM call_rollup")).scalar_one()
    assert youngest < now - 2 * 3600 <= oldest + 900


def test_generated_rows_are_the_calls_they_are_said_to_be(
    month: tuple[Engine, list[CallRecord]],
) -> None:
    engine, _ = month
    names = CallRecord.__struct_fields__
    statement = text(
        f"SELECT {', '.join(names)} FROM call WHERE id NOT LIKE 'awkward%' ORDER BY id"
    )
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(statement)]
    assert found == [
        tuple(getattr(synthetic_call(MONTH, n), name) for name in names) for n in range(MONTH.calls)
    ]


@pytest.mark.parametrize(
    ("zone", "moment", "labels"),
    [
        # Spring in Berlin: the hour after 01:59 is 03:00.
        ("Europe/Berlin", "2026-03-29T02:30+00:00", ["00", "01", "03", "04"]),
        # Autumn in Berlin: two o'clock twice.
        ("Europe/Berlin", "2026-10-25T02:30+00:00", ["01", "02", "02", "03"]),
        ("Asia/Kolkata", "2026-11-02T10:07+00:00", ["12", "13", "14", "15"]),
        ("America/St_Johns", "2026-03-08T06:00+00:00", ["00", "01", "03"]),
        ("Asia/Kathmandu", "2026-11-02T10:07+00:00", ["13", "14", "15"]),
        ("Pacific/Apia", "2026-11-02T10:07+00:00", ["21", "22", "23"]),
    ],
)
def test_hours_follow_the_clocks_on_the_wall(zone: str, moment: str, labels: list[str]) -> None:
    now = int(datetime.fromisoformat(moment).timestamp())
    starts = hours_until(now, ZoneInfo(zone))
    assert all(later - earlier == 3600 for earlier, later in pairwise(starts))
    assert starts[-1] <= now < starts[-1] + 3600
    local = [datetime.fromtimestamp(at, ZoneInfo(zone)) for at in starts[-len(labels) :]]
    assert [at.strftime("%H") for at in local] == labels


def test_breakdown_is_sorted_by_any_column_and_ties_keep_their_places(
    month: tuple[Engine, list[CallRecord]],
) -> None:
    engine, _ = month
    _, rows = read_breakdown(engine, Side.BOUGHT)
    assert [row.sums.calls for row in rows] == sorted(
        (row.sums.calls for row in rows), reverse=True
    )
    by_name = sort_breakdown(rows, SortBy.NAME, descending=False)
    assert [row.name for row in by_name][:3] == ["lst_gone", "Weather 00", "Weather 01"]
    for column in SortBy:
        up = sort_breakdown(rows, column, descending=False)
        down = sort_breakdown(rows, column, descending=True)
        assert sorted(row.listing_id for row in up) == sorted(row.listing_id for row in down)
        assert up == sort_breakdown(tuple(reversed(rows)), column, descending=False)
    latency = [
        row.sums.latency_us / row.sums.calls
        for row in sort_breakdown(rows, SortBy.LATENCY, descending=True)
    ]
    assert [int(each) for each in latency] == sorted((int(each) for each in latency), reverse=True)


def test_seller_side_comes_first_once_a_listing_of_ours_was_called(
    migrated_engine: Engine,
) -> None:
    served = synthetic_call(MONTH, next(n for n in range(99) if _is_served(n)))
    assert read_dashboard(migrated_engine, None, UNTIL).side is Side.BOUGHT
    book_calls(migrated_engine, served)
    assert read_dashboard(migrated_engine, None, UNTIL).side is Side.BOUGHT
    listing = {"id": "l", "slug": "l", "name": "Lists", "base_url": "http://127.0.0.1:9"}
    with writer(migrated_engine).begin() as connection:
        connection.execute(insert(Listing), {**listing, "origin": ListingOrigin.OWN})
    assert read_dashboard(migrated_engine, None, UNTIL).side is Side.SERVED
    assert read_dashboard(migrated_engine, Side.BOUGHT, UNTIL).side is Side.BOUGHT


def _is_served(n: int) -> bool:
    return synthetic_call(MONTH, n).side is Side.SERVED


def test_any_calls_looks_at_both_sides(migrated_engine: Engine) -> None:
    assert not read_dashboard(migrated_engine, None, UNTIL).any_calls
    book_calls(migrated_engine, synthetic_call(MONTH, 5))
    assert all(read_dashboard(migrated_engine, side, UNTIL).any_calls for side in Side)
