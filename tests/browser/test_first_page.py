"""The first page, as a browser shows it and as an attacker's page would ask for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import Engine

from finance.money import Usdc, Wei
from node.console.app import create_console
from node.console.facts import NodeFacts
from node.server import bind, make_server
from node.settings import Bind
from node.usage.calls import CallRecord
from node.usage.kpis import Balances
from node.usage.models import Side
from tests.conftest import CHROMIUM, book_calls

ADDRESS = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


@dataclass(frozen=True)
class Console:
    url: str
    engine: Engine

    def book(self, *records: CallRecord) -> None:
        book_calls(self.engine, *records)


@pytest.fixture
def console(migrated_engine: Engine) -> Iterator[Console]:
    yield from serve_console(migrated_engine, loopback=True)


def serve_console(engine: Engine, loopback: bool) -> Iterator[Console]:
    facts = NodeFacts("devnet", False, ADDRESS, "http://127.0.0.1:8402", int(time.time()) - 4000)
    balances = Balances(Usdc(1_234_567_890), Wei(123_456 * 10**13))
    app = create_console(engine, facts, lambda: balances, loopback)
    listener = bind(Bind("127.0.0.1", 0), "FAREBOX_CONSOLE_BIND")
    server = make_server(app, 1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Console(f"http://127.0.0.1:{listener.getsockname()[1]}", engine)
    server.stop_accepting()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: install chromium, or say where with FAREBOX_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def call(number: int, side: Side = Side.BOUGHT, status: int = 200) -> CallRecord:
    return CallRecord(
        id=f"{side}_{number}",
        side=side,
        at_ms=int(time.time() * 1000) - number * 1000,
        listing_id="lst_1",
        method="GET",
        path="/forecast/<b>lisbon</b>",
        status=status,
        latency_us=8_400,
        scheme="batch-settlement" if status < 400 else None,
        amount_atoms=1_000 if status < 400 else 0,
    )


def titles(page: Page) -> list[str]:
    return page.locator(".card__title").all_text_contents()


@pytest.mark.browser
def test_both_sides_show_their_cards(browser: Browser, console: Console) -> None:
    console.book(*(call(number) for number in range(30)), call(31, Side.SERVED))
    page = browser.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.goto(console.url)
    assert titles(page) == [
        "USDC Balance",
        "Gas Balance",
        "Calls (24h)",
        "Avg Latency",
        "USDC Spent (24h)",
        "Total Calls Ever",
    ]
    assert page.locator("tbody tr").count() == 25
    page.get_by_role("link", name="Seller").click()
    assert titles(page) == [
        "Calls Served (24h)",
        "Success Rate",
        "Revenue (24h)",
        "Calls Served (7d)",
    ]
    assert faults == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_page_fits_its_window(browser: Browser, console: Console, scheme: str, width: int) -> None:
    console.book(*(call(number) for number in range(30)))
    page = browser.new_page(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page.goto(console.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(16, 22, 20)") == (scheme == "dark")


@pytest.mark.browser
def test_figures_refresh_in_place_and_without_script_by_reloading(
    browser: Browser, console: Console
) -> None:
    console.book(call(1))
    page = browser.new_page()
    page.clock.install()
    page.goto(console.url)
    page.get_by_role("link", name="Buyer").focus()
    console.book(call(0), call(2))
    page.clock.run_for(6_000)
    expect(page.locator("tbody tr")).to_have_count(3)
    assert page.evaluate("document.activeElement.textContent") == "Buyer"
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(console.url)
    assert plain.locator("tbody tr").count() == 3


def test_text_from_calls_is_never_markup(console: Console) -> None:
    console.book(call(1))
    page = httpx.get(console.url).text
    assert "<b>lisbon</b>" not in page
    assert "&lt;b&gt;lisbon" in page


def test_page_brings_no_foreign_or_inline_code(console: Console) -> None:
    answer = httpx.get(console.url)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "style=" not in answer.text and "<style" not in answer.text
    assert answer.text.count("<script") == 1
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8400", "", "[::1"])
def test_another_name_for_this_machine_shows_nothing(console: Console, host: str) -> None:
    answer = httpx.get(console.url, headers={"host": host})
    assert answer.status_code in (400, 421)
    assert "USDC Balance" not in answer.text


def test_page_is_refused_when_the_network_could_reach_it(migrated_engine: Engine) -> None:
    for console in serve_console(migrated_engine, loopback=False):
        answer = httpx.get(console.url)
        assert answer.status_code == 403
        assert "FAREBOX_CONSOLE_BIND" in answer.text
