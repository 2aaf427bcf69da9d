"""A database that is away for a while is a line of the log each time, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from finance.chain.rpc import Rpc
from finance.chain.watcher import Watcher
from finance.networks import NETWORKS
from node.db.engine import open_engine
from node.db.journal import Journal
from node.jobs.runner import Jobs
from tests.backups.told import Told

NOWHERE, DEVNET = "127.0.0.1:9", NETWORKS["devnet"]


@pytest.fixture
def journal() -> Iterator[Journal]:
    engine = open_engine(f"postgresql+psycopg://farebox@{NOWHERE}/farebox")
    journal = Journal(engine)
    yield journal
    journal.close()
    engine.dispose()


def without_tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not any(each.exc_info for each in caplog.records), "hundreds of lines, twice a second"
    return [each.name for each in caplog.records if NOWHERE.partition(":")[0] in each.getMessage()]


async def test_the_watcher_waits(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    async with Rpc([f"http://{NOWHERE}"], DEVNET.chain_id) as rpc:
        watcher = Watcher(rpc, journal, DEVNET, "0x" + "11" * 20)
        await watcher.start()
        while not caplog.records:
            await asyncio.sleep(0.01)
        await watcher.stop()
    assert without_tracebacks(caplog) == ["finance.chain.watcher"]


async def test_jobs_wait(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    async def job() -> None:
        raise AssertionError("nobody knows whose turn it is")

    await Jobs(journal, Told()).run("claim", job)
    assert without_tracebacks(caplog) == ["node.jobs.runner"]
