"""First start and signing in, as people do it in a browser."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pyotp
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import Engine, update
from sqlmodel import col

from finance.wallet.keystore import Keystore
from node.accounts.access import Role
from node.accounts.models import UserSession
from node.accounts.setup import issue_code
from node.db.engine import writer
from tests.browser.accessibility import violations
from tests.console_world import PASSWORD, Console, serve_console

pytestmark = pytest.mark.browser
OWN = ["/account", "/account/password", "/account/tokens", "/account/second-factor"]
ADMIN = ["/settings/users", "/settings/security", "/settings/security/tokens",
         "/settings/security/sessions", "/settings/audit"]  # fmt: skip


def fill_sign_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def require_accessible(page: Page) -> None:
    assert violations(page) == [], page.url


def test_from_first_start_to_the_dashboard_without_script(
    browser: Browser, migrated_engine: Engine, tmp_path: Path
) -> None:
    with serve_console(migrated_engine, tmp_path, users=False) as console:
        Keystore(console.parts.settings.keystore_dir).create("the wallet's passphrase")
        context = browser.new_context(base_url=console.url, java_script_enabled=False)
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_role("heading", name="Welcome to Farebox")).to_be_visible()
        page.get_by_label("I have read this and agree.").check()
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_label("Name to sign in with")).to_be_visible()
        page.reload()
        page.get_by_label("Name to sign in with").fill("ada")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("The same again").fill("something else")
        page.get_by_role("button", name="Make the account").click()
        expect(page.get_by_text("The two differ.")).to_be_visible()
        expect(page.get_by_label("Name to sign in with")).to_have_value("ada")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("The same again").fill(PASSWORD)
        page.get_by_role("button", name="Make the account").click()
        expect(page.get_by_label("Email")).to_be_visible()
        page.reload()
        page.get_by_label("Email").fill("ada@example.org")
        page.get_by_role("button", name="Go on").click()
        page.get_by_label("Backup password").fill("paper in the drawer 7")
        page.get_by_label("The same again").fill("paper in the drawer 7")
        page.get_by_role("button", name="Write the first backup").click(timeout=90_000)
        address = console.parts.controls.facts.address
        expect(page.get_by_text(address)).to_be_visible(timeout=90_000)
        expect(page.get_by_role("img", name="QR code to send USDC")).to_be_visible()
        page.get_by_role("link", name="To the dashboard").click()
        expect(page.get_by_text("USDC Balance")).to_be_visible()
        context.close()


def test_the_wizards_pages_are_accessible_in_light_and_dark(
    browser: Browser, migrated_engine: Engine, tmp_path: Path
) -> None:
    with serve_console(migrated_engine, tmp_path, users=False) as console:
        code = issue_code(migrated_engine, int(time.time()))
        page = browser.new_page(base_url=console.url)
        page.goto(f"/setup?code={code}")
        assert page.url == f"{console.url}/setup"
        for heading in ("Welcome to Farebox", "The admin's account"):
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.reload()
                expect(page.get_by_role("heading", name=heading)).to_be_visible()
                require_accessible(page)
            if heading == "Welcome to Farebox":
                page.get_by_label("I have read this and agree.").check()
                page.get_by_role("button", name="Go on").click()
        page.close()


def test_wrong_password_second_factor_and_expired_session(
    browser: Browser, console: Console
) -> None:
    page = browser.new_page(base_url=console.url)
    page.goto("/account/second-factor")
    fill_sign_in(page, "viewer", "not the password")
    expect(page.get_by_role("alert")).to_contain_text("Name or password is wrong.")
    expect(page.get_by_label("Name")).to_have_value("viewer")
    require_accessible(page)
    fill_sign_in(page, "viewer", PASSWORD)
    expect(page.get_by_role("heading", name="Second factor")).to_be_visible()
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("Show the key").click()
    secret = page.locator("details.secret code").inner_text().replace(" ", "")
    page.get_by_label("Six digits").fill(pyotp.TOTP(secret).now())
    page.get_by_role("button", name="Turn on").click()
    codes = re.findall(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}", page.locator("pre").inner_text())
    require_accessible(page)
    page.locator("summary", has_text="viewer").click()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/account")
    fill_sign_in(page, "viewer", PASSWORD)
    require_accessible(page)
    page.get_by_label("Code").fill("000000")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("This code is wrong")).to_be_visible()
    page.get_by_label("Code").fill(codes[0])
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name="Your account")).to_be_visible()
    with writer(console.engine).begin() as connection:
        connection.execute(update(UserSession).values({col(UserSession.expires_at): 1}))
    console.parts.controls.accounts.forget()
    page.goto("/account/tokens")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.close()


def test_a_forbidden_role_sees_neither_tab_nor_page(browser: Browser, console: Console) -> None:
    page = console.sign_in(browser, Role.VIEWER)
    page.goto("/account")
    expect(page.get_by_role("link", name="Dashboard")).to_be_visible()
    for path in ADMIN:
        answer = page.goto(path)
        assert answer is not None and answer.status == 403
        expect(page.get_by_text("The role Viewer may not do this.")).to_be_visible()
    page.goto("/settings/appearance")
    assert page.get_by_role("link", name="Users").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_account_pages_fit_and_are_accessible(
    browser: Browser, console: Console, scheme: str, width: int
) -> None:
    admin = console.client(Role.ADMIN)
    long = "a" * 60
    console.send(admin, "/settings/security/keys", name=long)
    console.send(admin, "/account/tokens", name=long, role="viewer")
    console.send(
        admin, "/settings/users", name="b" * 40, email=f"{'c' * 60}@example.org", role="viewer"
    )
    page = console.sign_in(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for path in (*OWN, *ADMIN, f"/settings/users/{console.users[Role.VIEWER]}"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        require_accessible(page)
