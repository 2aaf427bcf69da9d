"""The first page and the list of calls, as they are sent: the same figures everywhere."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from sqlalchemy import Engine, insert, text

from catalog.models import Listing, ListingOrigin
from finance.money import Usdc, Wei
from node.accounts.access import Identity, Role
from node.accounts.audit import SYSTEM
from node.console.dashboard import banners
from node.console.format import amount, cell_amount, count, latency, percent
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.preferences import change_preference
from node.treasury.choices import Thresholds
from node.usage.events import SEVERITIES, event
from node.usage.kpis import Balances
from node.usage.signals import Signals
from node.vault.choices import FirstStart
from tests.conftest import book_calls
from tests.console_world import Console, serve_console
from tests.soak.generate_calls import Month, generate, synthetic_call

DAY = 86_400
ZONES = ["UTC", "Asia/Kolkata", "America/St_Johns", "Europe/Berlin", "Pacific/Apia"]
BOOKED = {"buyer": ("bought", "spent", -1), "seller": ("served", "charged", 1)}
PAUSED = "API SERVING PAUSED — Low balance. Click to manage."


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def month(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Console]:
    """A node with a generated month of calls behind it."""
    home = tmp_path_factory.mktemp("month")
    url = f"sqlite:///{home / 'farebox.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    upgrade(engine)
    generate(engine, Month(2_000, int(time.time())), ledger=True)
    with serve_console(engine, home) as console:
        console.parts.controls.treasury.purse.balances = Balances(
            Usdc(1_234_567_891), Wei(12_345_678 * 10**10)
        )
        yield console
    engine.dispose()


@pytest.fixture
def fresh(migrated_engine: Engine, tmp_path: Any) -> Iterator[Console]:
    """A node where nothing has happened yet."""
    with serve_console(migrated_engine, tmp_path) as console:
        yield console


def cards(page: str) -> dict[str, tuple[str, str]]:
    found = re.findall(
        r'card__title">([^<]*)</h2>\s*<p class="card__value"[^>]*>([^<]*)</p>'
        r'\s*<p class="card__detail"[^>]*>([^<]*)</p>',
        page,
    )
    return {title: (value, detail) for title, value, detail in found}


def section(page: str, name: str) -> str:
    start = page.index(f'<section id="{name}"')
    return page[start : page.index("</section>", start)]


def rows(part: str) -> list[list[str]]:
    """The body of the table in a part of a page, as text."""
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [
            html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", cell))).strip()
            for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


def at_one_moment(console: Console, page_path: str, api_path: str) -> tuple[str, dict[str, Any]]:
    """A page and the JSON of the same figures: no call left a window between them."""
    pages, api = console.client(Role.VIEWER), console.api(Role.VIEWER)
    for _ in range(20):
        before = api.get(api_path).json()
        page = pages.get(page_path)
        after = api.get(api_path).json()
        assert page.status_code == 200
        if {**before, "at": 0, "uptime_seconds": 0} == {**after, "at": 0, "uptime_seconds": 0}:
            return page.text, after
    raise AssertionError("the figures never stood still")


def test_buyer_cards_equal_the_json(month: Console) -> None:
    page, api = at_one_moment(month, "/?side=buyer", "/api/dashboard?side=buyer")
    day, ever = api["last_24h"], api["all_time"]
    assert cards(page) == {
        "USDC Balance": ("1,234.56", "USDC"),
        "Gas Balance": ("0.123456", "ETH"),
        "Calls (24h)": (
            count(day["calls"]),
            f"{percent(day['succeeded'], day['calls'])} successful",
        ),
        "Avg Latency": (latency(day["average_latency_us"]), "last 24 hours"),
        "USDC Spent (24h)": (amount(Usdc(day["amount_atoms"])).text, "USDC"),
        "Total Calls Ever": (
            count(ever["calls"]),
            f"{amount(Usdc(ever['amount_atoms'])).text} USDC spent",
        ),
    }
    assert (api["usdc_atoms"], api["gas_wei"]) == (1_234_567_891, "123456780000000000")
    assert 'title="1,234.567891 USDC"' in page
    assert f'title="{amount(Usdc(ever["amount_atoms"])).exact}"' in page


def test_a_balance_of_yesterday_is_not_shown_as_of_now(fresh: Console) -> None:
    purse = fresh.parts.controls.treasury.purse
    purse.balances, purse.looked_at = Balances(Usdc(5_000_000), Wei(0)), time.time() - 7_300
    shown = cards(fresh.client(Role.VIEWER).get("/").text)
    assert shown["USDC Balance"] == ("5.00", "USDC, as of 2 h ago")
    purse.looked_at = time.time()
    assert cards(fresh.client(Role.VIEWER).get("/").text)["USDC Balance"] == ("5.00", "USDC")


def test_seller_cards_equal_the_json_and_come_first(month: Console) -> None:
    page, api = at_one_moment(month, "/", "/api/dashboard")
    assert api["side"] == "seller"
    day, week = api["last_24h"], api["last_7d"]
    assert cards(page) == {
        "Calls Served (24h)": (count(day["calls"]), f"{count(day['errors'])} errors"),
        "Success Rate": (percent(day["succeeded"], day["calls"]), "last 24 hours"),
        "Revenue (24h)": (amount(Usdc(day["amount_atoms"])).text, "USDC"),
        "Calls Served (7d)": (
            count(week["calls"]),
            f"{amount(Usdc(week['amount_atoms'])).text} USDC revenue",
        ),
    }


@pytest.mark.parametrize("side", ["buyer", "seller"])
def test_json_equals_the_journal(month: Console, side: str) -> None:
    api = month.api(Role.VIEWER).get(f"/api/dashboard?side={side}").json()
    stored = {"buyer": "bought", "seller": "served"}[side]
    for window, since in (("last_24h", api["at"] + 1 - DAY), ("all_time", 0)):
        statement = text(
            "SELECT COUNT(*), SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END), SUM(amount_atoms),"
            " SUM(latency_us) FROM call WHERE side = :side AND at_ms >= :since AND at_ms < :until"
        )
        times = {"side": stored, "since": since * 1000, "until": (api["at"] + 1) * 1000}
        with month.engine.connect() as connection:
            calls, errors, atoms, took = map(int, connection.execute(statement, times).one())
        assert api[window] == {
            "calls": calls,
            "succeeded": calls - errors,
            "errors": errors,
            "amount_atoms": atoms,
            "average_latency_us": took // calls,
        }


@pytest.mark.parametrize("zone", ZONES)
def test_bars_stand_on_the_hours_of_the_viewers_zone(month: Console, zone: str) -> None:
    client, api = month.client(Role.VIEWER), month.api(Role.VIEWER)
    client.cookies.set("farebox_zone", zone)
    for _ in range(20):
        known = api.get(f"/api/call-rate?side=seller&zone={zone}").json()["hours"]
        part = section(client.get("/?side=seller").text, "call-rate")
        if known == api.get(f"/api/call-rate?side=seller&zone={zone}").json()["hours"]:
            break
    assert f"({zone})" in part
    labels = [
        datetime.fromtimestamp(hour["at"], ZoneInfo(zone)).strftime("%b %-d, %H:%M")
        for hour in known
    ]
    assert all(label.endswith(":00") for label in labels)
    assert rows(part) == [
        [label, count(hour["succeeded"]), count(hour["errors"])]
        for label, hour in zip(labels, known, strict=True)
    ]
    titles = [html.unescape(title) for title in re.findall(r"<title>([^<]*)</title>", part)]
    assert titles == [
        f"{label}, {count(hour['succeeded'])} ok, {count(hour['errors'])} errors"
        for label, hour in zip(labels, known, strict=True)
    ]
    with month.engine.connect() as connection:
        counted = text("SELECT COUNT(*) FROM call WHERE side='served' AND at_ms >= :since")
        total = connection.execute(counted, {"since": known[0]["at"] * 1000}).scalar_one()
    assert total == sum(hour["succeeded"] + hour["errors"] for hour in known)


def journaled(console: Console, side: str, since: int, until: int) -> tuple[int, int, int]:
    """Calls, errors and atoms: plain sums over the journal of calls."""
    query = text(
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN status >= 400 THEN 1 ELSE 0 END), 0),"
        " COALESCE(SUM(amount_atoms), 0) FROM call"
        " WHERE side = :side AND at_ms >= :since AND at_ms < :until"
    )
    times = {"side": BOOKED[side][0], "since": since * 1000, "until": until * 1000}
    with console.engine.connect() as connection:
        calls, errors, atoms = connection.execute(query, times).one()
    return int(calls), int(errors), int(atoms)


def ledgered(console: Console, side: str, since: int, until: int) -> int:
    """Atoms: the plain sum over the ledger."""
    query = text(
        "SELECT COALESCE(SUM(amount), 0) FROM ledger_entry"
        " WHERE account = :account AND at >= :since AND at < :until"
    )
    _, account, sign = BOOKED[side]
    times = {"account": account, "since": since, "until": until}
    with console.engine.connect() as connection:
        return sign * int(connection.execute(query, times).scalar_one())


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("side", ["buyer", "seller"])
def test_page_json_journal_and_ledger_say_the_same(month: Console, side: str, zone: str) -> None:
    page, api = at_one_moment(month, f"/?side={side}", f"/api/dashboard?side={side}&zone={zone}")
    until = api["at"] + 1
    windows = {"last_24h": until - DAY, "last_7d": until - 7 * DAY, "all_time": 0}
    for name, since in windows.items():
        if (sums := api[name]) is not None:
            shown = (sums["calls"], sums["errors"], sums["amount_atoms"])
            assert shown == journaled(month, side, since, until), name
            assert sums["amount_atoms"] == ledgered(month, side, since, until) > 0, name
    for hour in api["hours"]:
        calls, errors, _ = journaled(month, side, hour["at"], hour["at"] + 3600)
        assert (hour["succeeded"], hour["errors"]) == (calls - errors, errors)
    title = "USDC Spent (24h)" if side == "buyer" else "Revenue (24h)"
    booked = ledgered(month, side, until - DAY, until)
    assert cards(page)[title][0] == amount(Usdc(booked)).text


@pytest.mark.parametrize("side", ["buyer", "seller"])
@pytest.mark.parametrize(
    ("sort", "order"),
    [("name", "asc"), ("calls", "desc"), ("success", "asc"), ("errors", "desc"), ("amount", "asc")],
)
def test_breakdown_equals_the_json_in_every_order(
    month: Console, side: str, sort: str, order: str
) -> None:
    query = f"side={side}&sort={sort}&order={order}"
    page, api = at_one_moment(month, f"/?{query}", f"/api/breakdown?{query}")
    shown = rows(section(page, "breakdown"))
    assert [row[:4] for row in shown] == [
        [
            item["name"],
            count(item["sums"]["calls"]),
            f"{count(item['sums']['succeeded'])} / {count(item['sums']['errors'])}",
            cell_amount(Usdc(item["sums"]["amount_atoms"])).text,
        ]
        for item in api["items"]
    ]
    last = {
        "buyer": [latency(item["sums"]["average_latency_us"]) for item in api["items"]],
        "seller": [
            percent(item["sums"]["succeeded"], item["sums"]["calls"]) for item in api["items"]
        ],
    }
    assert [row[4] for row in shown] == last[side]


def test_headings_sort_by_link_and_say_so(month: Console) -> None:
    client = month.client(Role.VIEWER)
    part = section(client.get("/?side=buyer&severity=error").text, "breakdown")
    headings = [
        re.sub(r"<[^>]*>", "", each).strip()
        for each in re.findall(r"<th scope=.*?</th>", part, re.S)
    ]
    assert headings[:5] == ["API", "Calls ↓", "Success / errors", "USDC cost", "Avg latency"]
    links = {
        label: html.unescape(href)
        for href, label in re.findall(r'<a href="(/\?[^"]*sort[^"]*)">([^<]*)</a>', part)
    }
    assert set(links) == {"API", "Calls", "Success", "errors", "USDC cost", "Avg latency"}
    for label, href in links.items():
        assert "severity=error" in href and href.endswith("#breakdown"), label
        answer = client.get(href)
        assert 'aria-sort="' in section(answer.text, "breakdown")
    once = section(client.get(links["errors"]).text, "breakdown")
    turned = next(
        html.unescape(href)
        for href, label in re.findall(r'<a href="([^"]*)">([^<]*)</a>', once)
        if label == "errors"
    )
    counts = [
        int(row[2].split(" / ")[1]) for row in rows(section(client.get(turned).text, "breakdown"))
    ]
    assert counts == sorted(counts)
    seller = section(client.get("/?side=seller").text, "breakdown")
    assert "USDC revenue" in seller and "Success rate" in seller


@pytest.mark.parametrize("side", ["buyer", "seller"])
def test_breakdown_as_a_file_has_every_row(month: Console, side: str) -> None:
    answer = month.client(Role.VIEWER).get(f"/breakdown.csv?side={side}&sort=name&order=asc")
    assert answer.headers["content-disposition"] == f'attachment; filename="apis-{side}.csv"'
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    api = month.api(Role.VIEWER).get(f"/api/breakdown?side={side}&sort=name&order=asc").json()
    assert [line["listing_id"] for line in lines] == [item["listing_id"] for item in api["items"]]
    money = "cost_usdc" if side == "buyer" else "revenue_usdc"
    assert sum(Usdc.parse(line[money]) for line in lines) == sum(
        item["sums"]["amount_atoms"] for item in api["items"]
    )


def test_calls_drill_down_from_the_breakdown(month: Console) -> None:
    client, api = month.client(Role.VIEWER), month.api(Role.VIEWER)
    part = section(client.get("/?side=buyer").text, "breakdown")
    href = html.unescape(re.findall(r'<th scope="row"[^>]*><a href="([^"]*)">', part)[0])
    page = client.get(href).text
    known = api.get(f"/api{href}").json()
    assert f"Calls of {known['items'][0]['listing']}" in page
    assert f"{count(known['total'])} in all" in page
    assert [row[2:4] for row in rows(page)] == [
        [f"{call['method']} {call['path']}", str(call["status"])]
        if not call["error"]
        else [f"{call['method']} {call['path']}", f"{call['status']} {call['error']}"]
        for call in known["items"]
    ]
    seen = [call["id"] for call in known["items"]]
    while known["older"]:
        known = api.get(f"/api{href}&before={known['older']}&count=200").json()
        seen += [call["id"] for call in known["items"]]
    assert len(seen) == len(set(seen)) == known["total"]
    older = html.unescape(re.findall(r'href="([^"]*before[^"]*)"', page)[0])
    assert "Newest" in client.get(older).text
    lines = list(csv.DictReader(io.StringIO(client.get(href.replace("?", ".csv?")).text)))
    assert [line["call_id"] for line in lines] == seen


def test_event_log_filters_pages_and_is_a_file(fresh: Console) -> None:
    with writer(fresh.engine).begin() as connection:
        for number in range(40):
            severity = SEVERITIES[number % 3]
            words = f"Line <b>{number}</b>."
            line = event("catalog_synced", severity, words, 1_790_000_000 + number)
            line.make(connection)
    client, api = fresh.client(Role.VIEWER), fresh.api(Role.VIEWER)
    part = section(client.get("/").text, "events")
    assert "<b>39</b>" not in part
    assert [row[3] for row in rows(part)] == [f"Line <b>{n}</b>." for n in range(39, 24, -1)]
    assert {row[2] for row in rows(part)} == {"info", "warning", "error"}
    older = html.unescape(re.findall(r'href="([^"]*before[^"]*)"', part)[0])
    assert older.endswith("#events")
    second = section(client.get(older).text, "events")
    assert [row[3] for row in rows(second)] == [f"Line <b>{n}</b>." for n in range(24, 9, -1)]
    errors = section(client.get("/?severity=error").text, "events")
    assert {row[2] for row in rows(errors)} == {"error"}
    assert errors.count("severity--error") == 13 and "severity--info" not in errors
    known = api.get("/api/events?severity=error&count=200").json()
    assert [row[3] for row in rows(errors)] == [item["message"] for item in known["items"]]
    file = list(csv.DictReader(io.StringIO(client.get("/events.csv?severity=error").text)))
    assert [line["message"] for line in file] == [item["message"] for item in known["items"]]
    assert file[0]["time_utc"] == "2026-09-21T14:13:58Z"


def test_a_fresh_node_says_what_to_do_first(fresh: Console) -> None:
    page = fresh.client(Role.ADMIN).get("/").text
    assert '<a href="/catalog">Catalog</a>' in page
    assert '<a href="/listings">API Management</a>' in page
    assert cards(page)["USDC Balance"] == ("—", "the chain has not answered yet")
    assert cards(page)["Calls (24h)"] == ("0", "none in 24 hours")
    assert "<tbody>" not in page
    assert 'href="/listings"' not in section_of_notice(fresh.client(Role.CONSUMER).get("/").text)


def section_of_notice(page: str) -> str:
    start = page.index('<section class="notice"')
    return page[start : page.index("</section>", start)]


@pytest.mark.parametrize("side", ["buyer", "seller"])
def test_first_steps_go_with_the_first_call_or_the_first_money(fresh: Console, side: str) -> None:
    client = fresh.client(Role.ADMIN)
    assert "Nothing has happened here yet" in client.get(f"/?side={side}").text
    purse = fresh.parts.controls.treasury.purse
    purse.balances = Balances(Usdc(1), Wei(0))
    assert "Nothing has happened here yet" not in client.get(f"/?side={side}").text
    purse.balances = Balances(Usdc(0), Wei(0))
    assert "Nothing has happened here yet" in client.get(f"/?side={side}").text
    book_calls(fresh.engine, synthetic_call(Month(10, int(time.time())), 9))
    assert "Nothing has happened here yet" not in client.get(f"/?side={side}").text


def test_low_balance_banner_leads_to_finance(fresh: Console) -> None:
    client = fresh.client(Role.ADMIN)
    assert "API SERVING PAUSED" not in client.get("/").text
    listing = {"id": "lst_1", "slug": "l", "name": "Lists", "base_url": "http://127.0.0.1:9"}
    with writer(fresh.engine).begin() as connection:
        connection.execute(insert(Listing), {**listing, "origin": ListingOrigin.OWN})
    now = int(time.time())
    change_preference(fresh.engine, Thresholds(low_usdc_atoms=5_000_000), SYSTEM, now)
    treasury = fresh.parts.controls.treasury
    treasury.purse.balances = Balances(Usdc(1), Wei(10**18))
    treasury.purse.looked_at = time.time()
    asyncio.run(treasury.guard.look())
    page = client.get("/").text
    assert f'<a class="banner banner--warn" href="/finance">{PAUSED}</a>' in page
    assert fresh.api(Role.VIEWER).get("/api/dashboard").json()["signals"]["serving_paused"]
    owner = fresh.client(Role.API_OWNER).get("/").text
    assert f'<p class="banner banner--warn">{PAUSED}</p>' in owner


def test_backup_banner_leads_to_backups_after_thirty_days(fresh: Console) -> None:
    client = fresh.client(Role.ADMIN)
    now = int(time.time())
    change_preference(fresh.engine, FirstStart(at=now - 29 * DAY), SYSTEM, now)
    assert "BACKUP OVERDUE" not in client.get("/").text
    change_preference(fresh.engine, FirstStart(at=now - 31 * DAY), SYSTEM, now)
    page = client.get("/").text
    assert re.search(
        r'<a class="banner banner--bad" href="/settings/backup">BACKUP OVERDUE — 31 days', page
    )


def test_banner_says_how_old_the_last_backup_is() -> None:
    admin = Identity("usr_1", "admin", Role.ADMIN, "127.0.0.1")
    signals = Signals(backup_overdue=True, days_without_backup=34, ever_backed_up=True)
    (banner,) = banners(signals, admin)
    assert "34 days old" in banner.text
    both = banners(Signals(serving_paused=True, backup_overdue=True), admin)
    assert [each.tone for each in both] == ["warn", "bad"]


@pytest.mark.parametrize(
    "path",
    [
        "/?side=x&sort=y&order=z&page=-3&severity=q&before=w",
        "/?page=999999",
        "/?before=999999999999999999999",
        "/?before=0",
        "/calls?side=x&listing=%00&outcome=y&before=1-%00",
        "/calls?listing=" + "x" * 500,
        "/calls?before=999999999999999-zz",
    ],
)
def test_an_odd_address_shows_the_plain_page(month: Console, path: str) -> None:
    assert month.client(Role.VIEWER).get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/dashboard?zone=Mars/Olympus",
        "/api/dashboard?zone=../../etc/passwd",
        "/api/dashboard?side=both",
        "/api/calls?before=x",
        "/api/calls?listing=%00",
        "/api/calls?count=0",
        "/api/events?before=99999999999999999999",
        "/api/breakdown?sort=id",
    ],
)
def test_an_odd_question_is_refused_with_its_field(month: Console, path: str) -> None:
    answer = month.api(Role.VIEWER).get(path)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in path


def test_text_of_strangers_is_never_markup(fresh: Console) -> None:
    call = synthetic_call(Month(10, int(time.time())), 9)
    hostile = {name: getattr(call, name) for name in call.__struct_fields__}
    hostile |= {"path": "/<script>alert(1)</script>", "listing_id": "<img/src=x>", "error": "<i>"}
    book_calls(fresh.engine, type(call)(**hostile))
    for path in ("/?side=seller", "/?side=buyer", "/calls?side=seller", "/calls?side=buyer"):
        page: httpx.Response = fresh.client(Role.VIEWER).get(path)
        assert "<script>alert" not in page.text and "<img" not in page.text
        assert "<i>" not in page.text
