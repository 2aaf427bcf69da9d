"""Subscribe, use, renew, cancel: two nodes, a real chain, and somebody at the buyer's console."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import text

from catalog.models import Listing, ListingOrigin
from finance.buying.limits import DEFAULT_LIMITS
from finance.buying.models import SpendLimit
from node.accounts.access import Role
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.usage.keys import create_key
from node.usage.windows import window_of
from tests.chain_fixtures import DevchainProcess
from tests.console_world import PASSWORD, Console, serve_console
from tests.http.plans_world import Seller, open_seller
from tests.recovery.seller_world import World, give_usdc, usdc_of

pytestmark = pytest.mark.browser

LISTING = "lst_weather"
ATOMS = 500_000_000


class SellerThread:
    """The seller's node in a loop of its own."""

    def __init__(self, chain: DevchainProcess, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.seller: Seller
        self._ready, self._done = threading.Event(), asyncio.Event()
        work = self._run(chain, folder)
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(work,))
        self._thread.start()
        assert self._ready.wait(60)

    async def _run(self, chain: DevchainProcess, folder: Path) -> None:
        async with World(chain, folder) as world, open_seller(world) as self.seller:
            self._ready.set()
            await self._done.wait()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._done.set)
        self._thread.join()


@contextmanager
def market(folder: Path) -> Iterator[tuple[Console, SellerThread, DevchainProcess]]:
    """A console whose node buys from a seller with plans."""
    for name in ("seller", "buyer"):
        (folder / name).mkdir()
    with DevchainProcess() as chain:
        seller = SellerThread(chain, folder / "seller")
        engine = open_engine(f"sqlite:///{folder / 'buyer' / 'farebox.db'}")
        upgrade(engine)
        with writer(engine).begin() as connection:
            listing = Listing(id=LISTING, slug="weather", name="Weather", base_url="")
            row = {name: getattr(listing, name) for name in Listing.model_fields}
            row |= {"origin": ListingOrigin.REMOTE, "base_url": f"{seller.seller.url}/v1/api"}
            connection.execute(Listing.__table__.insert(), row)  # type: ignore[attr-defined]
            limits = [
                {"scope": scope, "subject": "*", "limit_atoms": ATOMS} for scope in DEFAULT_LIMITS
            ]
            connection.execute(SpendLimit.__table__.insert(), limits)  # type: ignore[attr-defined]
        settings = {"rpc_urls": [chain.rpc_url], "allowed_hosts": ["127.0.0.1"]}
        try:
            with serve_console(engine, folder / "buyer", **settings) as console:
                give_usdc(chain, console.parts.controls.facts.address, ATOMS)
                yield console, seller, chain
        finally:
            seller.stop()
            engine.dispose()


def pay(page: Page, button: str) -> None:
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name=button).click()


