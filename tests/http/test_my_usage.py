"""Developers > My usage: whose key it is, what it used, and a new token."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text

from catalog.models import Listing, ListingOrigin
from node.accounts.access import Role
from node.accounts.audit import COMMAND, Actor
from node.accounts.users import change_email
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.usage.calls import CallRecord
from node.usage.key_choices import KeyChoices
from node.usage.keys import change_key, create_key, read_key, valid_keys
from node.usage.keys import hash_secret as hashed
from node.usage.metering import RateHits
from node.usage.models import Side
from node.usage.overrides import grant_override
from node.usage.quotas import Meter, key_subject
from tests.conftest import book_calls
from tests.console_world import Console, serve_console

PAGE = "/developers/my-usage"
MINE, THEIRS = "me@example.org", "somebody@example.org"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("usage")
    engine = open_engine(f"sqlite:///{folder / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, folder) as console:
        change_email(engine, console.users[Role.CONSUMER], MINE, COMMAND, 1)
        yield console
    engine.dispose()


@pytest.fixture
def console(running: Console) -> Console:
    """Nobody has a key, nothing was called."""
    with writer(running.engine).begin() as connection:
        for table in ("consumer_key", "call", "call_rollup", "rate_hits", "audit_entry"):
            connection.execute(text(f"DELETE FROM {table}"))
    return running


def make_key(console: Console, email: str, name: str = "Robot", **choices: Any) -> str:
    made = create_key(console.engine, KeyChoices(name, email, **choices), int(time.time()))
    return made.id


def book(console: Console, key_id: str, *routes: tuple[str, int], cost: int = 1_000) -> None:
    now = int(time.time())
    calls = [
        CallRecord(
            f"{key_id}{number:020x}", Side.BOUGHT, now * 1000, "l1", "GET", f"/x/{number}",
            status, 2_000 + number, key_id, amount_atoms=cost if status < 400 else 0,
            scheme="exact", route=route,
        )
        for number, (route, status) in enumerate(routes)
    ]  # fmt: skip
    book_calls(console.engine, *calls)


def add_listing(engine: Engine) -> None:
    row = {"id": "l1", "slug": "weather", "name": "Weather", "base_url": "https://x"}
    with writer(engine).begin() as connection:
        connection.execute(insert(Listing).values(row | {"origin": ListingOrigin.REMOTE}))


def test_everybody_sees_their_own_keys_and_an_admin_all(console: Console) -> None:
    mine, theirs = make_key(console, MINE.upper(), "Mine"), make_key(console, THEIRS, "Theirs")
    with console.client(Role.CONSUMER) as client:
        page = client.get(PAGE)
        assert page.status_code == 200
        assert "API token of Mine" in page.text and "Theirs" not in page.text
        assert "API token of Mine" in client.get(f"{PAGE}?key={theirs}").text
        for path in ("endpoints.csv", "record", "record.csv"):
            assert client.get(f"{PAGE}/{theirs}/{path}").status_code == 404
            assert client.get(f"{PAGE}/{mine}/{path}").status_code == 200
        refused = console.send(client, f"{PAGE}/{theirs}/regenerate", grace="0")
        assert refused.status_code == 404
    with console.api(Role.CONSUMER) as api:
        assert [each["id"] for each in api.get("/api/my-usage").json()["items"]] == [mine]
        assert api.get(f"/api/my-usage/{theirs}").status_code == 404
        assert api.post(f"/api/my-usage/{theirs}/regenerate", json={}).status_code == 404
    with console.api(Role.ADMIN) as api:
        items = api.get("/api/my-usage").json()["items"]
        assert {each["id"] for each in items} == {mine, theirs}


def test_who_owns_no_key_is_told_how_to_get_one(console: Console) -> None:
    make_key(console, "", "Nobody's")
    with console.client(Role.CONSUMER) as client:
        assert "None of this node's keys has your email address" in client.get(PAGE).text


def test_a_new_token_is_shown_once_and_the_old_one_ends_at_once(console: Console) -> None:
    made = create_key(console.engine, KeyChoices("Robot", MINE), int(time.time()))
    with console.client(Role.CONSUMER) as client:
        answer = console.send(client, f"{PAGE}/{made.id}/regenerate", grace="0")
        found = re.search(r'id="new-token">(fbx_[\w-]+)<', answer.text)
        assert found is not None and found[1] != made.secret
        assert found[1] not in client.get(PAGE).text
        assert "A new token was made." in client.get(f"{PAGE}/{made.id}/record").text
    assert set(valid_keys(console.engine, int(time.time()))) == {hashed(found[1])}


def test_the_old_token_goes_on_for_as_long_as_the_page_says(console: Console) -> None:
    made = create_key(console.engine, KeyChoices("Robot", MINE), int(time.time()))
    with console.client(Role.CONSUMER) as client:
        answer = console.send(client, f"{PAGE}/{made.id}/regenerate", grace="3600")
        assert "The old token still works until" in answer.text
        assert "The old token still works until" in client.get(PAGE).text
        assert console.send(client, f"{PAGE}/{made.id}/regenerate", grace="1").status_code == 422
    valid = valid_keys(console.engine, int(time.time()))
    assert len(valid) == 2 and hashed(made.secret) in valid
    assert hashed(made.secret) not in valid_keys(console.engine, int(time.time()) + 3_601)
    with console.api(Role.CONSUMER) as api:
        again = api.post(f"/api/my-usage/{made.id}/regenerate", json={"grace_seconds": 60}).json()
        assert again["previous_until"] - int(time.time()) in range(55, 61)
        assert hashed(again["secret"]) in valid_keys(console.engine, int(time.time()))


def test_a_page_sent_again_does_not_end_the_token_that_was_to_go_on(console: Console) -> None:
    """Reloading what shows the new token sends the form anew, as does a second tab."""
    made = create_key(console.engine, KeyChoices("Robot", MINE), int(time.time()))
    with console.client(Role.CONSUMER) as client:
        for path, rotate in (
            (PAGE, f"{PAGE}/{made.id}/regenerate"),
            ("/settings/security", f"/settings/security/keys/{made.id}/rotate"),
        ):
            before = valid_keys(console.engine, int(time.time()))
            seen = re.search(r'name="seen" value="(\d+)"', client.get(path).text)
            assert seen is not None
            first = console.send(client, rotate, grace="3600", seen=seen[1])
            assert first.status_code == 200 and "fbx_" in first.text
            valid = valid_keys(console.engine, int(time.time()))
            again = console.send(client, rotate, grace="3600", seen=seen[1])
            assert (again.status_code, "fbx_" in again.text) == (422, False)
            assert valid_keys(console.engine, int(time.time())) == valid
            assert len(set(before) & set(valid)) == 1


def test_what_a_key_may_is_not_set_back_by_a_page_made_before(console: Console) -> None:
    made = create_key(console.engine, KeyChoices("Robot", MINE), int(time.time()))
    path = f"/settings/security/keys/{made.id}"
    with console.client(Role.ADMIN) as client:
        seen = re.search(r'name="seen" value="(\d+)"', client.get(path).text)
        assert seen is not None
        change_key(console.engine, made.id, KeyChoices("Robot", MINE, per_minute=5), 1)
        typed = {"name": "Robot 2", "owner_email": MINE, "seen": seen[1]}
        refused = console.send(client, path, **typed)
        assert refused.status_code == 422 and "changed after" in refused.text
        assert 'value="Robot 2"' in refused.text
        assert read_key(console.engine, made.id).per_minute == 5
        seen = re.search(r'name="seen" value="(\d+)"', refused.text)
        assert seen is not None
        assert console.send(client, path, **{**typed, "seen": seen[1]}).status_code == 303
    assert read_key(console.engine, made.id).name == "Robot 2"


def test_figures_are_the_same_on_the_page_in_the_file_and_in_json(console: Console) -> None:
    add_listing(console.engine)
    key_id = make_key(console, MINE, integrator=True, per_minute=600)
    city, rest = "GET /forecast/{city}", "POST /reports"
    book(console, key_id, (city, 200), (city, 200), (city, 404), (rest, 502))
    with writer(console.engine).begin() as connection:
        hits = {"subject": key_subject(key_id), "slot": int(time.time()) // 900 * 900, "hits": 7}
        connection.execute(insert(RateHits), hits)
    with console.client(Role.CONSUMER) as client, console.api(Role.CONSUMER) as api:
        page = client.get(f"{PAGE}?key={key_id}").text
        usage = api.get(f"/api/my-usage/{key_id}").json()
        table = api.get(f"/api/my-usage/{key_id}/endpoints?span=7d").json()
        lines = list(csv.DictReader(StringIO(client.get(f"{PAGE}/{key_id}/endpoints.csv").text)))
    assert _cards(page) == {
        "Daily Avg Usage": "4.0",
        "Avg Latency": "2.0 ms",
        "Error Rate": "50.0 %",
        "Rate Limit Hit": "7",
    }
    cards = usage["cards"]
    assert (cards["requests"], cards["errors"], cards["rate_limit_hits"]) == (4, 2, 7)
    assert (cards["daily_average"], cards["error_rate"]) == (4.0, 0.5)
    assert cards["avg_latency_us"] == 2_001
    assert usage["requests_this_month"] == 4 and usage["per_minute"] == 600
    assert [meter["meter"] for meter in usage["meters"]] == ["calls", "stream_seconds"]
    assert [(row["route"], row["requests"]) for row in table["endpoints"]] == [(city, 3), (rest, 1)]
    assert table["amount_atoms"] == 2_000
    found = [(row["endpoint"], row["status"], row["calls"], row["usdc"]) for row in lines]
    assert found == [
        (city, "200", "2", "0.002"),
        (city, "404", "1", "0"),
        (rest, "502", "1", "0"),
    ]
    assert "200: 2, 404: 1" in page and "Weather" in page


def test_days_that_are_none_are_refused_beside_their_field(console: Console) -> None:
    key_id = make_key(console, MINE)
    with console.client(Role.CONSUMER) as client, console.api(Role.CONSUMER) as api:
        late = client.get(f"{PAGE}?key={key_id}&span=days&first=2026-03-02&last=2026-03-01")
        assert late.status_code == 422 and "not before the first one" in late.text
        assert 'value="2026-03-02"' in late.text
        assert client.get(f"{PAGE}?span=days&first=x&last=").status_code == 422
        asked = f"/api/my-usage/{key_id}/endpoints?span=days&first=2026-03-02&last=2026-03-01"
        assert api.get(asked).status_code == 422
        assert client.get(f"{PAGE}/{key_id}/endpoints.csv?span=never").status_code == 422


def test_what_was_granted_and_changed_stands_in_the_record(console: Console) -> None:
    now = int(time.time())
    key_id = create_key(console.engine, KeyChoices("Robot", MINE, True), now - 60).id
    admin = Actor("u1", "Ada", "127.0.0.1")
    grant_override(console.engine, Meter.CALLS, 50_000, now + 3_600, "A busy week.", now, admin)
    seconds, why = Meter.STREAM_SECONDS, "Half an hour."
    grant_override(console.engine, seconds, 1_800, now + 3_600, why, now - 1, admin)
    with console.client(Role.CONSUMER) as client, console.api(Role.CONSUMER) as api:
        page = client.get(PAGE).text
        assert "Override granted: API calls up to 50,000 a month. A busy week." in page
        assert "Override granted: stream hours up to 0.5 a month. Half an hour." in page
        lines = api.get(f"/api/my-usage/{key_id}/record").json()["items"]
        file = list(csv.DictReader(StringIO(client.get(f"{PAGE}/{key_id}/record.csv").text)))
    assert [line["kind"] for line in lines] == ["override", "override", "key"]
    assert [line["text"] for line in lines] == [row["text"] for row in file]
    assert (lines[0]["by"], lines[0]["state"]) == ("Ada", "holds")


def _cards(page: str) -> dict[str, str]:
    pattern = r'card__title">([^<]+)</h3><p class="card__value"[^>]*>([^<]+)<'
    return dict(re.findall(pattern, page))
