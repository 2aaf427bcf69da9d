"""A node's notifications on a real database, a mail server and a receiver of webhooks."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

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


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at the newest schema, made once and copied for each test."""
    path = tmp_path_factory.mktemp("alerts") / "fresh.db"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def world(fresh_database: Path, tmp_path: Path) -> Iterator[World]:
    """On SQLite."""
    path = shutil.copy(fresh_database, tmp_path / "farebox.db")
    engine = open_engine(f"sqlite:///{path}")
    yield World(engine)
    engine.dispose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def post_office() -> Iterator[PostOffice]:
    with PostOffice() as office:
        yield office
