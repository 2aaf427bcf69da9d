"""A generated month of integrators: pages, files and JSON API say exactly what was called.

What is right is added up here, call by call. `make soak` does it with two million calls and
ten thousand streams.
"""

from __future__ import annotations

import asyncio
import csv
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Engine, insert, update
from sqlmodel import col

from catalog.models import Listing, ListingOrigin
from finance.store import Batch
from node.accounts.access import Role
from node.accounts.audit import COMMAND
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.usage.calls import CallRecord
from node.usage.integrators import read_overview
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.models import ConsumerKey, Side
from node.usage.overrides import list_overrides
from node.usage.quotas import Meter, QuotaExceeded, Quotas, key_subject
from node.usage.stream_rows import StreamSession
from node.usage.tiers import UsageTiers, change_tiers
from node.usage.windows import window_of
from tests.console_world import Console, serve_console

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
CALLS, STREAMS = (2_000_000, 10_000) if SOAK else (4_000, 100)
KEYS, INTERNAL = 50, 5
AT_ONCE = 500
NOW = int(time.time())
WINDOW = window_of(NOW)
UTC_ZONE = ZoneInfo("UTC")


@dataclass
class Truth:
    """What happened, added up in Python."""

    keys: list[str] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)  # this month, answers only
    made: Counter[str] = field(default_factory=Counter)  # ever, also those that failed
    hours: Counter[tuple[int, bool]] = field(default_factory=Counter)  # (hour, an error)
    streamed: Counter[str] = field(default_factory=Counter)
    minutes: Counter[int] = field(default_factory=Counter)  # hour: seconds


