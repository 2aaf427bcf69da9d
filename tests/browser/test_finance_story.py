"""An operator's day with money: low balance, pause, deposit, withdrawal; in a real browser,
over real nodes and a real chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright, expect

from finance.wallet.signer import Signer
from tests.chain_fixtures import DevchainProcess
from tests.conftest import CHROMIUM
from tests.console_world import PASSWORD
from tests.recovery.market_world import Errand, Market, open_market, transfer
from tests.recovery.node_home import NodeHome, until
from tests.recovery.seller_world import usdc_of
from tests.treasury.market_console import cookie_of

FRIEND = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
ETHER = 10**18


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=1) as process:
        yield process


@pytest_asyncio.fixture
async def market(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[Market]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: install chromium, or set FAREBOX_CHROMIUM")
    async with open_market(chain, tmp_path) as market:
        yield market


@pytest_asyncio.fixture
async def page(market: Market) -> AsyncIterator[Page]:
    """The seller's console, signed in as an admin; without script."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = await browser.new_context(
            base_url=f"http://127.0.0.1:{market.seller.console_port}", java_script_enabled=False
        )
        await context.add_cookies([cookie_of(market.seller)])  # type: ignore[list-item]
        yield await context.new_page()
        await browser.close()


def set_eth(node: NodeHome, chain: DevchainProcess, wei: int) -> None:
    chain.rpc("anvil_setBalance", node.address, hex(wei))


async def shows(page: Page, path: str, text: str, seconds: float = 20) -> None:
    """The page says so, sooner or later."""

    async def there() -> bool:
        await page.goto(path)
        return text in await page.inner_text("main")

    await until(f"{path} says {text!r}", there, seconds)


@pytest.mark.browser
async def test_low_balance_stops_paid_serving_and_a_deposit_resumes_it(
    market: Market, page: Page, chain: DevchainProcess
) -> None:
    errand = Errand("before")
    await market.buy(errand)
    set_eth(market.seller, chain, 10**13)  # a twentieth of the threshold
    await shows(page, "/", "API SERVING PAUSED — Low balance. Click to manage.")
    await page.get_by_text("API SERVING PAUSED").click()
    await expect(page.locator("main")).to_contain_text("less than 0.0002 ETH for gas")
    late = Errand("while paused")
    assert await market.ask(late) == 503
    assert any("node_paused" in each or "paused" in each for each in late.tries), late
    await shows(page, "/notifications", "Paid serving is paused: the wallet is low on gas")
    set_eth(market.seller, chain, 2 * 10**14 + 1)  # above the threshold, within the margin
    await asyncio.sleep(5)
    assert await market.ask(late) == 503
    set_eth(market.seller, chain, ETHER)
    await shows(page, "/finance", "Paid calls are being served")
    await market.buy(late)
    await shows(page, "/finance/history", "Received")
    await page.goto("/")
    assert "API SERVING PAUSED" not in await page.inner_text("main")


@pytest.mark.browser
async def test_money_is_withdrawn_once_with_the_right_password(
    market: Market, page: Page, chain: DevchainProcess
) -> None:
    transfer(chain, Signer.from_hex(chain.keys[9]), market.seller.address, 3_000_000)
    await shows(page, "/finance/history", "+3")
    await page.goto("/finance/withdraw")
    await page.fill("[name=destination]", FRIEND.replace("aA", "Aa", 1))
    await page.fill("[name=amount]", "1.25")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.locator("#e-destination")).to_contain_text("EIP-55")
    assert await page.input_value("[name=amount]") == "1.25"
    before = usdc_of(chain, FRIEND)
    await page.fill("[name=destination]", FRIEND)
    await page.get_by_role("button", name="Continue").click()
    await expect(page.locator("main")).to_contain_text(FRIEND)
    confirm = page.url
    await page.fill("[name=password]", "wrong")
    await page.get_by_role("button", name="Send 1.25 USDC").click()
    await expect(page.locator("#e-password")).to_contain_text("wrong")
    assert usdc_of(chain, FRIEND) == before
    await page.fill("[name=password]", PASSWORD)
    await page.get_by_role("button", name="Send 1.25 USDC").click()
    await expect(page.locator("h1")).to_contain_text("Withdrawal of 1.25 USDC")
    withdrawal = page.url
    await page.goto(confirm)  # back, and again
    assert page.url == withdrawal

    async def mined() -> bool:
        await page.goto(withdrawal)
        return await page.locator(".stages__done", has_text="Mined").count() == 1

    await until("the withdrawal is mined", mined)
    assert usdc_of(chain, FRIEND) == before + 1_250_000
    assert await market.seller.number("SELECT COUNT(*) FROM withdrawal") == 1
    await shows(page, "/finance/history", "Withdrawal")
    await page.goto("/finance/reconcile")
    await page.get_by_role("button", name="Reconcile now").click()
    await shows(page, "/finance/reconcile", "Equal to the atom")
