"""Find, try in demo, switch to production, buy: with a browser, on two running nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Page, async_playwright
from sqlalchemy import insert, text, update
from sqlmodel import col

from catalog.models import Listing, Sample
from finance.buying.models import SpendLimit
from node.accounts.access import Role
from node.accounts.sessions import Client, begin_session, cookie_name
from node.db.engine import open_engine, writer
from tests.chain_fixtures import DevchainProcess
from tests.conftest import CHROMIUM
from tests.console_world import make_users
from tests.recovery.market_world import Market, open_market, right_answer
from tests.recovery.node_home import NodeHome

SPEC = json.dumps(
    {
        "openapi": "3.1.0",
        "info": {"title": "Errands", "version": "1"},
        "paths": {
            "/answer/{name}": {
                "get": {
                    "summary": "Does an errand",
                    "parameters": [
                        {"name": "name", "in": "path", "required": True, "example": "bread"}
                    ],
                    "responses": {"200": {"description": "done"}},
                }
            }
        },
    }
)


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: install chromium, or say where with FAREBOX_CHROMIUM")
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


def describe(seller: NodeHome) -> None:
    """The seller gives its API a specification and a sample."""
    engine = open_engine(f"sqlite:///{seller.data_dir / 'farebox.db'}")
    sample = Sample(
        id="smp_story",
        listing_id="",
        method="GET",
        template="/answer/{name}",
        target="/answer/bread",
        request_headers="[]",
        status=200,
        headers='[["content-type", "application/json"]]',
        body=b'{"errand": "recorded once"}',
        latency_us=1,
        recorded_at=1_700_000_000,
    )
    with writer(engine).begin() as connection:
        listing_id = connection.execute(text("SELECT id FROM listing")).scalar_one()
        connection.execute(insert(Sample), {**sample.model_dump(), "listing_id": listing_id})
        known = col(Listing.updated_at)
        connection.execute(update(Listing).values(spec=SPEC, updated_at=known + 1))
    engine.dispose()


def session_of(buyer: NodeHome) -> str:
    """An admin who has signed in to the buyer's console."""
    engine = open_engine(f"sqlite:///{buyer.data_dir / 'farebox.db'}")
    admin = make_users(engine)[Role.ADMIN]
    with writer(engine).begin() as connection:
        client = Client("127.0.0.1", "test")
        token = begin_session(connection, admin, client, int(time.time())).token
    engine.dispose()
    return token


def limit_calls(buyer: NodeHome, atoms: int) -> None:
    engine = open_engine(f"sqlite:///{buyer.data_dir / 'farebox.db'}")
    row = {"scope": "call", "subject": "*", "limit_atoms": atoms}
    with writer(engine).begin() as connection:
        connection.execute(insert(SpendLimit), row)
    engine.dispose()


@asynccontextmanager
async def browsing(buyer: NodeHome, script: bool) -> AsyncIterator[Page]:
    token = await asyncio.to_thread(session_of, buyer)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(
            base_url=f"http://127.0.0.1:{buyer.console_port}",
            java_script_enabled=script,
            viewport={"width": 375, "height": 900},
        )
        name = cookie_name(buyer.console_port)
        await context.add_cookies(
            [{"name": name, "value": token, "domain": "127.0.0.1", "path": "/"}]
        )
        yield await context.new_page()
        await browser.close()


async def assert_readable(page: Page) -> None:
    await page.wait_for_load_state()  # a click ends at the document, before its stylesheet
    assert await page.evaluate("document.documentElement.scrollWidth") <= 375, page.url
    assert (await Axe().run(page)).response["violations"] == [], page.url


@pytest.mark.browser
async def test_found_tried_in_demo_switched_to_production_and_bought(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        await asyncio.to_thread(describe, market.seller)
        async with browsing(market.buyer, script=True) as page:
            await _sync_afresh(page, market)
            await _try_in_demo(page, market)
            await _switch_and_buy(page, market)
        async with browsing(market.buyer, script=False) as page:
            await _refused_above_the_limit(page, market)


async def _sync_afresh(page: Page, market: Market) -> None:
    """What was added by command is taken out, and found again through the peer."""
    await page.goto("/catalog")
    await page.click(".offer h2 a")
    await page.click("text=Take out")
    await page.click("text=Take it out")
    await page.goto("/settings/network")
    await page.fill("input[name=url]", market.seller.gateway_url)
    await page.click("text=Add and sync")
    assert "1 new" in await page.inner_text(".note")
    await assert_readable(page)
    await page.goto("/catalog?q=erra")
    assert "Demo" in await page.inner_text(".offer")
    await assert_readable(page)
    await page.click(".offer h2 a")
    await assert_readable(page)


async def _try_in_demo(page: Page, market: Market) -> None:
    assert await page.locator("text=Buy this call").count() == 0
    assert await page.input_value("input[name='path.name']") == "bread"
    await page.click("text=Try a sample, free")
    assert "recorded once" in await page.inner_text("#result")
    assert "0 USDC" in await page.inner_text("#result")
    await page.reload()
    assert "recorded once" in await page.inner_text("#result")
    assert market.api.served.total() == 0
    assert await market.buyer.number("SELECT count(*) FROM purchase") == 0


async def _switch_and_buy(page: Page, market: Market) -> None:
    await page.click(".switch >> text=Production")
    assert "calls are bought" in (await page.inner_text(".note")).lower()
    assert "0.001 USDC" in await page.inner_text("#try")
    await page.fill("input[name='path.name']", "bread")
    await page.click("text=Buy this call for 0.001 USDC")
    result = await page.inner_text("#result")
    assert right_answer("bread")["proof"] in result and "0.001 USDC" in result
    await assert_readable(page)
    await page.reload()
    assert market.api.served == {"bread": 1}
    charged = "SELECT sum(amount_atoms) FROM call WHERE key_id = 'console'"
    assert await market.buyer.number(charged) == 1_000
    # The bought answer is a sample now, and the day's limit has less left.
    assert "9.999 of 10" in await page.inner_text("#try")
    assert "recorded here" in await page.inner_text("table:has-text('Whose')")


async def _refused_above_the_limit(page: Page, market: Market) -> None:
    """The same without script: nothing is signed above a limit, and it is said why."""
    await asyncio.to_thread(limit_calls, market.buyer, 500)
    await asyncio.sleep(4)  # the proxy looks for limits every second
    await page.goto("/catalog")
    await page.click(".offer h2 a")
    assert "too little" in (await page.inner_text("#try")).lower()
    await page.fill("input[name='path.name']", "milk")
    await page.click("text=Buy this call for 0.001 USDC")
    result = await page.inner_text("#result")
    assert "402" in result and "call limit is 0.0005 USDC" in result
    assert market.api.served == {"bread": 1}
