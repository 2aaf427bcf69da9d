"""Users and programs of nodes that run as processes of their own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from sqlalchemy import Engine

from node.accounts.access import Identity, Role
from node.accounts.sessions import Client, begin_session, cookie_name
from node.accounts.tokens import create_token
from node.db.engine import open_engine, writer
from tests.console_world import make_users
from tests.recovery.node_home import NodeHome


@contextmanager
def database(home: NodeHome) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{home.data_dir / 'farebox.db'}")
    yield engine
    engine.dispose()


def cookie_of(home: NodeHome, role: Role = Role.ADMIN) -> dict[str, str]:
    """A session of the role's user, as a browser keeps it."""
    with database(home) as engine:
        users, now = make_users(engine), int(time.time())
        with writer(engine).begin() as connection:
            session = begin_session(connection, users[role], Client("127.0.0.1", "test"), now)
    name = cookie_name(home.console_port)
    return {"name": name, "value": session.token, "domain": "127.0.0.1", "path": "/"}


def program(home: NodeHome, role: Role = Role.ADMIN) -> aiohttp.ClientSession:
    """A client of the JSON API with a token of the role. Close it."""
    with database(home) as engine:
        users, now = make_users(engine), int(time.time())
        maker = Identity(users[role], role.value, role, "127.0.0.1")
        token = create_token(engine, maker, f"test {home.name} {now}", role, now)
    return aiohttp.ClientSession(
        base_url=f"http://127.0.0.1:{home.console_port}",
        headers={"authorization": f"Bearer {token.secret}"},
    )
