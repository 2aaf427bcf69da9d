"""A key crosses 80 %, then 100 %; an override lifts the cap; it ends: as an admin sees it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Browser, Page, expect

from finance.store import Batch
from node.accounts.audit import COMMAND
from node.db.journal import Journal
from node.jobs.quotas import quota_job
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.overrides import list_overrides
from node.usage.quotas import Meter, Quotas, key_subject
from node.usage.tiers import UsageTiers, change_tiers
from tests.browser.test_every_page import faults_of
from tests.console_world import Console

pytestmark = pytest.mark.browser


def use(console: Console, key_id: str, calls: int) -> None:
    """So many calls more, and then the look at the quotas; in a thread, as Playwright's own
    event loop runs in this one."""

    async def run() -> None:
        now, journal, quotas = int(time.time()), Journal(console.engine), Quotas(console.engine)
        await quotas.load(now)
        held = quotas.reserve(key_subject(key_id), Meter.CALLS, calls, None, now)
        await journal.commit(Batch([], [held.commit()]))
        journal.close()
        await quota_job(console.parts.controls.alerts)()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(run())).result()


def bar(page: Page, tone: str) -> None:
    expect(page.locator("#summary .quota__bar").first).to_have_class(
        f"quota__bar quota__bar--{tone}"
    )


@pytest.mark.parametrize(("width", "script"), [(1440, True), (375, False)])
def test_a_key_crosses_80_then_100_percent_an_override_lifts_it_and_ends(
    browser: Browser, console: Console, width: int, script: bool
) -> None:
    change_tiers(console.engine, UsageTiers(free_calls=100), COMMAND, int(time.time()))
    key = create_key(console.engine, KeyChoices("Partner", integrator=True), int(time.time()))
    page = console.sign_in(
        browser, viewport={"width": width, "height": 800}, java_script_enabled=script
    )
    use(console, key.id, 79)
    page.goto("/developers")
    bar(page, "good")
    use(console, key.id, 1)
    page.goto("/developers")
    bar(page, "warn")
    expect(page.locator("#summary")).to_contain_text("80 %")
    use(console, key.id, 20)
    page.goto("/notifications")
    page.get_by_role("link", name="The quota is used up").click()
    page.locator("main a[href='/developers']").first.click()
    bar(page, "bad")
    expect(page.locator("#summary")).to_contain_text("refused with HTTP 402")

    page.get_by_role("link", name="Plans", exact=True).first.click()
    page.get_by_label("Cap a month while it holds").fill("1000")
    page.get_by_label("Why").fill("A one-time backfill")
    page.get_by_role("button", name="Lift it").click()
    page.goto("/developers")
    bar(page, "good")
    expect(page.locator("#summary")).to_contain_text("A one-time backfill")

    page.goto("/settings/plans")
    page.get_by_role("button", name="End the override of API calls").click()
    expect(page.locator("main")).to_contain_text("ended")
    page.goto("/developers")
    bar(page, "bad")
    assert list_overrides(console.engine)[0].ended_by == "admin"
    if script:
        for path in ("/developers", f"/developers/keys/{key.id}", "/settings/plans"):
            page.goto(path)
            assert faults_of(page, width) == []
