"""A node's notifications on a real database, a mail server and a receiver of webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Engine

from node.db.engine import open_engine
from node.db.migrations import upgrade
from tests.alerts.post_office import PostOffice, Receiver
from tests.alerts.world import World


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database at the newest schema, on each dialect."""
    engine = open_engine(database_url)
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def world(migrated_engine: Engine) -> World:
    """On SQLite."""
    return World(migrated_engine)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def post_office() -> Iterator[PostOffice]:
    with PostOffice() as office:
        yield office
