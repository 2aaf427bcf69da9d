"""Every address of the private listener × every role, by real requests.

`access_table.txt` is what is promised: each line names the roles that are let in, the
method, and the address. An address that is not in it fails here, as does a line whose
address is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
from sqlalchemy import Engine

from node.accounts.access import Role
from node.db.engine import open_engine
from node.db.migrations import upgrade
from tests.console_world import Console, serve_console

TABLE = Path(__file__).with_name("access_table.txt")
LETTERS = {
    Role.ADMIN: "A",
    Role.API_OWNER: "O",
    Role.CONSUMER: "C",
    Role.FINANCE: "F",
    Role.VIEWER: "V",
}
REFUSED = "The role "
NOT_MEANT = "This form is from an older session"
# What the frameworks serve besides; all of it open to whoever reaches the console.
BESIDES = {("GET", "/static"), ("GET", "/api/openapi.json")}


def read_table() -> dict[tuple[str, str], str]:
    """(method, address) to letters of roles; `open`: also without signing in."""
    table: dict[tuple[str, str], str] = {}
    for line in TABLE.read_text().splitlines():
        if line and not line.startswith("#"):
            roles, method, path = line.split()
            assert (method, path) not in table, line
            table[method, path] = roles
    return table


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder: Path = tmp_path_factory.mktemp("access")
    engine: Engine = open_engine(f"sqlite:///{folder / 'farebox.db'}")
    upgrade(engine)
    with serve_console(engine, folder) as console:
        yield console
    engine.dispose()


def served(app: Any) -> set[tuple[str, str]]:
    """Every method and address of an app, as its own router and those in it have them."""
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found |= served(inner)
        else:
            methods = getattr(route, "methods", None) or {"GET"}
            found |= {(method, route.path) for method in methods - {"HEAD"}}
    return found


def address(path: str) -> str:
    """The address with ids that nothing has."""
    return re.sub(r"\{[^}]+\}", "none", re.sub(r"\{[^}]+:int\}", "999999999", path))


def letters_of(console: Console, in_api: bool, method: str, path: str) -> str:
    """The roles that are let in. Nothing is done: forms lack their token, bodies are none."""
    let_in = ""
    for role, client in clients(console, in_api).items():
        if in_api:
            answer = client.request(method, address(path), json=[] if method != "GET" else None)
            assert answer.status_code != 401, (role, method, path)
            refused = answer.status_code == 403 and answer.json()["detail"].startswith(REFUSED)
        else:
            answer = client.request(method, address(path))
            refused = answer.status_code == 403 and REFUSED in answer.text
            if method == "POST" and not refused:
                assert answer.status_code == 403 and NOT_MEANT in answer.text, (role, path)
            assert "/sign-in" not in answer.headers.get("location", ""), (role, path)
        assert answer.status_code < 500 or answer.status_code == 503, (role, method, path)
        let_in += "" if refused else LETTERS[role]
    return let_in


_CLIENTS: dict[tuple[str, bool], dict[Role, httpx.Client]] = {}


def clients(console: Console, in_api: bool) -> dict[Role, httpx.Client]:
    """A client of every role, with a session for pages, with a token for the API."""
    make = console.api if in_api else console.client
    key = (console.url, in_api)
    if key not in _CLIENTS:
        _CLIENTS[key] = {role: make(role) for role in Role}
        for client in _CLIENTS[key].values():
            client.timeout = httpx.Timeout(60)
    return _CLIENTS[key]


def test_every_address_is_in_the_table(console: Console) -> None:
    private: Any = console.parts.private
    found = served(private._console) | served(private._api.app)
    assert found - BESIDES == set(read_table())


def test_each_role_reaches_what_the_table_says_and_nothing_else(console: Console) -> None:
    expected = {key: roles for key, roles in read_table().items() if roles != "open"}
    pages = [key for key in expected if not key[1].startswith("/api/")]
    api = [key for key in expected if key[1].startswith("/api/")]
    found = {key: letters_of(console, False, *key) for key in pages}
    found |= {key: letters_of(console, True, *key) for key in api}
    wrong = {key: (found[key], expected[key]) for key in found if found[key] != expected[key]}
    assert wrong == {}


def test_without_signing_in_nothing_but_the_open_pages_answers(console: Console) -> None:
    with httpx.Client(base_url=console.url, trust_env=False) as visitor:
        for (method, path), roles in read_table().items():
            answer = visitor.request(method, address(path))
            if path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
            elif roles != "open":
                there = answer.headers.get("location", "")
                assert answer.status_code == 303 and there.startswith("/sign-in"), (method, path)
            else:
                assert answer.status_code < 500, (method, path)


def test_a_password_whose_code_is_still_due_opens_nothing(console: Console) -> None:
    client, password = newcomer(console, "half")
    with closing(client):
        form = {"csrf": token_on(client, "/account/password")}
        own = {"new": "a password of my own", "again": "a password of my own"}
        client.post("/account/password", data={**form, "old": password, **own})
        enrol(client)
        client.cookies.clear()
        half = client.post("/sign-in", data={"name": "half", "password": own["new"]})
        assert half.headers["location"].startswith("/sign-in/code")
        session = dict(client.cookies)
        for (method, path), roles in read_table().items():
            client.cookies = httpx.Cookies(session)
            answer = client.request(method, address(path))
            if path.startswith("/api/"):
                assert answer.status_code == 401, (method, path)
            elif roles != "open":
                there = answer.headers.get("location", "")
                assert answer.status_code == 303 and there.startswith("/sign-in"), (method, path)
            else:
                assert answer.status_code < 500, (method, path)


def test_a_temporary_password_opens_nothing_but_its_change(console: Console) -> None:
    still = {"/account/password", "/sign-out", "/theme"}
    client, _ = newcomer(console, "fresh")
    with closing(client):
        form = {"csrf": token_on(client, "/account/password")}
        session = dict(client.cookies)
        for (method, path), roles in read_table().items():
            if roles == "open" or path in still:
                continue
            client.cookies = httpx.Cookies(session)
            answer = client.request(method, address(path), data=form if method == "POST" else None)
            if path.startswith("/api/"):
                assert answer.status_code == 403, (method, path)
                assert answer.json()["code"] == "forbidden", (method, path)
            else:
                assert answer.headers.get("location") == "/account/password", (method, path)


def newcomer(console: Console, name: str) -> tuple[httpx.Client, str]:
    """Somebody whom an admin just added, signed in with the temporary password; and that."""
    with console.client(Role.ADMIN) as admin:
        made = console.send(admin, "/settings/users", name=name, role="admin")
    password = re.search(r'code--line">([^<]+)<', made.text)
    assert password is not None
    client = httpx.Client(base_url=console.url, trust_env=False)
    client.post("/sign-in", data={"name": name, "password": password[1]})
    return client, password[1]


def token_on(client: httpx.Client, path: str) -> str:
    """The token of the forms on a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(path).text)
    assert found is not None
    return found[1]


def enrol(client: httpx.Client) -> None:
    """Turn the second factor on."""
    form = {"csrf": token_on(client, "/account/second-factor")}
    client.post("/account/second-factor/offer", data=form)
    secret = re.search(r'code--line">([A-Z2-7 ]+)<', client.get("/account/second-factor").text)
    assert secret is not None
    code = pyotp.TOTP(secret[1].replace(" ", "")).now()
    client.post("/account/second-factor/confirm", data={**form, "code": code})
