"""A token is regenerated: the app is cut off at the moment the page said, and goes on with the
new one, as the key's owner sees it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Engine

from node.accounts.access import Role
from node.accounts.audit import COMMAND
from node.accounts.users import change_email
from node.usage.calls import CallRecord
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.models import Side
from tests.browser.test_every_page import faults_of
from tests.conftest import book_calls
from tests.console_world import Console, serve_console

pytestmark = pytest.mark.browser

OWNER = "robot-owner@example.org"


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    with serve_console(migrated_engine, tmp_path) as console:
        change_email(migrated_engine, console.users[Role.CONSUMER], OWNER, COMMAND, 1)
        yield console


def opens(console: Console, secret: str) -> bool:
    """Whether an app that sends this token gets past the door of the proxy."""
    console.parts.proxy._keys = type(console.parts.proxy._keys).load(console.engine)
    headers = {"authorization": f"Bearer {secret}"}
    answer = httpx.get(f"{console.url}/call/nothing", headers=headers, trust_env=False)
    return bool(answer.json()["code"] == "no_such_listing")


@pytest.mark.parametrize(("width", "script"), [(1440, True), (375, False)])
def test_a_token_is_regenerated_and_the_old_one_ends_when_the_page_says(
    browser: Browser, console: Console, width: int, script: bool
) -> None:
    now = int(time.time())
    made = create_key(console.engine, KeyChoices("Robot", OWNER, True), now - 3_600)
    call = CallRecord(
        "c1", Side.BOUGHT, now * 1000, "l1", "GET", "/forecast/lisbon", 200, 2_000, made.id,
        scheme="exact", amount_atoms=1_000, route="GET /forecast/{city}",
    )  # fmt: skip
    book_calls(console.engine, call)
    page = console.sign_in(
        browser,
        Role.CONSUMER,
        viewport={"width": width, "height": 800},
        java_script_enabled=script,
    )
    page.goto("/")
    page.get_by_role("link", name="Developers", exact=True).click()
    expect(page.locator("h1")).to_have_text("My usage")
    expect(page.locator("#usage")).to_contain_text("GET /forecast/{city}")
    assert opens(console, made.secret)

    secret = made.secret
    for grace, goes_on in (("86400", True), ("0", False)):
        page.goto("/developers/my-usage")
        page.get_by_text("Regenerate the token").click()
        page.get_by_label("The old token").select_option(grace)
        page.get_by_role("button", name="Regenerate").click()
        shown = page.locator("#new-token").inner_text()
        assert re.fullmatch(r"fbx_[\w-]{43}", shown) and shown != secret
        expect(page.locator("main")).to_contain_text("shown only now")
        if script:
            assert faults_of(page, width) == []
        assert opens(console, shown) and opens(console, secret) is goes_on
        said = page.get_by_text("The old token still works until")
        expect(said).to_have_count(1 if goes_on else 0)
        secret = shown

    page.goto("/developers/my-usage")
    expect(page.locator("main")).not_to_contain_text(secret)
    page.get_by_role("link", name="All of it").click()
    expect(page.locator("main")).to_contain_text("A new token was made.")
    if script:
        for path in ("/developers/my-usage", f"/developers/my-usage/{made.id}/record"):
            page.goto(path)
            assert faults_of(page, width) == []
