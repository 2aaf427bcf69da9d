"""Processes that share a database sell minutes of each other's streams."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from finance.errors import StoreConflict
from finance.store import Batch
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.gateway.desk import Refused
from node.gateway.stream_minutes import GRACE_SECONDS, Minutes
from node.usage.models import Side
from node.usage.stream_rows import StreamKind
from node.usage.streams import Streams
from tests.postgres_server import end_connections
from tests.streams.compressed import Clock

MINUTE = 60
CALL: Any = SimpleNamespace(id="call")  # all of it that a minute depends on


@pytest.fixture
def journal(postgres_url: str) -> Iterator[Journal]:
    """With PostgreSQL: only there have processes one database."""
    engine = open_engine(postgres_url)
    upgrade(engine)
    journal = Journal(engine)
    yield journal
    journal.close()
    engine.dispose()


async def test_a_minute_sold_by_one_process_keeps_the_stream_of_another_open(
    journal: Journal,
) -> None:
    clock, stopped = Clock(), list[str]()
    holding, selling = Streams(journal, clock, clock), Streams(journal, clock, clock)
    await holding.start()
    await selling.start()
    kind = StreamKind.WEBSOCKET
    stream = holding.open("a", Side.SERVED, kind, "lst", stopped.append, minute_atoms=5)
    await holding.put(stream)
    here, there = Minutes(holding, journal), Minutes(selling, journal)
    late = await there._sell("a", CALL)
    await journal.commit(Batch(list((await there._sell("a", CALL)).writes)))
    clock.at += MINUTE + GRACE_SECONDS
    await here.look()
    await holding.tick()  # which writes all of its row but this
    assert (stopped, stream.paid_until) == ([], stream.started_at + 2 * MINUTE)
    clock.at += MINUTE
    await here.look()
    assert stopped == ["payment_due"]
    stream.end("payment_due", cut=True)
    await holding.tick()
    with pytest.raises(Refused, match="stream_over"):
        await there._sell("a", CALL)
    with pytest.raises(StoreConflict):  # decided before it ended, committed behind it
        await journal.commit(Batch(list(late.writes)))
    await holding.stop()
    await selling.stop()


async def test_a_stream_is_not_over_because_the_database_restarted(journal: Journal) -> None:
    """Who pays for its minutes would be told so, and close it."""
    clock = Clock()
    holding, selling = Streams(journal, clock, clock), Streams(journal, clock, clock)
    await holding.start()
    await selling.start()
    kind = StreamKind.WEBSOCKET
    stream = holding.open("a", Side.SERVED, kind, "lst", lambda _: None, minute_atoms=5)
    await holding.put(stream)
    there = Minutes(selling, journal)
    end_connections(journal.engine.url.render_as_string(False))
    with pytest.raises(Refused, match="store_unavailable"):
        await there._sell("a", CALL)
    for streams in (holding, selling):  # each at its next tick
        await streams._end_departed()
    assert (await there._sell("a", CALL)).writes
    await holding.stop()
    await selling.stop()
