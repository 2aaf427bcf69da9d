"""What axe-core finds wrong with a page."""

from __future__ import annotations

import json
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

# Only what it finds leaves the browser: all that is right takes longer to bring than to check.
_RUN = "axe.run(%s).then(all => all.violations.map(each => `${each.id}: ${each.nodes[0].html}`))"


def violations(page: Page, options: dict[str, Any] | None = None) -> list[str]:
    """One for each rule that is broken; `options` as of `axe.run`, all rules without."""
    page.wait_for_load_state()  # a click ends before the page it leads to is whole
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE_SCRIPT)
    wanted = {"resultTypes": ["violations"], **(options or {})}
    return [each[:160] for each in page.evaluate(_RUN % json.dumps(wanted))]
