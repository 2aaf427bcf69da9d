"""From the bell to where the trouble is, with and without script, on a desk and on a phone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine

from node.accounts.access import Role
from node.alerts.rules import Rule
from tests.browser.test_every_page import faults_of
from tests.console_world import PASSWORD, Console, serve_console

pytestmark = pytest.mark.browser

LONG = "Averyverylongnamewithoutanyspaces" * 8


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    with serve_console(migrated_engine, tmp_path, allowed_hosts=["127.0.0.1"]) as console:
        yield console


def make_trouble(console: Console) -> None:
    """In a thread: Playwright's own event loop runs in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(_trouble(console))).result()


async def _trouble(console: Console) -> None:
    alerts, courier = console.parts.controls.alerts, console.parts.controls.courier
    await alerts.raise_(Rule.JOB_FAILING, "claim", f"Job {LONG} failed.", "/")
    await alerts.raise_(Rule.PEER_UNREACHABLE, "x", "<b>Peer</b> does not answer.", "/")
    await alerts.resolve(Rule.PEER_UNREACHABLE, "x")
    await alerts.raise_(Rule.ERROR_SPIKE, "served", "7 calls failed within 5 minutes.", "/")
    while await courier.deliver_due():
        pass


@pytest.mark.parametrize(("width", "script"), [(1440, True), (375, False)])
def test_from_the_bell_to_where_it_is_dealt_with(
    browser: Browser, console: Console, width: int, script: bool
) -> None:
    make_trouble(console)
    page = console.sign_in(
        browser, viewport={"width": width, "height": 800}, java_script_enabled=script
    )
    page.goto("/settings/appearance")
    expect(page.locator("#bell")).to_contain_text("2")
    page.locator("#bell").click()
    page.get_by_role("link", name="7 calls failed within 5 minutes.").click()
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".note")).to_have_text("1 notification acknowledged.")
    expect(page.locator("#bell")).to_contain_text("1")
    page.get_by_role("link", name="Go to where it is dealt with").click()
    expect(page).to_have_url(f"{console.url}/")
    page.goto("/notifications")
    page.get_by_label(f"Select: Job {LONG} failed.").check()
    page.get_by_role("button", name="Resolve selected").click()
    expect(page.locator(".note")).to_have_text("1 notification marked as resolved.")
    expect(page.locator("#bell")).not_to_contain_text("1")


def test_rules_are_chosen_and_a_test_mail_is_found_in_the_mailbox(
    browser: Browser, console: Console
) -> None:
    page = console.sign_in(browser, java_script_enabled=False)
    page.goto("/notifications/rules")
    page.get_by_role("group", name="Low gas").get_by_label("Tell by").select_option("off")
    page.get_by_role("button", name="Save rules").click()
    expect(page.locator(".note")).to_have_text("Rules saved.")
    expect(page.get_by_role("group", name="Low gas").get_by_label("Tell by")).to_have_value("off")
    page.goto("/settings/email")
    page.get_by_role("button", name="Send a test mail").click()
    page.get_by_role("link", name="[Farebox] Test mail").click()
    expect(page.locator(".letter")).to_contain_text("This is the test mail you asked for.")
    page.get_by_text("Source of the HTML part").click()
    expect(page.locator("pre.code")).to_contain_text("<!doctype html>")


def test_webhook_secret_is_shown_once(browser: Browser, console: Console) -> None:
    page = console.sign_in(browser)
    page.goto("/settings/webhook")
    page.get_by_label("URL").fill("http://127.0.0.1:9/hook")
    page.get_by_role("button", name="Save").click()
    first = page.locator("#webhook-secret").inner_text()
    page.goto("/settings/webhook")
    expect(page.locator("#webhook-secret")).to_have_count(0)
    page.get_by_text("Make a new secret").first.click()
    page.get_by_label("Your password").fill(PASSWORD)
    page.get_by_role("button", name="Make a new secret").click()
    assert page.locator("#webhook-secret").inner_text() != first
    page.get_by_role("button", name="Post a test").click()
    expect(page.locator(".note--bad")).to_contain_text("Nothing can be reached at 127.0.0.1:9.")


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (375, "light")])
def test_full_pages_are_readable(
    browser: Browser, console: Console, width: int, scheme: str
) -> None:
    make_trouble(console)
    page = console.sign_in(
        browser, Role.ADMIN, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    page.goto("/settings/webhook")
    page.get_by_label("URL").fill("http://127.0.0.1:9/hook")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#webhook-secret")).to_be_visible()
    found = [f"secret: {fault}" for fault in faults_of(page, width)]
    for path in (
        "/notifications",
        "/notifications/1",
        "/notifications/2",
        "/notifications/rules",
        "/settings/email",
        "/settings/email/mails/1",
    ):
        found += _faults(page, path, width)
    assert found == []


def _faults(page: Page, path: str, width: int) -> list[str]:
    answer = page.goto(path)
    assert answer is not None and answer.status == 200, path
    return [f"{path}: {fault}" for fault in faults_of(page, width)]
