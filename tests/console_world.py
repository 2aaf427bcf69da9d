"""The private listener on a real port over a real database, with a user of every role.

::

    def test_…(console: Console) -> None:
        admin = console.client(Role.ADMIN)     # an httpx.Client that has signed in
        admin.get("/settings/appearance")
        console.send(admin, "/settings/appearance", zone="Europe/Berlin")  # a form and its token
        console.api(Role.VIEWER).get("/api/me")                            # a bearer token
        page = console.sign_in(browser, Role.ADMIN)                        # a browser's page

Make the fixture `console` with `serve_console(engine, …)`; `controls` are the node's own, so
tests reach the same services as the pages.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import Engine, select

from finance.wallet.signer import Keys, Signer
from node import controls
from node.accounts.access import Identity, Role
from node.accounts.audit import SYSTEM
from node.accounts.models import User
from node.accounts.passwords import hash_password
from node.accounts.sessions import Client, NewSession, begin_session, cookie_name
from node.accounts.tokens import create_token
from node.accounts.users import NewUser, create_user
from node.db.engine import writer
from node.parts import Parts, build_parts
from node.server import Server, bind, make_server
from node.settings import Bind, Settings
from tests.conftest import CHROMIUM

PASSWORD = "correct horse battery staple"
# Of a client on this machine. It reads no certificates, which takes longer than most requests.
PLAIN: Any = {"trust_env": False, "timeout": 60, "verify": False}


@lru_cache(maxsize=1)
def _hashed() -> str:
    return hash_password(PASSWORD)


@dataclass
class Console:
    """A running private listener; users are named after their roles and share PASSWORD."""

    url: str
    engine: Engine
    parts: Parts
    users: dict[Role, str] = field(default_factory=dict)
    sessions: dict[str, NewSession] = field(default_factory=dict)

    @property
    def cookie(self) -> str:
        """What the session's cookie is called."""
        return cookie_name(urlsplit(self.url).port)

    def session(self, role: Role) -> NewSession:
        """A fresh session of the role's user."""
        with writer(self.engine).begin() as connection:
            return begin_session(
                connection, self.users[role], Client("127.0.0.1", "test"), int(time.time())
            )

    def client(self, role: Role) -> httpx.Client:
        """A browser without script, signed in."""
        session = self.session(role)
        self.sessions[session.token] = session
        cookies = {self.cookie: session.token}
        return httpx.Client(base_url=self.url, cookies=cookies, **PLAIN)

    def send(self, client: httpx.Client, path: str, **fields: Any) -> httpx.Response:
        """A form with the token of the client's session."""
        session = self.sessions[client.cookies[self.cookie]]
        return client.post(path, data={"csrf": session.csrf, **fields})

    def api(self, role: Role) -> httpx.Client:
        """A program with a bearer token of the role."""
        maker = Identity(self.users[role], role.value, role, "127.0.0.1")
        name = f"test {secrets.token_hex(4)}"
        token = create_token(self.engine, maker, name, role, int(time.time()))
        headers = {"authorization": f"Bearer {token.secret}"}
        return httpx.Client(base_url=self.url, headers=headers, **PLAIN)

    def sign_in(self, browser: Browser, role: Role = Role.ADMIN, **options: Any) -> Page:
        """A page of a new browser context in which the role has signed in."""
        context = browser.new_context(base_url=self.url, **options)
        host = str(urlsplit(self.url).hostname)
        token = self.session(role).token
        context.add_cookies([{"name": self.cookie, "value": token, "domain": host, "path": "/"}])
        return context.new_page()


class MadeLate:
    """An app that is made when something of it is wanted: to make the API takes longer than most
    tests do, and few ask for it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    @cached_property
    def app(self) -> Any:
        return self._make()

    async def __call__(self, *asked: Any) -> None:
        await self.app(*asked)


@contextmanager
def _api_made_late() -> Iterator[None]:
    modules, create = controls.endpoint_modules, controls.create_api
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "endpoint_modules", lambda of: partial(modules, of))
        patch.setattr(controls, "create_api", lambda who, of: MadeLate(lambda: create(who, of())))
        yield


@contextmanager
def serve_console(
    engine: Engine, data_dir: Path, *, users: bool = True, **settings: Any
) -> Iterator[Console]:
    """The private listener of a node on `engine`. There is no chain: its RPC answers nothing.

    `users` False: nobody has set it up. `settings` are fields of node.settings.Settings.
    """
    defaults: dict[str, Any] = {
        "data_dir": data_dir,
        "network": "devnet",
        "rpc_urls": ["http://127.0.0.1:9"],
        "gateway_bind": "127.0.0.1:8402",
        "database_url": engine.url.render_as_string(hide_password=False),
    }
    listener = bind(Bind("127.0.0.1", 0), "FAREBOX_CONSOLE_BIND")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    defaults["console_bind"] = urlsplit(url).netloc
    keys = Keys(Signer.random(), Signer.random(), Signer.random(), secrets.token_bytes(32))
    with _api_made_late():
        parts = build_parts(Settings(**{**defaults, **settings}), keys, engine)
    console = Console(url, engine, parts, make_users(engine) if users else {})
    proxies = parts.settings.trusted_proxies
    server = make_server(parts.private, 1, proxies)  # type: ignore[arg-type]
    thread = threading.Thread(target=lambda: asyncio.run(_serve(parts, server, listener)))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield console
    finally:
        server.stop_accepting()
        thread.join()
        parts.money.journal.close()


async def _serve(parts: Parts, server: Server, listener: socket.socket) -> None:
    """With the proxy's line to sellers, which pages use too."""
    await parts.proxy.start()
    try:
        await server.serve(sockets=[listener])
    finally:
        await parts.proxy.stop()


def make_users(engine: Engine) -> dict[Role, str]:
    """One user of every role, by id; those that are there already stay."""
    with engine.connect() as connection:
        known = {row.name: row.id for row in connection.execute(select(User.__table__))}  # type: ignore[attr-defined]
    for role in Role:
        if role.value not in known:
            new = NewUser(role.value, "", role, _hashed(), temporary_password=False)
            known[role.value] = create_user(engine, new, SYSTEM, int(time.time())).id
    return {role: known[role.value] for role in Role}


def open_browser() -> Iterator[Browser]:
    """Chromium; skips, saying what to install, where there is none."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: install chromium, or say where with FAREBOX_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
