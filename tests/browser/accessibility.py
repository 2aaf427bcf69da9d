"""What axe-core finds wrong with a page."""

from __future__ import annotations

import json
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page as AsyncPage
from playwright.sync_api import Page

# Only what it finds leaves the browser: all that is right takes longer to bring than to check.
_RUN = "axe.run(%s).then(all => all.violations.map(each => `${each.id}: ${each.nodes[0].html}`))"
_IS_THERE = "typeof axe === 'object'"


def violations(page: Page, options: dict[str, Any] | None = None) -> list[str]:
    """One for each rule that is broken; `options` as of `axe.run`, all rules without."""
    if not page.evaluate(_IS_THERE):
        page.evaluate(AXE_SCRIPT)
    wanted = {"resultTypes": ["violations"], **(options or {})}
    return [each[:160] for each in page.evaluate(_RUN % json.dumps(wanted))]


async def violations_async(page: AsyncPage) -> list[str]:
    """The same of a page that a test with an event loop drives."""
    if not await page.evaluate(_IS_THERE):
        await page.evaluate(AXE_SCRIPT)
    return [each[:160] for each in await page.evaluate(_RUN % '{"resultTypes":["violations"]}')]