class Generator:
    """Calls and streams as the proxy books them, with a restart of the counters now and then."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.truth = engine, Truth()
        self.random = random.Random(5)

    async def run(self) -> Truth:
        self._make_keys()
        for first in range(0, CALLS, CALLS // 4):
            journal, quotas = Journal(self.engine), Quotas(self.engine)
            await quotas.load(NOW)
            for start in range(first, first + CALLS // 4, AT_ONCE):
                size = min(AT_ONCE, first + CALLS // 4 - start)
                batches = [self._call(quotas, start + n) for n in range(size)]
                await asyncio.gather(*(journal.commit(batch) for batch in batches))
            journal.close()
        await self._streams()
        return self.truth

    def _make_keys(self) -> None:
        for number in range(KEYS):
            internal = number >= KEYS - INTERNAL
            email = f"dev{number}@example.org"
            choices = KeyChoices(f"Integrator {number:02}", email, not internal)
            self.truth.keys.append(create_key(self.engine, choices, WINDOW.start).id)
        with writer(self.engine).begin() as connection:
            row = {"id": "l1", "slug": "weather", "name": "Weather", "base_url": "https://x"}
            connection.execute(insert(Listing).values(row | {"origin": ListingOrigin.REMOTE}))
            seen = update(ConsumerKey).values(last_used_at=NOW)
            connection.execute(seen.where(col(ConsumerKey.id) == self.truth.keys[0]))

    def _moment(self, number: int) -> int:
        edges = (WINDOW.start - 1, WINDOW.start, NOW)
        return edges[number] if number < 3 else self.random.randint(WINDOW.start - 3_600, NOW)

    def _call(self, quotas: Quotas, number: int) -> Batch:
        truth, at = self.truth, self._moment(number)
        key_id = truth.keys[min(int(self.random.expovariate(0.1)), KEYS - 1)]
        integrator = key_id not in truth.keys[-INTERNAL:]
        status = self.random.choice((200, 200, 200, 200, 404, 504))
        record = CallRecord(
            f"{number:032x}", Side.BOUGHT, at * 1000 + number % 1000, "l1", "GET", f"/{number}",
            status, 2_000, key_id, amount_atoms=1_000,
        )  # fmt: skip
        increments = [record.increment()]
        if integrator:
            held = quotas.reserve(key_subject(key_id), Meter.CALLS, 1, None, at, shared=True)
            if status == 504:
                held.release()
            else:
                increments.append(held.commit())
                truth.counted[key_id] += at >= WINDOW.start
            truth.hours[at // 3600 * 3600, status >= 400] += 1
        truth.made[key_id] += 1
        return Batch([record.write()], increments)

    async def _streams(self) -> None:
        truth, journal, quotas = self.truth, Journal(self.engine), Quotas(self.engine)
        await quotas.load(NOW)
        rows, increments = [], []
        for number in range(STREAMS):
            key_id = self.random.choice(truth.keys[:-INTERNAL])
            seconds = self.random.randint(1, 9_000)
            start = self.random.randint(NOW - 80_000, NOW - seconds)
            rows.append(_session(number, key_id, start, seconds))
            truth.streamed[key_id] += seconds
            for second in range(start, start + seconds):
                truth.minutes[second // 3600 * 3600] += 1
            held = quotas.reserve(key_subject(key_id), Meter.STREAM_SECONDS, seconds, None, NOW)
            increments.append(held.commit())
        with writer(self.engine).begin() as connection:
            connection.execute(insert(StreamSession), rows)
        await journal.commit(Batch([], increments))
        journal.close()


def _session(number: int, key_id: str, start: int, seconds: int) -> dict[str, object]:
    times = {"started_at": start, "last_tick_at": start + seconds, "ended_at": start + seconds}
    row = {"id": f"s{number}", "side": "bought", "listing_id": "l1", "key_id": key_id}
    more = {"payer": None, "kind": "sse", "seconds": seconds, "state": "ended", "reason": ""}
    return {**row, **times, **more, "owner": 1}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def month(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Console, Truth]]:
    home = tmp_path_factory.mktemp("node")
    url = f"sqlite:///{home / 'farebox.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    upgrade(engine)
    change_tiers(engine, UsageTiers(free_calls=10 * CALLS, pro_calls=10**9), COMMAND, NOW)
    truth = asyncio.run(Generator(engine).run())
    with serve_console(engine, home) as console:
        yield console, truth
    engine.dispose()


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text)))


def test_the_api_says_exactly_what_was_called(month: tuple[Console, Truth]) -> None:
    console, truth = month
    with console.api(Role.VIEWER) as client:
        usage = client.get("/api/usage").json()
        listed = client.get("/api/usage/keys").json()
    calls, streams = usage["meters"]
    assert (calls["used"], calls["quota"]) == (truth.counted.total(), 10 * CALLS)
    assert streams["used"] == truth.streamed.total()
    assert (usage["starts_at"], usage["ends_at"]) == (WINDOW.start, WINDOW.end)
    found = {each["id"]: (each["calls"], each["stream_seconds"]) for each in listed["items"]}
    integrators = truth.keys[:-INTERNAL]
    assert found == {key: (truth.counted[key], truth.streamed[key]) for key in integrators}
    counts = [each["calls"] for each in listed["items"]]
    assert counts == sorted(counts, reverse=True)
    for hour in usage["hours"]:
        errors = truth.hours[hour["at"], True]
        assert (hour["succeeded"], hour["errors"]) == (truth.hours[hour["at"], False], errors)
        assert hour["stream_seconds"] == truth.minutes[hour["at"]]


def test_page_and_files_say_the_same(month: tuple[Console, Truth]) -> None:
    console, truth = month
    with console.client(Role.VIEWER) as client:
        page = client.get("/developers").text
        meters = rows_of(client.get("/developers/summary.csv").text)
        integrators = rows_of(client.get("/developers/integrators.csv").text)
        hours = rows_of(client.get("/developers/hours.csv").text)
    assert f"<strong>{truth.counted.total():,}</strong> of {10 * CALLS:,}" in page
    top, calls = truth.counted.most_common(1)[0]
    row = re.search(rf'<tr>\s*<th[^>]*><a href="/developers/keys/{top}">.*?</tr>', page, re.S)
    assert row is not None and f'<td class="number">{calls:,}</td>' in row[0]
    assert [each["used"] for each in meters] == [
        str(truth.counted.total()),
        str(truth.streamed.total()),
    ]
    assert {each["key_id"]: int(each["calls"]) for each in integrators} == {
        key: truth.counted[key] for key in truth.keys[:-INTERNAL]
    }
    for hour in hours:
        at = int(datetime.fromisoformat(hour["hour_utc"]).timestamp())
        assert int(hour["succeeded"]) == truth.hours[at, False]
        assert int(hour["errors"]) == truth.hours[at, True]
        assert int(hour["stream_seconds"]) == truth.minutes[at]


def test_the_page_of_a_key_has_each_of_its_requests(month: tuple[Console, Truth]) -> None:
    console, truth = month
    key = truth.keys[30]
    with console.client(Role.API_OWNER) as client, console.api(Role.ADMIN) as api:
        page = client.get(f"/developers/keys/{key}").text
        lines = rows_of(client.get(f"/developers/keys/{key}/calls.csv").text)
        listed = api.get(f"/api/usage/keys/{key}/calls").json()
    assert f"{truth.made[key]:,} in all" in page
    assert len(lines) == truth.made[key] == listed["total"]
    assert {line["usdc"] for line in lines} == {"0.001"}
    first = listed["items"][0]
    assert (first["path"], first["key_id"]) == (lines[0]["path"], key)


def test_internal_keys_are_nowhere_on_the_page(month: tuple[Console, Truth]) -> None:
    console, truth = month
    with console.client(Role.ADMIN) as client:
        page = client.get("/developers").text
    assert not [key for key in truth.keys[-INTERNAL:] if key in page]


@pytest.mark.parametrize(
    ("now", "days_left"),
    [
        (datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC), 1),
        (datetime(2027, 2, 1, 0, 0, 59, tzinfo=UTC), 1),
        (datetime(2027, 2, 1, 0, 1, 0, tzinfo=UTC), 28),
        (datetime(2028, 2, 29, 12, tzinfo=UTC), 1),
        (datetime(2028, 2, 1, 0, 1, 0, tzinfo=UTC), 29),
        (datetime(2028, 3, 1, 0, 0, 59, tzinfo=UTC), 1),
        (datetime(2028, 3, 1, 0, 1, 0, tzinfo=UTC), 31),
    ],
)
async def test_at_the_edges_of_a_month_a_call_is_in_the_month_it_was_made_in(
    migrated_engine: Engine, now: datetime, days_left: int
) -> None:
    at = int(now.timestamp())
    window, key = window_of(at), create_key(migrated_engine, KeyChoices("a", integrator=True), 1).id
    journal, quotas = Journal(migrated_engine), Quotas(migrated_engine)
    await quotas.load(at)
    for moment in (window.start - 1, window.start, window.end - 1, window.end):
        held = quotas.reserve(key_subject(key), Meter.CALLS, 1, None, moment)
        await journal.commit(Batch([], [held.commit()]))
    journal.close()
    overview = read_overview(migrated_engine, at, UTC_ZONE)
    assert overview.meters[0].used == 2
    assert overview.integrators[0].calls == 2
    assert overview.days_left == days_left


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("empty")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


def test_without_integrators_the_page_says_how_to_have_one(console: Console) -> None:
    with console.client(Role.ADMIN) as client:
        page = client.get("/developers").text
    assert "No key is flagged as an integrator" in page
    assert 'href="/settings/security"' in page


def test_who_may_only_see_gets_no_forms_and_others_no_page(console: Console) -> None:
    for role in (Role.VIEWER, Role.API_OWNER):
        with console.client(role) as client:
            plans = client.get("/settings/plans")
            refused = console.send(client, "/settings/plans", calls="pro")
            assert plans.status_code == 200 and 'action="/settings/plans"' not in plans.text
            assert refused.status_code == 403
    for role in (Role.FINANCE, Role.CONSUMER):
        with console.client(role) as client:
            assert client.get("/developers").status_code == 403
            assert 'href="/developers"' not in client.get("/").text


def test_a_tier_is_chosen_and_a_wrong_number_stays_beside_its_field(console: Console) -> None:
    fields = {"calls": "pro", "streams": "free", "free_calls": "10", "pro_calls": "20"}
    fields |= {"free_stream_seconds": "5", "pro_stream_seconds": "50"}
    with console.client(Role.ADMIN) as client:
        wrong = console.send(client, "/settings/plans", **fields | {"pro_calls": "many"})
        less = console.send(client, "/settings/plans", **fields | {"pro_calls": "9"})
        right = console.send(client, "/settings/plans", **fields)
    assert (wrong.status_code, less.status_code, right.status_code) == (422, 422, 303)
    assert 'value="many"' in wrong.text and "Pro has at least as much as Free." in less.text
    with console.api(Role.ADMIN) as api:
        tiers = api.get("/api/plans/tiers").json()
        assert (tiers["calls"], tiers["free_stream_seconds"]) == ("pro", 18_000)
        changed = api.patch("/api/plans/tiers", json={"calls": "free"}).json()
    assert (changed["calls"], changed["pro_calls"]) == ("free", 20)


def test_a_tier_that_is_no_whole_hour_outlives_the_form(console: Console) -> None:
    with console.api(Role.ADMIN) as api, console.client(Role.ADMIN) as client:
        odd = {"free_stream_seconds": 1_000, "pro_stream_seconds": 9_000}
        api.patch("/api/plans/tiers", json=odd).raise_for_status()
        shown = dict(re.findall(r'name="(\w+_seconds)"[^>]*value="([^"]*)"', _settings(client)))
        assert shown == {"free_stream_seconds": "0.2778", "pro_stream_seconds": "2.5"}
        fields = {"calls": "pro", "streams": "free", "free_calls": "10", "pro_calls": "20", **shown}
        assert console.send(client, "/settings/plans", **fields).status_code == 303
        tiers = api.get("/api/plans/tiers").json()
    assert {name: tiers[name] for name in odd} == odd


def _settings(client: httpx.Client) -> str:
    return client.get("/settings/plans").text


def test_an_override_says_who_why_until_when_and_is_in_the_trail(console: Console) -> None:
    ends = datetime.fromtimestamp(NOW + 86_400, UTC).strftime("%Y-%m-%dT%H:%M")
    path, asked = "/settings/plans/overrides", {"meter": "calls", "cap": "500", "ends_at": ends}
    with console.client(Role.ADMIN) as client:
        without = console.send(client, path, **asked, reason="")
        made = console.send(client, path, **asked, reason="One-time backfill")
        page = client.get("/settings/plans").text
        trail = client.get("/settings/audit").text
        held = list_overrides(console.engine)[0]
        ended = console.send(client, f"{path}/{held.id}/end")
        file = rows_of(client.get("/settings/plans/overrides.csv").text)
    assert (without.status_code, made.status_code, ended.status_code) == (422, 303, 303)
    assert "Say why" in without.text and ends in without.text
    assert "One-time backfill" in page and "Lifted until" in page
    assert "override.grant" in trail
    assert (held.granted_by, held.cap, held.reason) == ("admin", 500, "One-time backfill")
    assert (file[0]["why"], file[0]["ended_by"]) == ("One-time backfill", "admin")


def test_a_key_is_made_and_changed_with_all_that_it_may(console: Console) -> None:
    asked = {"name": "Partner", "owner_email": "dev@example.org", "integrator": "on"}
    with console.client(Role.ADMIN) as client:
        wrong = console.send(client, "/settings/security/keys", **asked, per_minute="fast")
        made = console.send(client, "/settings/security/keys", **asked, per_minute="60")
        with console.api(Role.CONSUMER) as api:
            key = api.get("/api/keys").json()["items"][0]
            changed = api.patch(f"/api/keys/{key['id']}", json={"per_minute": None})
        path = f"/settings/security/keys/{key['id']}"
        shown = client.get(path).text
        internal = console.send(client, path, name="Partner", per_minute="7")
        file = rows_of(client.get("/settings/security/keys.csv").text)
    assert (wrong.status_code, made.status_code, internal.status_code) == (422, 200, 303)
    assert 'value="fast"' in wrong.text and "dev@example.org" in wrong.text
    assert (key["integrator"], key["per_minute"]) == (True, 60)
    assert changed.json()["per_minute"] is None and changed.json()["integrator"] is True
    assert "checked" in shown
    assert (file[0]["integrator"], file[0]["per_minute"]) == ("", "7")


def test_a_refusal_names_what_was_asked_for_and_what_there_was() -> None:
    full = QuotaExceeded(Meter.CALLS, 100, 100, WINDOW.end)
    assert str(full) == "The quota of 100 calls a month is used up."
