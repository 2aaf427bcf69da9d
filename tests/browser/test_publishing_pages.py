"""From a specification to a listing in a browser, on a phone, without script, and to a sale."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine

from catalog.drafts import Draft
from catalog.editing import add_listing
from catalog.models import ListingOrigin
from finance.money import Usdc
from node.accounts.access import Role
from node.db.engine import open_engine, writer
from tests.browser.test_every_page import faults_of
from tests.chain_fixtures import DevchainProcess
from tests.console_world import PASSWORD, Console, serve_console
from tests.publishing_world import KEY, Weather, serve_weather, spec_text
from tests.recovery.market_world import Market, open_market


@pytest.fixture
def api() -> Iterator[Weather]:
    with serve_weather() as api:
        yield api


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path, api: Weather) -> Iterator[Console]:
    host = api.url.removeprefix("http://")
    with serve_console(migrated_engine, tmp_path, allowed_hosts=[host]) as console:
        yield console


def fill_details(page: Page, api: Weather, name: str, spec: str) -> None:
    page.goto("/listings")
    page.get_by_role("link", name="Register an API").first.click()
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Base URL of your API").fill(api.url)
    page.get_by_label("Tags").fill("weather, sea")
    page.get_by_label("It goes").select_option("header")
    page.get_by_label("Name of the header or query parameter").fill("X-Key")
    page.get_by_label("Value").fill(KEY)
    page.get_by_label("Health path").fill("/stations")
    page.get_by_label("Or paste it").fill(spec)
    page.get_by_role("button", name="Validate").click()


def publish(page: Page) -> None:
    page.get_by_role("button", name="Record the chosen ones").click()
    page.get_by_role("link", name="Set prices and publish").click()
    page.get_by_label("Price, USDC").fill("0.001")
    page.get_by_label("GET /forecast/{city}").fill("0.002")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_text("is published.")).to_be_visible()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (375, "dark")])
def test_registering_is_readable_at_every_step(
    browser: Browser, console: Console, api: Weather, width: int, scheme: str
) -> None:
    """With names, paths and answers as long as they may be."""
    page = console.sign_in(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    faults: list[str] = []

    def look(step: str) -> None:
        faults.extend(f"{step}: {fault}" for fault in faults_of(page, width))

    document = json.loads(spec_text())
    long = "/stations/" + "x" * 150
    document["paths"][long] = {"get": {"summary": "y" * 300, "responses": {"200": {}}}}
    fill_details(page, api, "W" * 80, json.dumps(document))
    look("problems")
    document["paths"][long]["get"]["responses"]["200"] = {"description": "ok"}
    page.get_by_label("Or paste it").fill(json.dumps(document))
    page.get_by_role("button", name="Check the mended one").click()
    look("validated")
    page.get_by_role("link", name="Change the details").click()
    look("details")
    page.go_back()
    publish(page)
    look("listing")
    page.get_by_role("button", name="Look now").click()
    for name in ("Edit", "Record a sample", "Delete"):
        page.get_by_role("link", name=name, exact=True).click()
        look(name)
        page.go_back()
    page.get_by_role("link", name="GET /forecast/lisbon?days=3").click()
    look("sample")
    page.goto("/listings")
    look("list")
    assert faults == []


@pytest.mark.browser
def test_everything_works_without_script(browser: Browser, console: Console, api: Weather) -> None:
    page = console.sign_in(browser, Role.API_OWNER, java_script_enabled=False)
    fill_details(page, api, "Weather", spec_text())
    publish(page)
    page.get_by_role("button", name="Demo", exact=True).click()
    expect(page.get_by_text("free and marked as demo")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_role("button", name="Record again: GET /stations").click()
    expect(page.get_by_text("Recorded anew.")).to_be_visible()
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Price, USDC").fill("0.0000001")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("is no price in USDC")).to_be_visible()
    expect(page.get_by_label("Price, USDC")).to_have_value("0.0000001")
    page.get_by_label("Price, USDC").fill("0.5")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("keep their price")).to_be_visible()
    page.get_by_role("link", name="Delete").click()
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Delete Weather").click()
    expect(page.get_by_text("is no longer sold")).to_be_visible()


@pytest.fixture
def running_market(tmp_path: Path) -> Iterator[Market]:
    """Two nodes in processes of their own, run by a loop in a thread: Playwright has this one."""
    started, ended = threading.Event(), threading.Event()
    found: list[Any] = []

    async def run(chain: DevchainProcess) -> None:
        try:
            async with open_market(chain, tmp_path) as market:
                found.append(market)
                started.set()
                await asyncio.to_thread(ended.wait)
        except BaseException as error:
            found.append(error)
            raise
        finally:
            started.set()

    with DevchainProcess(block_seconds=0.5) as chain:
        thread = threading.Thread(target=lambda: asyncio.run(run(chain)))
        thread.start()
        started.wait()
        try:
            assert isinstance(found[0], Market), found[0]
            yield found[0]
        finally:
            ended.set()
            thread.join()


@pytest.mark.browser
def test_from_the_first_start_to_the_first_sale(
    browser: Browser, running_market: Market, api: Weather
) -> None:
    seller, buyer = running_market.seller, running_market.buyer
    page = browser.new_page(base_url=f"http://127.0.0.1:{seller.console_port}")
    set_up(page, seller.address)
    expect(page.get_by_text("Nothing has happened here yet")).to_be_visible()
    page.get_by_role("link", name="API Management").first.click()
    fill_details(page, api, "Weather", spec_text())
    publish(page)
    listing = page.url
    address = f"{seller.gateway_url}/v1/weather"
    _know(buyer.data_dir, address)
    demo = _until(f"{address}/forecast/oslo", {"Farebox-Demo": "1"})
    assert (demo.status_code, demo.headers["farebox-demo"]) == (200, "true")
    assert demo.json()["city"] == "lisbon", "the recorded one"
    secret = {"Authorization": f"Bearer {running_market.secret}"}
    bought = _until(f"http://127.0.0.1:{buyer.console_port}/call/weather/forecast/oslo", secret)
    assert (bought.status_code, bought.json()["city"]) == (200, "oslo"), bought.text
    assert bought.headers["farebox-cost"].split()[0] == "0.002"
    page.goto("/")
    served, revenue = (page.locator(".card", has_text=name) for name in SOLD)
    expect(served.locator(".card__value")).to_have_text("1")
    expect(revenue.locator(".card__value")).to_have_attribute("title", "0.002 USDC")
    page.goto(listing)
    expect(page.locator("#figures")).to_contain_text("0.002")
    page.get_by_role("button", name="Pause").click()
    paused = f"{address}/forecast/oslo"
    _until(paused, {}, status=503)
    assert _until(paused, {"Farebox-Demo": "1"}).json()["city"] == "lisbon"


SOLD = ("Calls Served (24h)", "Revenue (24h)")


def set_up(page: Page, wallet: str) -> None:
    """The wizard of a new node, to the dashboard."""
    page.goto("/")
    page.get_by_label("I have read this and agree.").check()
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Name to sign in with").fill("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()
    page.get_by_label("Email").fill("ada@example.org")
    page.get_by_role("button", name="Go on").click()
    page.get_by_label("Backup password").fill("paper in the drawer 7")
    page.get_by_label("The same again").fill("paper in the drawer 7")
    page.get_by_role("button", name="Write the first backup").click(timeout=90_000)
    expect(page.get_by_text(wallet)).to_be_visible(timeout=90_000)
    page.get_by_role("link", name="To the dashboard").click()


def _know(data_dir: Path, address: str) -> None:
    """The buyer has the listing in its catalog, in production."""
    engine = open_engine(f"sqlite:///{data_dir / 'farebox.db'}")
    with writer(engine).begin() as connection:
        draft = Draft("Weather", "weather", address, ListingOrigin.REMOTE, Usdc(1000))
        add_listing(connection, draft, lambda _: "", 0)
    engine.dispose()


def _until(url: str, headers: dict[str, str], status: int = 200) -> httpx.Response:
    """The node takes changes over within a second or so."""
    deadline = time.monotonic() + 30
    while True:
        answer = httpx.get(url, headers=headers, timeout=30)
        if answer.status_code == status or time.monotonic() > deadline:
            return answer
        time.sleep(0.2)
