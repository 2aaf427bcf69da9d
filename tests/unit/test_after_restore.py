"""What a restored node makes of its wallet's transactions on the chain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Engine

from node.accounts.audit import SYSTEM
from node.db.journal import Journal
from node.preferences import change_preference
from node.vault.restored import AfterRestore, Elsewhere, Restored, Sent, judge_nonce

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
def after(migrated_engine: Engine) -> Iterator[AfterRestore]:
    async def nonce(_address: str) -> int:
        return 10

    journal = Journal(migrated_engine)
    yield AfterRestore(journal, "0x" + "ab" * 20, nonce, None)
    journal.close()


def test_looking_and_checking_at_the_same_moment_keep_both(
    after: AfterRestore, migrated_engine: Engine
) -> None:
    """Lost, the first would make somebody else's next transaction look like an old one."""
    for _ in range(10):
        change_preference(migrated_engine, RESTORED, SYSTEM, 1)
        ready, now = Barrier(2), int(time.time())

        def look(ready: Barrier = ready, now: int = now) -> None:
            ready.wait()
            after.look(10, now)

        def check(ready: Barrier = ready, now: int = now) -> None:
            ready.wait()
            after.checked(now)

        with ThreadPoolExecutor(2) as pool:
            for each in (pool.submit(look), pool.submit(check)):
                each.result()
        fact = after.read()
        assert fact.nonce_then == 10 and fact.checked_at == now
