"""A generated month gives exactly the known answers: in the sums, on pages, in files and JSON.

At every edge of a month: the 31st, the leap day, 00:00:59 and 00:01:00 UTC. `make soak` does
it with two million calls and ten thousand streams (FAREBOX_SOAK=1).
"""

from __future__ import annotations

import asyncio
import csv
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import StringIO
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from finance.money import Usdc
from finance.snapshot import snapshot
from node.accounts.access import Role
from node.db.engine import open_engine
from node.db.migrations import upgrade
from node.usage.endpoints import EndpointUse, read_endpoints
from node.usage.keys import list_keys
from node.usage.live import LiveUse
from node.usage.models import Side
from node.usage.my_usage import read_key_endpoints, read_key_usage
from node.usage.periods import Span, read_period
from node.usage.quotas import Meter
from node.usage.totals import move_quiet_sums
from node.usage.windows import window_of
from tests.console_world import Console, serve_console
from tests.soak.month import (
    CUSTOMERS,
    EDGES,
    INTERNAL,
    LISTINGS,
    UNTIL,
    Sum,
    Truth,
    Usage,
    at,
    live_through,
)

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
CALLS, STREAMS = (2_000_000, 10_000) if SOAK else (3_000, 100)
EVERY = 1 if SOAK else 5  # the keys that are looked at
UTC_ZONE, DAY = ZoneInfo("UTC"), 86_400
PAGE = "/developers/my-usage"

NOWS = {
    "the last second of February": at(2028, 3, 1, 0, 0, 59),
    "the first second of March": at(2028, 3, 1, 0, 1),
    "the leap day": at(2028, 2, 29, 23, 59, 59),
    "the 31st": at(2028, 1, 31, 23, 40),
    "some moment": at(2028, 3, 2, 10, 17, 13),
}
FEBRUARY = (at(2028, 2, 1, 0, 1), at(2028, 3, 1, 0, 1))
MONTHS = {  # at that moment: this month's start, and the month before
    "the last second of February": (FEBRUARY[0], (at(2028, 1, 1, 0, 1), FEBRUARY[0])),
    "the first second of March": (FEBRUARY[1], FEBRUARY),
    "the leap day": (FEBRUARY[0], (at(2028, 1, 1, 0, 1), FEBRUARY[0])),
    "the 31st": (at(2028, 1, 1, 0, 1), (at(2027, 12, 1, 0, 1), at(2028, 1, 1, 0, 1))),
    "some moment": (FEBRUARY[1], FEBRUARY),
}


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Truth]]:
    engine = open_engine(f"sqlite:///{tmp_path_factory.mktemp('month') / 'farebox.db'}")
    upgrade(engine)
    started = time.monotonic()
    truth = asyncio.run(live_through(engine, CALLS, STREAMS))
    print(f"{len(truth.at_ms):,} calls, {STREAMS:,} streams in {time.monotonic() - started:.0f} s")
    yield engine, truth
    engine.dispose()


