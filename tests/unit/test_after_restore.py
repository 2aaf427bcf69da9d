"""What a restored node makes of its wallet's transactions on the chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Engine

from node.accounts.audit import SYSTEM
from node.alerts.alerts import Alerts
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.preferences import change_preference
from node.vault.restored import AfterRestore, Elsewhere, Restored, Sent, judge_nonce

WALLET = "0x" + "ab" * 20
RESTORED = Restored("a backup", 1, 2, wallet_nonce=10)


def test_first_look_tells_what_the_backup_does_not_know() -> None:
    fact, found = judge_nonce(RESTORED, 13, Sent(9, 0))
    assert found == Elsewhere(before=3, since=0) and fact.nonce_then == 13
    assert judge_nonce(RESTORED, 10, Sent(10, 0))[1] == Elsewhere(0, 0)


def test_later_looks_tell_what_somebody_else_sent() -> None:
    fact = judge_nonce(RESTORED, 10, Sent(10, 0))[0]
    assert judge_nonce(fact, 12, Sent(12, 2))[1].since == 0, "both are ours"
    changed, found = judge_nonce(fact, 12, Sent(11, 1))
    assert found.since == changed.elsewhere == 1


def test_our_own_transaction_after_somebody_elses_does_not_hide_it() -> None:
    fact = judge_nonce(RESTORED, 10, Sent(10, 0))[0]
    assert judge_nonce(fact, 12, Sent(next_nonce=12, since=1))[1].since == 1


@pytest.fixture
def journal(database_url: str) -> Iterator[Journal]:
    engine = open_engine(database_url)
    upgrade(engine)
    journal = Journal(engine)
    yield journal
    journal.close()
    engine.dispose()


def watch(journal: Journal, nonce: int, wallet: str = WALLET, chain_id: int = 1) -> AfterRestore:
    """Of a node with this wallet, on a chain that says this of it."""

    async def ask(_address: str) -> int:
        return nonce

    return AfterRestore(journal, wallet, chain_id, ask, Alerts(journal.engine))


@pytest.mark.parametrize("moved", [{"wallet": "0x" + "cd" * 20}, {"chain_id": 2}])
async def test_another_wallet_or_another_network_is_nobody_elses_use(
    migrated_engine: Engine, moved: dict[str, Any]
) -> None:
    """The advice was to move the money to a new wallet: its own past is no alarm."""
    change_preference(migrated_engine, replace(RESTORED, wallet=WALLET), SYSTEM, 1)
    journal, incidents = Journal(migrated_engine), "SELECT resolved_at FROM notification"
    try:
        await watch(journal, 10).watch_wallet(1)
        await watch(journal, 500, **moved).watch_wallet(2)
        with migrated_engine.connect() as connection:
            assert connection.exec_driver_sql(incidents).all() == []
        await watch(journal, 11).watch_wallet(3)
        with migrated_engine.connect() as connection:
            assert connection.exec_driver_sql(incidents).all() == [(None,)]
        await watch(journal, 500, **moved).watch_wallet(4)
        with migrated_engine.connect() as connection:
            [(over,)] = connection.exec_driver_sql(incidents)
            assert over is not None
    finally:
        journal.close()


def test_looking_and_checking_at_the_same_moment_keep_both(journal: Journal) -> None:
    """Lost, the first would make somebody else's next transaction look like an old one. Each may
    be of a process of its own."""
    after, beside = watch(journal, 10), watch(journal, 10)
    for _ in range(10):
        change_preference(journal.engine, RESTORED, SYSTEM, 1)
        ready, now = Barrier(2), int(time.time())

        def look(ready: Barrier = ready, now: int = now) -> None:
            ready.wait()
            after.look(10, now)

        def check(ready: Barrier = ready, now: int = now) -> None:
            ready.wait()
            beside.checked(now)

        with ThreadPoolExecutor(2) as pool:
            for each in (pool.submit(look), pool.submit(check)):
                each.result()
        fact = after.read()
        assert fact.nonce_then == 10 and fact.checked_at == now
