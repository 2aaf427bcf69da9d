"""Who lives is not taken for gone, however its connection to PostgreSQL ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from node.db import presence as presences
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.db.presence import Presence
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import Streams
from tests.postgres_server import end_connections

_TAKE = text("SELECT pg_try_advisory_lock(:space, :number)")
_GIVE_BACK = text("SELECT pg_advisory_unlock(:space, :number)")
_STATES = text("SELECT id, state FROM stream_session")


@pytest.fixture
def url(postgres_url: str) -> str:
    engine = open_engine(postgres_url)
    upgrade(engine)
    engine.dispose()
    return postgres_url


@pytest.fixture
def engines(url: str) -> Iterator[tuple[Engine, Engine]]:
    """Of two processes, whose pools are of their own."""
    both = open_engine(url), open_engine(url)
    yield both
    for engine in both:
        engine.dispose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Seconds that pass, as presence sees them."""
    seconds = [0.0]
    monkeypatch.setattr(presences.time, "monotonic", lambda: seconds[0])
    yield seconds


def shown(engine: Engine) -> Presence:
    found = Presence(engine)
    found.show()
    return found


def test_after_a_restart_of_the_server_nobody_who_lives_counts_as_gone(
    url: str, engines: tuple[Engine, Engine], clock: list[float]
) -> None:
    first, second = (shown(engine) for engine in engines)
    end_connections(url)
    assert first.departed({second.number}) == set()  # before it knows of the restart
    first.show()
    assert first.departed({second.number}) == set()
    clock[0] += 15
    second.show()
    clock[0] += 15
    assert first.departed({second.number}) == set()
    first.leave()
    second.leave()


def test_of_two_restarts_the_first_is_not_held_against_who_lives(
    url: str, engines: tuple[Engine, Engine], clock: list[float]
) -> None:
    first, second = (shown(engine) for engine in engines)
    second.leave()
    assert first.departed({second.number}) == set()
    clock[0] += 600  # in which there is no server
    end_connections(url)
    assert first.departed({second.number}) == set()
    first.show()
    assert first.departed({second.number}) == set()
    second.show()
    clock[0] += presences.GONE_SECONDS
    assert first.departed({second.number}) == set()
    first.leave()
    second.leave()


def test_a_process_that_stays_away_is_gone(
    engines: tuple[Engine, Engine], clock: list[float]
) -> None:
    first, second = (shown(engine) for engine in engines)
    second.leave()
    assert first.departed({second.number}) == set()
    clock[0] += presences.GONE_SECONDS
    assert first.departed({second.number}) == {second.number}
    first.leave()


def test_a_lock_that_an_old_connection_held_is_taken_once_that_has_ended(
    engines: tuple[Engine, Engine],
) -> None:
    first, second = shown(engines[0]), Presence(engines[1])
    with engines[0].connect() as broken:
        # The server has not noticed yet that this one broke, and the process connects anew.
        held = {"space": presences._SPACE, "number": second.number}
        assert broken.execute(_TAKE, held).scalar_one()
        second.show()
        broken.execute(_GIVE_BACK, held)
    second.show()
    assert first.missing({second.number}) == set()
    first.leave()
    second.leave()


async def test_an_open_stream_outlives_a_restart_of_the_server(
    url: str, engines: tuple[Engine, Engine]
) -> None:
    journals = [Journal(engine) for engine in engines]
    one, other = (Streams(journal) for journal in journals)
    await one.start()
    await other.start()
    stream = one.open("a", Side.SERVED, StreamKind.SSE, "lst", lambda _: None)
    await one.tick()
    end_connections(url)
    await other._end_departed()
    with open_engine(url).connect() as connection:
        assert connection.execute(_STATES).all() == [("a", "open")]
    stream.end("closed")
    for streams, journal in zip((one, other), journals, strict=True):
        await streams.stop()
        journal.close()
