"""Pages about money become fresh by themselves, and leave the reader where they were."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import insert, update
from sqlmodel import SQLModel

from finance.models import BuyerChannel, ChainTx, SellerChannel, TxState
from finance.money import Usdc, Wei
from finance.networks import NETWORKS
from finance.operations import Token, Withdrawal
from node.db.engine import writer
from node.plans.buying.models import BoughtOrder, BoughtState, BoughtSubscription
from node.usage.kpis import Balances
from node.usage.metering import QuotaUsage
from node.usage.models import ConsumerKey
from node.usage.windows import window_of
from tests.browser.filled_plans import fill_plans
from tests.console_world import PASSWORD, Console

pytestmark = pytest.mark.browser

CHAIN_ID, USDC = NETWORKS["devnet"].chain_id, NETWORKS["devnet"].usdc
FRIEND = "0x" + "ab" * 20
WISH = "a" * 32


@pytest.fixture
def page(browser: Browser, console: Console) -> Iterator[Page]:
    page = console.sign_in(browser, viewport={"width": 900, "height": 700})
    page.clock.install()
    yield page
    page.context.close()


def store(console: Console, row: SQLModel) -> None:
    skipped = {"id"} if row.model_dump().get("id", 0) is None else set()
    with writer(console.engine).begin() as connection:
        connection.execute(insert(type(row)).values(row.model_dump(exclude=skipped)))


def withdraw(console: Console) -> None:
    """1.5 USDC, sent and not mined."""
    now = int(time.time())
    wish = {"token": Token.USDC, "destination": FRIEND, "amount": "1500000"}
    by = {"actor_id": "u", "actor_name": "admin", "created_at": now}
    store(console, Withdrawal(id=WISH, chain_id=CHAIN_ID, **wish, **by))
    kept = {"purpose": "withdraw_usdc", "ref": WISH, "to": USDC, "data": "0x", "created_at": now}
    store(console, ChainTx(chain_id=CHAIN_ID, sender="0x1", state=TxState.BROADCAST, **kept))


def reach(console: Console, state: TxState) -> None:
    with writer(console.engine).begin() as connection:
        mined = {"state": state, "tx_hash": "0x" + "cd" * 32, "block_number": 7}
        connection.execute(update(ChainTx).values(mined))


def channel(number: int) -> dict[str, object]:
    parties = {"payer": FRIEND, "payer_authorizer": FRIEND, "receiver": FRIEND}
    return {
        "channel_id": "0x" + f"{number:064x}",
        "chain_id": CHAIN_ID,
        **parties,
        "receiver_authorizer": FRIEND,
        "token": USDC,
        "withdraw_delay": 3_600,
        "salt": "0x0",
        "state": "open",
        "balance_atoms": 5_000_000,
        "charged_atoms": 1_000,
        "signed_atoms": 1_000,
    }


def test_balances_and_what_begins_to_move_show_by_themselves(page: Page, console: Console) -> None:
    purse = console.parts.controls.treasury.purse
    purse.balances = Balances(Usdc(1_000_000), Wei(10**18))
    page.goto("/finance")
    expect(page.locator("#balances")).to_contain_text("1.00")
    purse.balances = Balances(Usdc(7_000_000), Wei(10**18))
    withdraw(console)
    page.clock.run_for(31_000)
    expect(page.locator("#balances")).to_contain_text("7.00")
    expect(page.locator("#under-way")).to_contain_text("1.5")
    reach(console, TxState.FINAL)
    page.clock.run_for(3_000)  # sooner, while something is on its way
    expect(page.locator("#under-way")).to_be_hidden()


def test_a_withdrawal_shows_its_stages_as_they_come(page: Page, console: Console) -> None:
    withdraw(console)
    page.goto(f"/finance/withdrawals/{WISH}")
    expect(page.locator(".stages__done")).to_have_count(2)
    reach(console, TxState.MINED)
    page.clock.run_for(3_000)
    expect(page.locator(".stages__done")).to_have_count(3)
    reach(console, TxState.FINAL)
    page.clock.run_for(3_000)
    expect(page.locator(".stages__done")).to_have_count(4)


@pytest.mark.parametrize("path", ["/finance/channels", "/finance/channels/buying"])
def test_the_first_channel_appears_by_itself(page: Page, console: Console, path: str) -> None:
    page.goto(path)
    expect(page.locator("main .empty")).to_be_visible()
    store(console, SellerChannel(**channel(1), synced_at=1, last_request_at=1))
    store(console, BuyerChannel(**channel(1), origin="https://seller.example", updated_at=1))
    page.clock.run_for(31_000)
    expect(page.locator("main tbody tr")).to_have_count(1)


def test_what_integrators_use_appears_by_itself_and_goes_with_its_month(
    page: Page, console: Console
) -> None:
    page.goto("/developers")
    expect(page.locator("#integrators .empty")).to_be_visible()
    now = int(time.time())
    store(console, ConsumerKey(id="k1", name="Kim", secret_hash="x", integrator=True))
    month = window_of(now).start
    store(console, QuotaUsage(subject="key:k1", meter="calls", window_start=month, used=7))
    page.clock.run_for(11_000)
    expect(page.locator("#shares")).to_contain_text("Kim")
    expect(page.locator("#calls-per-hour")).to_be_visible()
    with writer(console.engine).begin() as connection:
        connection.execute(update(QuotaUsage).values(window_start=0))
    page.clock.run_for(11_000)
    expect(page.locator("#integrators")).to_contain_text("Kim")
    expect(page.locator("#shares")).to_be_hidden()


def test_a_subscription_that_is_paid_at_last_says_so_by_itself(
    page: Page, console: Console
) -> None:
    """And offers no more to give up what was bought."""
    fill_plans(console, "http://127.0.0.1:9", ("Pro", "Pro", "Pro", "Pro"))
    page.goto("/developers/subscriptions/sub-0")
    expect(page.locator("#state")).to_contain_text(BoughtState.ORDERED)
    expect(page.get_by_text("Give it up")).to_be_visible()
    month = window_of(int(time.time()))
    with writer(console.engine).begin() as connection:
        connection.execute(update(BoughtOrder).values(state="done"))
        paid = {"state": "active", "paid_until": month.end, "renews": True}
        connection.execute(update(BoughtSubscription).values(paid))
    page.clock.run_for(31_000)
    expect(page.locator("#state")).to_contain_text("active")
    expect(page.get_by_text("Give it up")).to_be_hidden()
    expect(page.get_by_text("the plan begins when")).to_be_hidden()
    expect(page.get_by_role("link", name="Renew now")).to_be_visible()
    expect(page.locator("#billing")).to_contain_text("9.999999 USDC")


def test_money_that_cannot_be_read_anew_says_how_old_it_is(page: Page) -> None:
    page.goto("/finance")
    page.route("**/*", lambda route: route.abort())
    page.clock.run_for(31_000)
    expect(page.locator("#stale")).to_contain_text("these figures are 3")


def test_the_same_button_of_many_keeps_the_focus_and_a_table_its_place(
    page: Page, console: Console
) -> None:
    for number in range(3):
        store(console, SellerChannel(**channel(number), synced_at=1, last_request_at=1))
    page.goto("/finance/channels")
    table = page.locator("#sold .scroll")
    table.evaluate("box => box.scrollLeft = 60")
    place = table.evaluate("box => box.scrollLeft")
    assert place > 0
    buttons = page.locator("#sold tbody tr:nth-child(2) button.copy")
    buttons.last.evaluate("button => button.focus({preventScroll: true})")
    store(console, SellerChannel(**channel(9), synced_at=1, last_request_at=0))
    page.clock.run_for(31_000)
    expect(page.locator("#sold tbody tr")).to_have_count(4)
    expect(page.locator("#sold tbody tr:nth-child(2) button.copy").last).to_be_focused()
    assert table.evaluate("box => box.scrollLeft") == place


def test_another_backup_can_be_made_when_one_is_done(page: Page, console: Console) -> None:
    page.clock.resume()
    page.goto("/settings/backup")
    for field in ("backup_password", "again"):
        page.fill(f"[name={field}]", "a password for backups only")
    page.fill("[name=own_password]", PASSWORD)
    page.get_by_role("button", name="Set", exact=True).click()
    page.get_by_role("button", name="Back up now").click()
    expect(page.locator("#state progress")).to_have_count(0, timeout=180_000)
    expect(page.get_by_role("button", name="Back up now")).to_be_enabled()
