"""Addresses of tabs that are no page themselves lead to the first section one may see."""

from __future__ import annotations

from starlette.responses import Response

from node.accounts.errors import Forbidden
from node.console.pages import Pages
from node.console.tabs import TABS, Tab, first_path
from node.console.visit import Visit


def pages() -> list[Pages]:
    """One address each, e.g. `/settings`."""
    return [
        _leading(tab)
        for tab in TABS
        if tab.sections and tab.path not in {each.path for each in tab.sections}
    ]


def _leading(tab: Tab) -> Pages:
    pages = Pages(tab.name)

    @pages.get(tab.path, tab.permission)
    async def lead(visit: Visit) -> Response:
        path = first_path(visit.identity, tab)
        if path is None:
            raise Forbidden(f"Your role sees nothing in {tab.label}.")
        return visit.redirect(path)

    return pages
