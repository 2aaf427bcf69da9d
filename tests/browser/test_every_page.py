"""What holds for every page: readable by everybody, in every window, from this node alone.

Once over a node that has seen everything (tests/browser/filled_node.py) and once over one
that has seen nothing. A page that is added is looked at without being named here, as long
as some page links to it.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    Response,
    expect,
)

from finance.wallet.keystore import Keystore
from node.accounts.access import Role
from node.controls import page_modules
from node.db.engine import open_engine
from node.db.migrations import upgrade
from tests.browser.accessibility import violations
from tests.browser.filled_node import EMOJI, ETHER, RIGHT_TO_LEFT, fill, serve_bazaar
from tests.chain_fixtures import DevchainProcess
from tests.console_world import Console, serve_console
from tests.publishing_world import serve_weather

pytestmark = pytest.mark.browser

# Where pages are read by axe, and where only their width is measured.
WINDOWS = ((1440, "light"), (375, "dark"))
WIDTHS = (768,)
AREAS = ("/listings", "/catalog", "/settings", "/finance", "/notifications", "/account", "")
# Addresses that no link leads to.
FURTHER = (
    f"/finance/withdraw/confirm?id={'a' * 32}&token=ETH&amount=0.5&destination=0x{'ab' * 20}",
    "/calls?side=buyer",
    "/?side=buyer",
    "/catalog?q=weather&sort=price_down",
    "/notifications?state=resolved",
)
# Not opened without what is to be confirmed.
ASKED = {"/finance/withdraw/confirm"}
# What a page without anything in it says: what will appear, and how.
EMPTY = {
    "/": "Catalog",
    "/calls": "call",
    "/catalog": "peer",
    "/listings": "Register an API",
    "/finance/withdrawals": "withdraw",
    "/finance/channels": "channel",
    "/finance/channels/buying": "channel",
    "/finance/history": "appear here",
    "/finance/reconcile": "books",
    "/developers/my-usage": "owner",
    "/developers/customers": "subscribed",
    "/finance/invoices": "invoice",
    "/developers/subscriptions": "subscribes",
    "/notifications": "appear here",
    "/settings/network": "peer",
    "/settings/security": "secret",
    "/settings/backup": "backup",
    "/settings/email": "mail",
    "/settings/webhook": "posted",
    "/account/tokens": "token",
    "/settings/security/tokens": "token",
}

# The only sample of each listing of the node that is full.
SAMPLE = [("GET", "/forecast/lisbon")]

# What another window or other colours can change.
AGAIN: dict[str, Any] = {
    "runOnly": ["color-contrast", "link-in-text-block", "scrollable-region-focusable"]
}

FAULTS = r"""() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  if (all("h1").length !== 1) found.push(`has ${all("h1").length} first headings`);
  let level = 0;
  for (const each of all("h1, h2, h3, h4, h5, h6")) {
    const now = Number(each.tagName[1]);
    if (now > level + 1) found.push(`goes from heading ${level} to ${now}: ${each.textContent}`);
    level = now;
  }
  if (all("[style], style, script:not([src])").length) found.push("has inline style or script");
  for (const each of all("body *")) {
    for (const { name, value } of each.attributes) {
      if (name.startsWith("on") || /^\s*javascript:/i.test(value)) found.push(`runs ${name}`);
    }
  }
  for (const form of all("form")) {
    const token = form.querySelector('input[name="csrf"]')?.value;
    const open = /^\/(sign-in|setup)/.test(location.pathname);
    const posts = form.method === "post";
    if (posts && !token && !open) found.push(`posts without a token: ${form.action}`);
  }
  const ids = all("[id]").map((each) => each.id);
  const twice = ids.filter((id, index) => ids.indexOf(id) !== index);
  if (twice.length) found.push(`has ids twice: ${twice}`);
  return found;
}"""


@contextmanager
def node(home: Path, **settings: Any) -> Iterator[Console]:
    Keystore(home / "keys").create("only for tests")
    engine = open_engine(f"sqlite:///{home / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, home, **settings) as console:
        yield console
    engine.dispose()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Console]:
    home = tmp_path_factory.mktemp("filled")
    with DevchainProcess() as chain, serve_weather() as weather, serve_bazaar() as bazaar:
        settings = {"rpc_urls": [chain.rpc_url], "allowed_hosts": ["127.0.0.1"]}
        with node(home, **settings) as console:
            fill(console, weather, bazaar)
            address = console.parts.controls.facts.address
            chain.rpc("anvil_setBalance", address, hex(10 * ETHER))
            yield console


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Console]:
    with node(tmp_path_factory.mktemp("empty")) as console:
        yield console


@dataclass
class Map:
    """Every page that was found, by the address it is served under."""

    patterns: dict[str, re.Pattern[str]]
    pages: dict[str, list[str]] = field(default_factory=dict)

    def place(self, link: str) -> str | None:
        """The pattern of an address that is worth another look: two of what has many."""
        path = urlsplit(link).path
        found = [name for name, match in self.patterns.items() if match.fullmatch(path)]
        # Of two that fit, the one that names it: /catalog/add is no listing.
        name = min(found, key=lambda each: each.count("{"), default=None)
        if name is None or link in FURTHER or link == name:
            return name
        return name if "{" in name and len(self.pages.get(name, ())) < 2 else None

    def missing(self) -> list[str]:
        return sorted(set(self.patterns) - set(self.pages))


def draw_map(console: Console) -> Map:
    """Follow links until every kind of page was seen twice; what is no page is left out."""
    routes = [each for module in page_modules(console.parts.controls) for each in module.routes]
    paths = {each.path for each in routes if each.method == "GET"}
    drawn = Map({path: re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path)) for path in paths})
    waiting = [*FURTHER, *(path for path in sorted(paths - ASKED) if "{" not in path)]
    seen: set[str] = set()
    with console.client(Role.ADMIN) as client:
        client.timeout = httpx.Timeout(60)
        while waiting:
            link = waiting.pop(0)
            path = urlsplit(link).path
            name = drawn.place(link)
            if name is None or link in seen or "/sign-out" in path:
                continue
            seen.add(link)
            answer = client.get(link)
            if path in ASKED and answer.status_code == 422:
                continue  # without a chain nothing is there to confirm
            if answer.is_redirect:
                drawn.pages.setdefault(name, [])
                continue
            assert answer.status_code == 200, (link, answer.status_code)
            if "html" not in answer.headers.get("content-type", ""):
                drawn.pages.setdefault(name, [])
                continue
            drawn.pages.setdefault(name, []).append(link)
            links = re.findall(r'href="(/[^"#]*)"', answer.text)
            waiting += [html.unescape(each) for each in links]
    return drawn


_MAPS: dict[str, Map] = {}


def pages_of(console: Console, area: str) -> list[str]:
    if console.url not in _MAPS:
        _MAPS[console.url] = draw_map(console)
    every = sorted({page for found in _MAPS[console.url].pages.values() for page in found})
    # `""` is what no other area has.
    return [page for page in every if next(each for each in AREAS if page.startswith(each)) == area]


class Watch:
    """A page of an admin, and what it did that no page may do."""

    def __init__(self, console: Console, browser: Browser) -> None:
        self.url, self.faults = console.url, []  # type: tuple[str, list[str]]
        # Without motion: colours halfway from light to dark are nobody's.
        self.page = console.sign_in(browser, reduced_motion="reduce")
        self.page.on("console", self._told)
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("request", self._request)
        self.page.on("response", self._response)

    def _note(self, fault: str) -> None:
        self.faults.append(f"{urlsplit(self.page.url).path}: {fault}")

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(message.text)

    def _dialog(self, dialog: Dialog) -> None:
        self._note("ran a text")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self._note(f"asks {request.url}")

    def _response(self, answer: Response) -> None:
        if answer.status >= 400:
            self._note(f"{answer.status} for {answer.url}")

    def look(self, path: str) -> None:
        """At one page in every window."""
        for width, scheme in WINDOWS:
            self.page.set_viewport_size({"width": width, "height": 900})
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            if width == WINDOWS[0][0]:
                self.page.goto(path)
            first = (width, scheme) == WINDOWS[0]
            for fault in faults_of(self.page, width, {} if first else AGAIN):
                self._note(f"{width} {scheme}: {fault}")
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            if is_wider(self.page, width):
                self._note(f"{width}: is wider than its window")


def is_wider(page: Page, width: int) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth") > width)


def faults_of(page: Page, width: int, rules: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with the page that is open; `rules` of axe, all without."""
    page.wait_for_load_state()  # a click ends before the page it leads to is whole
    found: list[str] = page.evaluate(FAULTS)
    if is_wider(page, width):
        found.append("is wider than its window")
    return found + violations(page, rules)


