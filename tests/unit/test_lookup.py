"""Short questions: right on both databases, and waiting for nobody on the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from node.db.engine import open_engine, writer
from node.db.lookup import Lookup

FIND = text("SELECT name, size FROM thing WHERE name = :name")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    with writer(engine).begin() as connection:
        connection.execute(text("CREATE TABLE thing (name VARCHAR PRIMARY KEY, size INTEGER)"))
    yield engine
    engine.dispose()


def _add(engine: Engine, name: str) -> None:
    with writer(engine).begin() as connection:
        connection.execute(text("INSERT INTO thing VALUES (:name, 7)"), {"name": name})


async def test_what_was_written_meanwhile_is_found(engine: Engine) -> None:
    with closing(Lookup(engine)) as lookup:
        assert await lookup.first(FIND, {"name": "a"}) is None
        _add(engine, "a")
        found = await lookup.first(FIND, {"name": "a"})
        assert found is not None and tuple(found) == ("a", 7)
        with writer(engine).connect() as connection:  # while somebody else writes
            connection.execute(text("INSERT INTO thing VALUES ('b', 8)"))
            assert await lookup.first(FIND, {"name": "b"}) is None
            connection.commit()
        assert await lookup.first(FIND, {"name": "b"}) is not None


async def test_a_database_that_cannot_be_asked_is_said_so_and_asked_again(engine: Engine) -> None:
    with closing(Lookup(engine)) as lookup:
        with pytest.raises(SQLAlchemyError):
            await lookup.first(text("SELECT 1 FROM nothing"), {})
        _add(engine, "a")
        assert await lookup.first(FIND, {"name": "a"}) is not None


async def test_a_file_that_somebody_has_alone_is_waited_for_off_the_event_loop(
    migrated_engine: Engine,
) -> None:
    assert migrated_engine.url.database is not None
    query = text("SELECT count(*) FROM call")
    migrated_engine.dispose()
    with closing(sqlite3.connect(migrated_engine.url.database)) as alone:
        alone.execute("PRAGMA locking_mode=EXCLUSIVE")
        alone.execute("CREATE TABLE mine (a)")
        with closing(Lookup(migrated_engine)) as lookup:
            asked = asyncio.create_task(lookup.first(query, {}))
            for _ in range(10):
                before = time.monotonic()
                await asyncio.sleep(0.02)
                assert time.monotonic() - before < 1
            assert not asked.done()
            alone.close()
            found = await asked
    assert found is not None and tuple(found) == (0,)