@pytest.fixture(scope="module")
def console(
    month: tuple[Engine, Truth], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    with serve_console(month[0], tmp_path_factory.mktemp("console")) as console:
        yield console


def spans(name: str) -> dict[Span, tuple[int, int]]:
    """[since, until) of every period at that moment, worked out by hand."""
    now, (this, last) = NOWS[name], MONTHS[name]
    return {
        Span.THIS_MONTH: (this, now + 1),
        Span.LAST_MONTH: last,
        Span.WEEK: (now + 1 - 7 * DAY, now + 1),
        Span.QUARTER: (now + 1 - 90 * DAY, now + 1),
    }


def shown(found: tuple[EndpointUse, ...]) -> dict[tuple[str, str], dict[int, Sum]]:
    """As the truth has it."""
    return {
        (each.listing_id, each.route): {
            one.status: (
                one.sums.calls,
                one.sums.errors,
                one.sums.amount_atoms,
                one.sums.latency_us,
            )
            for one in each.statuses
        }
        for each in found
    }


@pytest.mark.parametrize("name", NOWS)
def test_every_key_has_exactly_its_calls_in_every_period(
    month: tuple[Engine, Truth], name: str
) -> None:
    engine, truth = month
    for span, (since, until) in spans(name).items():
        period = read_period(span, NOWS[name], UTC_ZONE)
        assert (period.since, period.until) == (since, until), span
        known = truth.between(since, until)
        for key in list_keys(engine)[::EVERY]:
            found = read_key_endpoints(engine, key, period)
            assert shown(found) == known.of[Side.BOUGHT, key.id], (key.name, span)


@pytest.mark.parametrize("name", NOWS)
def test_every_keys_month_cards_quota_and_streams_are_exact(
    month: tuple[Engine, Truth], name: str
) -> None:
    engine, truth = month
    now, window = NOWS[name], window_of(NOWS[name])
    this = truth.between(window.start, now + 1)
    ninety = truth.between(now + 1 - 90 * DAY, now + 1)
    for key in list_keys(engine)[::EVERY]:
        usage = read_key_usage(engine, key, LiveUse(), now)
        sums = usage.cards.sums
        assert (sums.calls, sums.errors, sums.amount_atoms, sums.latency_us) == ninety.total(
            Side.BOUGHT, key.id
        )
        assert usage.month.calls == this.total(Side.BOUGHT, key.id)[0]
        streamed = truth.streamed(key.id, window.start, now + 1)
        assert usage.streams.seconds == streamed
        mine = {each.meter: each.mine for each in usage.meters}
        if key.id in truth.integrators:
            assert mine == {
                Meter.CALLS: truth.counted[key.id, window.start],
                Meter.STREAM_SECONDS: truth.streamed(key.id, window.start, window.end),
            }
        else:
            assert mine == {}


def test_every_customer_and_listing_has_exactly_its_calls(month: tuple[Engine, Truth]) -> None:
    engine, truth = month
    edges = [*EDGES, UNTIL - 12_345]
    with snapshot(engine) as connection:
        for since, until in pairwise(edges):
            known = truth.between(since, until)
            for number in range(0, CUSTOMERS, EVERY):
                whose = f"0x{number:040x}"
                found = read_endpoints(connection, Side.SERVED, since, until, whose=whose)
                assert shown(found) == known.of[Side.SERVED, whose]
            for listing in LISTINGS:
                one = read_endpoints(connection, Side.BOUGHT, since, until, listing_id=listing)
                assert sum(each.sums.calls for each in one) == _of_listing(known, listing)


def test_sums_that_move_change_no_figure(month: tuple[Engine, Truth]) -> None:
    engine, truth = month
    known = truth.between(*FEBRUARY)
    period = read_period(Span.LAST_MONTH, NOWS["some moment"], UTC_ZONE)
    for now in (UNTIL - 5_000, UNTIL, UNTIL + DAY):
        move_quiet_sums(engine, now, gap_seconds=0)
        for key in list_keys(engine)[:10]:
            assert shown(read_key_endpoints(engine, key, period)) == known.of[Side.BOUGHT, key.id]


@pytest.mark.parametrize("name", ["the last second of February", "the first second of March"])
def test_page_file_and_json_say_what_is_known(
    month: tuple[Engine, Truth],
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    _, truth = month
    with (
        clock_at(monkeypatch, NOWS[name]),
        console.client(Role.ADMIN) as client,
        console.api(Role.ADMIN) as api,
    ):
        for span, (since, until) in spans(name).items():
            known = truth.between(since, until)
            for key_id in (truth.keys[0], truth.keys[INTERNAL]):
                page = client.get(f"{PAGE}?key={key_id}&span={span}").text
                file = client.get(f"{PAGE}/{key_id}/endpoints.csv?span={span}").text
                json = api.get(f"/api/my-usage/{key_id}/endpoints?span={span}").json()
                total = known.total(Side.BOUGHT, key_id)
                assert _page_total(page) == _texts(total)
                assert _file(file) == _known_lines(known, key_id)
                names = ("requests", "errors", "amount_atoms", "latency_us")
                assert tuple(json[each] for each in names) == total
                assert (json["since"], json["until"]) == (since, until)


def test_single_days_are_exact_the_leap_day_too(
    month: tuple[Engine, Truth], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, truth = month
    key_id = truth.keys[0]
    with clock_at(monkeypatch, NOWS["some moment"]), console.api(Role.ADMIN) as api:
        for first, last in (("2028-02-29", "2028-02-29"), ("2028-01-31", "2028-03-01")):
            query = f"span=days&first={first}&last={last}"
            found = api.get(f"/api/my-usage/{key_id}/endpoints?{query}").json()
            since, end = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
            known = truth.between(int(since.timestamp()), int(end.timestamp()) + DAY)
            assert found["requests"] == known.total(Side.BOUGHT, key_id)[0]


@contextmanager
def clock_at(monkeypatch: pytest.MonkeyPatch, now: int) -> Iterator[None]:
    """The clock on the wall shows `now`, for the node too."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: float(now))
        yield


def _of_listing(usage: Usage, listing: str) -> int:
    return sum(
        sums[0]
        for (side, _), endpoints in usage.of.items()
        if side is Side.BOUGHT
        for (each, _), statuses in endpoints.items()
        if each == listing
        for sums in statuses.values()
    )


def _texts(total: Sum) -> tuple[str, str, str]:
    """Requests, errors and cost as the last line of the table has them."""
    return f"{total[0]:,}", f"{total[1]:,}", Usdc(total[2]).rounded_down(6)


def _page_total(page: str) -> tuple[str, str, str]:
    last = re.search(r'<tbody id="total">(.*?)</tbody>', page, re.DOTALL)
    if last is None:
        return _texts((0, 0, 0, 0))
    cells = [re.sub(r"<br>.*|<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", last[1])]
    return cells[0], cells[2], cells[4]


def _file(text: str) -> set[tuple[str, str, int, int, int, str]]:
    return {
        (
            row["api_id"],
            row["endpoint"],
            int(row["status"]),
            int(row["calls"]),
            int(row["errors"]),
            row["usdc"],
        )
        for row in csv.DictReader(StringIO(text))
    }


def _known_lines(usage: Usage, key_id: str) -> set[tuple[str, str, int, int, int, str]]:
    return {
        (listing, route, status, calls, errors, str(Usdc(atoms)))
        for (listing, route), statuses in usage.of[Side.BOUGHT, key_id].items()
        for status, (calls, errors, atoms, _) in statuses.items()
    }