def test_somebody_subscribes_uses_renews_and_cancels(browser: Browser, tmp_path: Path) -> None:
    with market(tmp_path) as (console, seller, chain):
        plan = seller.seller.plan("Pro", 3_000_000, calls=3_000)
        wallet = console.parts.controls.facts.address
        page = console.sign_in(browser, Role.CONSUMER)
        page.goto(f"/catalog/{LISTING}")
        page.get_by_role("link", name="Subscribe to Pro").click()
        _limit_stands_in_the_way(console, page)
        page.get_by_label("Most that a renewal may cost").fill("4")
        page.get_by_role("button", name="Go on").click()
        assert usdc_of(chain, wallet) == ATOMS
        pay(page, "Pay")
        expect(page.get_by_role("status").filter(has_text="Subscribed for")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_contain_text("active")
        first = ATOMS - usdc_of(chain, wallet)
        assert 0 < first <= plan.deal.price_atoms

        _use(console)
        page.get_by_role("button", name="Ask the seller now").click()
        expect(page.locator("#use")).to_contain_text("1 of")
        assert usdc_of(chain, wallet) == ATOMS - first

        _month_passes(console, seller)
        page.reload()
        expect(page.get_by_role("heading", level=1)).not_to_contain_text("active")
        _pay_past_a_limit(console, page, "Renew now", "Pay 3 USDC")
        expect(page.get_by_role("heading", level=1)).to_contain_text("active")
        assert usdc_of(chain, wallet) == ATOMS - first - 3_000_000
        _upgrade(console, seller, page)
        upgraded = usdc_of(chain, wallet)
        assert ATOMS - first - 3_000_000 - 3_000_000 <= upgraded < ATOMS - first - 3_000_000

        page.get_by_role("link", name="Cancel").click()
        pay(page, "Cancel it")
        expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
        expect(page.locator("#record")).to_contain_text("Cancelled")
        page.get_by_role("link", name="Subscriptions", exact=True).first.click()
        expect(page.get_by_role("row", name="Weather")).to_contain_text("cancelled")
        assert usdc_of(chain, wallet) == upgraded


def _upgrade(console: Console, seller: SellerThread, page: Page) -> None:
    """To a larger plan, at once."""
    seller.seller.plan("Max", 6_000_000, calls=9_000)
    page.get_by_role("link", name="Change the plan").click()
    _pay_past_a_limit(console, page, "Upgrade now", "Pay")
    expect(page.get_by_role("status").filter(has_text="Upgraded")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_contain_text("active")


def _pay_past_a_limit(console: Console, page: Page, link: str, button: str) -> None:
    """The limit in the way is named before anything is agreed to, and again; then it is raised."""
    _set_limit(console, "0.000001")
    page.get_by_role("link", name=link).click()
    in_the_way = re.compile(
        r"It costs [0-9.]+ USDC, and the spending limit “One call” forbids that\."
    )
    expect(page.get_by_role("alert")).to_contain_text(in_the_way)
    pay(page, button)
    expect(page.get_by_role("alert")).to_contain_text(in_the_way)
    _set_limit(console, "500")
    pay(page, button)


def _limit_stands_in_the_way(console: Console, page: Page) -> None:
    """It is named before anything is confirmed; raised where the page says, it is gone."""
    limits = page.locator("section", has=page.get_by_role("heading", name="What the limits leave"))
    expect(limits.get_by_text("forbids this price")).to_have_count(0)
    _set_limit(console, "0.01")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("alert")).to_contain_text("the spending limit “One call” forbids that")
    expect(limits).to_contain_text("The spending limit “One call” forbids this price.")
    with console.client(Role.ADMIN) as admin:
        assert '<a href="/settings/limits">' in admin.get(page.url).text
    _set_limit(console, "500")
    page.goto(page.url)
    expect(limits).not_to_contain_text("forbids")


def _set_limit(console: Console, usdc: str) -> None:
    """As an admin does there."""
    with console.client(Role.ADMIN) as admin:
        wanted = dict.fromkeys(DEFAULT_LIMITS, "500") | {"call": usdc}
        saved = console.send(admin, "/settings/limits", **wanted)
        assert saved.status_code == 303, saved.text


def _use(console: Console) -> None:
    """A call as an app makes it."""
    key = create_key(console.engine, "app", int(time.time()))
    headers = {"authorization": f"Bearer {key.secret}"}
    with console.client(Role.ADMIN) as admin:
        console.send(admin, f"/catalog/{LISTING}/mode", mode="production")  # the proxy reloads
    answer = httpx.get(f"{console.url}/call/weather/echo", headers=headers, timeout=30)
    assert (answer.status_code, answer.headers["farebox-scheme"]) == (200, "plan"), answer.text


def _month_passes(console: Console, seller: SellerThread) -> None:
    """What is paid ended when the present month began, on both sides."""
    begun, back = window_of(int(time.time())).start, 31 * 86_400
    with seller.seller.world.engine.begin() as connection:
        moved = "UPDATE subscription_period SET starts_at = starts_at - :back, ends_at = :begun"
        connection.execute(text(moved), {"back": back, "begun": begun})
    ids = [row[0] for row in seller.seller.rows("SELECT id FROM subscription")]
    seller.do(seller.seller.gate.refresh(ids))
    with writer(console.engine).begin() as connection:
        moved = "UPDATE bought_subscription SET paid_until = :begun, period_end = :begun,"
        moved += " period_start = period_start - :back"
        connection.execute(text(moved), {"back": back, "begun": begun})
        ordered = "UPDATE bought_order SET created_at = created_at - :back"
        connection.execute(text(ordered), {"back": back})
