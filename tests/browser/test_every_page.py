"""What holds for every page: readable by everybody, in every window, from this node alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from node.accounts.access import Role
from node.controls import page_modules
from node.db.engine import open_engine
from node.db.migrations import upgrade
from tests.console_world import Console, open_browser, serve_console

WINDOWS = [(1440, "light"), (375, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("node")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home) as console:
        yield console
    engine.dispose()


def addresses(console: Console) -> list[str]:
    """Every page that can be opened without naming something in it."""
    return sorted(
        {
            route.path
            for module in page_modules(console.parts.controls)
            for route in module.routes
            if route.method == "GET" and "{" not in route.path
        }
    )


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
def test_pages_are_readable_and_ask_nobody_else(
    browser: Browser, console: Console, width: int, scheme: str
) -> None:
    page = console.sign_in(
        browser,
        Role.ADMIN,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    faults: list[str] = []
    page.on("console", lambda told: faults.append(f"{page.url}: {told.text}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith((console.url, "data:"))
            else faults.append(f"{page.url} asks {request.url}")
        ),
    )
    for path in addresses(console):
        answer = page.request.get(path, max_redirects=0)
        if "html" not in answer.headers.get("content-type", "") or answer.status != 200:
            continue
        page.goto(path)
        faults += [f"{path}: {fault}" for fault in faults_of(page, width)]
    assert faults == []


def faults_of(page: Page, width: int) -> list[str]:
    """What is wrong with the page that is open."""
    found = []
    if page.evaluate("document.documentElement.scrollWidth") > width:
        found.append("is wider than its window")
    if page.locator("h1").count() != 1:
        found.append("has not one heading")
    if page.locator("[style], style, script:not([src])").count():
        found.append("has inline style or script")
    found += [
        f"{violation['id']}: {violation['nodes'][0]['html'][:120]}"
        for violation in Axe().run(page).response["violations"]
    ]
    return found