@pytest.mark.parametrize("area", AREAS)
def test_pages_full_of_everything_are_readable_and_ask_nobody_else(
    browser: Browser, filled: Console, area: str
) -> None:
    watch = Watch(filled, browser)
    for path in pages_of(filled, area):
        watch.look(path)
    watch.page.context.close()
    assert watch.faults == []


def test_every_address_was_looked_at(filled: Console) -> None:
    pages_of(filled, "")
    # Kept by the node only while somebody waits for it; and what only the first start shows.
    unlinked = {"/catalog/{listing_id}/answers/{call_id}"}
    assert set(_MAPS[filled.url].missing()) <= unlinked


def rows_of(client: httpx.Client, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(client.get(path).text.splitlines()))


def test_what_a_listing_and_an_account_list_is_had_as_a_file(filled: Console) -> None:
    with filled.client(Role.ADMIN) as client:
        own = client.get("/catalog?source=own&q=wetter").text
        listing_id = min(re.findall(r'href="/catalog/(lst_\w+)"', own))
        for place in (f"/catalog/{listing_id}", f"/listings/{listing_id}"):
            samples = rows_of(client, f"{place}/samples.csv")
            assert [(each["method"], each["target"]) for each in samples] == SAMPLE
            prices = {
                (each["method"], each["path"]): (each["price_usdc"], each["price_unit"])
                for each in rows_of(client, f"{place}/operations.csv")
            }
            assert prices["GET", "/forecast/{city}"] == ("0.0025", "call")
            assert prices["POST", "/reports"] == ("0.001", "call")
        tokens = rows_of(client, "/account/tokens.csv")
        assert {EMOJI, RIGHT_TO_LEFT} <= {each["name"] for each in tokens}
        assert {each["user"] for each in tokens} == {"admin"}
        sessions = rows_of(client, "/account/sessions.csv")
        assert {(each["user"], each["address"]) for each in sessions} == {("admin", "127.0.0.1")}


