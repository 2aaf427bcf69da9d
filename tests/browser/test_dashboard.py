"""The first page in a browser: figures become fresh under the reader's hands."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine

from finance.money import Usdc, Wei
from node.accounts.audit import SYSTEM
from node.db.engine import writer
from node.preferences import change_preference
from node.usage.calls import CallRecord
from node.usage.events import event
from node.usage.kpis import Balances
from node.usage.models import Side
from node.vault.choices import FirstStart
from tests.browser.accessibility import violations
from tests.conftest import book_calls
from tests.console_world import Console, serve_console

BUYER_CARDS = [
    "USDC Balance",
    "Gas Balance",
    "Calls (24h)",
    "Avg Latency",
    "USDC Spent (24h)",
    "Total Calls Ever",
]
SELLER_CARDS = ["Calls Served (24h)", "Success Rate", "Revenue (24h)", "Calls Served (7d)"]


# A label every six hours, as they stand at another hour of the day.
SHIFT_TICKS = """(hour) => document.querySelectorAll(".chart__ticks li").forEach(
    (each, index) => { each.textContent = index % 6 === hour ? "20:00" : ""; })"""
# What is shown and begins before the one before it ends, or ends beyond its chart.
OVERLAPS = """() => {
  const found = [];
  const chart = document.querySelector(".chart").getBoundingClientRect();
  let end = 0;
  for (const each of document.querySelectorAll(".chart__ticks li")) {
    if (!each.textContent || getComputedStyle(each).visibility === "hidden") continue;
    const range = document.createRange();
    range.selectNodeContents(each);
    const box = range.getBoundingClientRect();
    if (box.left < end + 2 || box.right > chart.right) found.push([box.left, end, box.right]);
    end = box.right;
  }
  return found;
}"""


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    with serve_console(migrated_engine, tmp_path) as console:
        console.parts.controls.treasury.purse.balances = Balances(
            Usdc(1_234_567_890), Wei(123_456 * 10**13)
        )
        yield console


def book(console: Console, *numbers: int, side: Side = Side.BOUGHT, status: int = 200) -> None:
    now_ms = int(time.time() * 1000)
    calls = [
        CallRecord(
            id=f"{side}_{number}",
            side=side,
            at_ms=now_ms - number * 600_000,
            listing_id=f"lst_{number % 30:02d}_{'with_a_name_that_goes_on' * 3}",
            method="GET",
            path="/forecast/" + "lisbon" * 20,
            status=200 if number % 7 else 502,
            latency_us=8_400,
            scheme="batch-settlement",
            amount_atoms=1_000,
        )
        for number in numbers
    ]
    book_calls(console.engine, *calls)


def note(console: Console, message: str) -> None:
    line = event("catalog_synced", "warning", message, int(time.time()))
    with writer(console.engine).begin() as connection:
        line.make(connection)


def card(page: Page, title: str) -> str:
    found = page.locator(".card", has=page.get_by_role("heading", name=title, exact=True))
    return found.locator(".card__value").inner_text()


@pytest.mark.browser
def test_both_sides_show_their_cards(browser: Browser, console: Console) -> None:
    book(console, *range(30))
    book(console, 31, side=Side.SERVED)
    page = console.sign_in(browser)
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.goto("/")
    expect(page.locator(".card__title")).to_have_text(BUYER_CARDS)
    page.get_by_role("link", name="Seller").click()
    expect(page.locator(".card__title")).to_have_text(SELLER_CARDS)
    expect(page.get_by_role("link", name="Seller")).to_have_attribute("aria-current", "true")
    assert faults == []


@pytest.mark.browser
def test_figures_become_fresh_every_thirty_seconds_in_place(
    browser: Browser, console: Console
) -> None:
    book(console, *range(1, 40))
    page = console.sign_in(browser, viewport={"width": 1200, "height": 500})
    page.clock.install()
    page.goto("/?side=buyer")
    page.evaluate("window.untouched = true")
    page.get_by_text("Numbers").click()
    inner = page.locator("#call-rate .scroll")
    inner.evaluate("box => box.scrollTop = 120")
    heading = page.locator("#breakdown").get_by_role("link", name="USDC cost")
    heading.focus()
    page.evaluate("window.scrollTo(0, 300)")
    book(console, 0, 41)
    note(console, "Synced 3 listings.")
    console.parts.controls.treasury.purse.balances = Balances(Usdc(7_000_000), Wei(0))
    page.clock.run_for(20_000)  # and the seconds that go by here
    assert card(page, "Calls (24h)") == "39"
    page.clock.run_for(11_000)
    expect(page.locator("#events")).to_contain_text("Synced 3 listings.")
    assert card(page, "Calls (24h)") == "41"
    assert card(page, "USDC Balance") == "7.00"
    assert page.evaluate("window.untouched")
    assert page.evaluate("window.scrollY") == 300
    assert page.evaluate("document.activeElement.textContent") == "USDC cost"
    expect(page.locator("#call-rate details")).to_have_attribute("open", "")
    assert page.locator("#call-rate .scroll").evaluate("box => box.scrollTop") == 120
    page.clock.run_for(30_000)
    assert page.locator("#stale").inner_text() == ""


@pytest.mark.browser
def test_an_open_menu_stays_open(browser: Browser, console: Console) -> None:
    page = console.sign_in(browser)
    page.clock.install()
    page.goto("/")
    page.locator(".menu summary").click()
    note(console, "Something new.")
    page.clock.run_for(31_000)
    expect(page.locator("#events")).to_contain_text("Something new.")
    expect(page.locator(".menu")).to_have_attribute("open", "")


@pytest.mark.browser
def test_banners_come_and_go_without_reloading(browser: Browser, console: Console) -> None:
    page = console.sign_in(browser)
    page.clock.install()
    page.goto("/")
    expect(page.locator("#banners")).to_be_hidden()
    now = int(time.time())
    change_preference(console.engine, FirstStart(at=now - 40 * 86_400), SYSTEM, now)
    page.clock.run_for(31_000)
    banner = page.get_by_role("link", name="BACKUP OVERDUE")
    expect(banner).to_have_attribute("href", "/settings/backup")
    change_preference(console.engine, FirstStart(at=now), SYSTEM, now)
    page.clock.run_for(31_000)
    expect(page.locator("#banners")).to_be_hidden()


@pytest.mark.browser
def test_figures_that_cannot_be_refreshed_say_how_old_they_are(
    browser: Browser, console: Console
) -> None:
    page = console.sign_in(browser)
    page.clock.install()
    page.goto("/")
    page.route("**/*", lambda route: route.abort())
    page.clock.run_for(31_000)
    expect(page.locator("#stale")).to_contain_text(re.compile(r"these figures are 3\d s old"))
    page.clock.run_for(300_000)
    expect(page.locator("#stale")).to_contain_text("min old")
    page.unroute("**/*")
    page.clock.run_for(31_000)
    expect(page.locator("#stale")).to_have_text("")


@pytest.mark.browser
def test_a_node_that_is_gone_is_not_mistaken_for_a_quiet_one(
    browser: Browser, migrated_engine: Engine, tmp_path: Path
) -> None:
    with serve_console(migrated_engine, tmp_path) as console:
        page = console.sign_in(browser)
        page.clock.install()
        page.goto("/")
    page.clock.run_for(31_000)
    expect(page.locator("#stale")).to_contain_text("The node does not answer")
    assert page.get_by_role("heading", name="Dashboard").is_visible()


@pytest.mark.browser
def test_a_session_that_ended_leads_to_sign_in(browser: Browser, console: Console) -> None:
    page = console.sign_in(browser)
    page.clock.install()
    page.goto("/")
    page.context.clear_cookies()
    page.clock.run_for(31_000)
    expect(page).to_have_url(f"{console.url}/sign-in")


@pytest.mark.browser
def test_without_script_links_do_the_same(browser: Browser, console: Console) -> None:
    book(console, *range(1, 70))
    for number in range(20):
        note(console, f"Line {number}.")
    page = console.sign_in(browser, java_script_enabled=False)
    page.goto("/")
    assert card(page, "Calls (24h)") == "69"
    book(console, 0)
    page.reload()
    assert card(page, "Calls (24h)") == "70"
    page.locator("#events").get_by_role("link", name="Older").click()
    expect(page.locator("#events")).to_contain_text("Line 0.")
    page.locator("#breakdown").get_by_role("link", name="Next").click()
    expect(page.locator("#breakdown")).to_contain_text("Page 2 of 2")
    page.locator("#breakdown tbody a").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Calls of lst_")
    page.get_by_role("link", name="Errors").click()
    expect(page.locator(".pill[aria-current]")).to_have_text("Errors")
    page.go_back()
    page.go_back()
    page.get_by_text("Numbers").click()
    assert page.locator("#call-rate tbody tr").count() == 48


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (1440, "dark")])
def test_full_pages_fit_and_everybody_can_read_them(
    browser: Browser, console: Console, width: int, scheme: str
) -> None:
    book(console, *range(60))
    for number in range(20):
        note(console, f"Line {number}: " + "x" * 300)
    now = int(time.time())
    change_preference(console.engine, FirstStart(at=now - 40 * 86_400), SYSTEM, now)
    page = console.sign_in(
        browser,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        timezone_id="Asia/Kolkata",
    )
    for path in ("/?side=buyer", "/calls?side=buyer", "/?side=seller"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []


@pytest.mark.browser
def test_hovering_a_bar_says_its_hour_and_both_counts(browser: Browser, console: Console) -> None:
    book(console, *range(280))
    page = console.sign_in(browser, timezone_id="America/St_Johns")
    page.goto("/")
    page.goto("/?side=buyer")  # the zone is known from the first visit
    expect(page.locator("#call-rate")).to_contain_text("(America/St_Johns)")
    titles = page.locator("#call-rate svg title").evaluate_all("all => all.map(e => e.textContent)")
    assert len(titles) == 48
    assert all(":00, " in title for title in titles)
    good = page.locator("#call-rate .chart__bar--good")
    bad = page.locator("#call-rate .chart__bar--bad")
    assert good.count() > 40 and bad.count() > 30
    first_good, first_bad = good.first.bounding_box(), bad.first.bounding_box()
    assert first_good and first_bad
    column = page.locator("#call-rate g", has=page.locator(".chart__bar--bad")).first
    low = column.locator(".chart__bar--good").bounding_box()
    high = column.locator(".chart__bar--bad").bounding_box()
    assert low and high and high["y"] + high["height"] <= low["y"] + 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [375, 1440])
def test_large_figures_stand_in_one_line_and_hours_below_their_chart(
    browser: Browser, console: Console, width: int
) -> None:
    purse = console.parts.controls.treasury.purse
    purse.balances = Balances(Usdc(123_456_780_000), Wei(123 * 10**18))
    book(console, *range(3))
    page = console.sign_in(browser, viewport={"width": width, "height": 900})
    page.goto("/?side=buyer")
    lines = page.locator(".card__value").evaluate_all(
        "all => all.map(e => e.clientHeight / parseFloat(getComputedStyle(e).lineHeight))"
    )
    assert card(page, "USDC Balance") == "123,456.78"
    assert card(page, "Gas Balance") == "123.000000"
    assert max(lines) < 1.5
    for width in (360, 520, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        for hour in range(6):
            page.evaluate(SHIFT_TICKS, hour)
            assert page.evaluate(OVERLAPS) == [], (width, hour)
    beyond = page.locator(".chart__ticks").evaluate(
        """ticks => [...ticks.children].map(each => {
          each.textContent = "12:00";
          const words = document.createRange();
          words.selectNodeContents(each);
          return words.getBoundingClientRect().right - ticks.getBoundingClientRect().right;
        })"""
    )
    assert len(beyond) == 48 and max(beyond) <= 1