@pytest.mark.parametrize("area", AREAS)
def test_pages_with_nothing_in_them_are_readable(
    browser: Browser, empty: Console, area: str
) -> None:
    watch = Watch(empty, browser)
    for path in pages_of(empty, area):
        watch.page.set_viewport_size({"width": 375, "height": 900})
        watch.page.goto(path)
        watch.faults += [f"{path}: {fault}" for fault in faults_of(watch.page, 375)]
    watch.page.context.close()
    assert watch.faults == []


def test_empty_lists_say_what_will_appear_and_how(empty: Console) -> None:
    with empty.client(Role.ADMIN) as client:
        for path, word in EMPTY.items():
            page = client.get(path).text
            told = re.findall(r'class="(?:empty|notice)[^>]*>(.*?)</(?:p|section|div)>', page, re.S)
            assert any(word in each for each in told), (path, told)


def test_sidebar_and_settings_stand_in_their_order(browser: Browser, empty: Console) -> None:
    page = empty.sign_in(browser)
    page.goto("/settings/users")
    names = page.locator(".side a").all_inner_texts()
    order = "Dashboard, Catalog, API Management, Finance, Developers, Notifications, Settings"
    assert [name for name in order.split(", ") if name in names] == names
    sections = page.get_by_role("navigation", name="Sections").locator("a").all_inner_texts()
    expected = "Users, Email, Webhook, Security, Network, Limits, Appearance, Backup, Audit log"
    assert [each for each in sections if each in expected.split(", ")] == expected.split(", ")


def test_keyboard_alone_opens_menu_and_pages(browser: Browser, empty: Console) -> None:
    page = empty.sign_in(browser)
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.goto("/")
    page.locator(".menu > summary").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Your account")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".menu > summary")).to_be_focused()
    expect(page.get_by_role("link", name="Your account")).to_be_hidden()
    page.locator(".side a", has_text="Catalog").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{empty.url}/catalog")


def test_without_script_everything_still_works(browser: Browser, filled: Console) -> None:
    """Theme, an operation tried, a notification acknowledged, and a wrong password at the money."""
    page = filled.sign_in(browser, java_script_enabled=False)
    page.goto("/")
    page.locator(".menu > summary").click()
    page.get_by_role("button", name="Dark", exact=True).click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/no-such-page")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.goto("/")
    page.locator(".menu > summary").click()
    page.get_by_role("button", name="Auto", exact=True).click()
    page.goto("/notifications?state=new")
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Acknowledge selected").click()
    expect(page.locator(".note")).to_have_text("1 notification acknowledged.")
    page.goto("/catalog?q=wetter&source=own")
    page.locator(".offer h2 a, .offer h3 a").first.click()
    page.get_by_role("link", name="/forecast/{city}").first.click()
    page.get_by_label("city *").fill("lisbon")
    page.get_by_role("button", name="Try a sample, free").click()
    expect(page.locator("#result")).to_contain_text("GET /forecast/lisbon")
    page.goto("/finance/withdraw")
    page.get_by_label("What", exact=True).select_option("ETH")
    page.get_by_label("To", exact=True).fill("0x" + "ab" * 20)
    page.get_by_label("Amount", exact=True).fill("0.5")
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Your password").fill("wrong")
    page.get_by_role("button", name="Send 0.5 ETH").click()
    expect(page.locator(".field__error")).to_be_visible()
    expect(page.locator("main")).to_contain_text("0x" + "ab" * 20, ignore_case=True)
    page.context.close()
