"""Limits: the decision alone, and the counters that refuse by themselves."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import SQLModel

from finance.buying.limits import Ask, Limits, Spending, SpendingRefused, decide
from finance.errors import StoreConflict
from finance.store import Batch
from node.db.engine import open_engine, writer
from node.db.journal import Journal

AMOUNT = st.integers(0, 10**7)


@given(limit=AMOUNT, asks=st.lists(AMOUNT, max_size=20), scope=st.sampled_from(["listing", "day"]))
def test_what_was_allowed_never_adds_up_to_more_than_the_limit(
    limit: int, asks: list[int], scope: str
) -> None:
    limits, spent = Limits({(scope, "*"): limit}), dict[tuple[str, str], int]()
    for atoms in asks:
        try:
            decide(limits, spent, Ask("l", "k", atoms))
        except SpendingRefused:
            continue
        for key in (("listing", "l"), ("key", "k"), ("day", "*")):
            spent[key] = spent.get(key, 0) + atoms
    key = (scope, "l" if scope == "listing" else "*")
    assert spent.get(key, 0) <= limit


def test_the_tightest_limit_that_applies_wins() -> None:
    limits = Limits({("call", "*"): 10, ("call", "key-1"): 5, ("listing", "l"): 99})
    assert limits.of("call", "l", "key-1") == 5
    assert limits.of("call", "l", "key-2") == 10
    assert limits.of("listing", "l") == 99
    assert limits.of("listing", "other") == 10_000_000


def test_a_day_full_of_deposits_names_the_limit_to_raise() -> None:
    spent = {("deposits", "*"): 19_950_000}
    with pytest.raises(SpendingRefused) as refused:
        decide(Limits({}), spent, Ask("l", "k", 1_000, deposit_atoms=100_000))
    assert refused.value.code == "limit_exceeded_day"
    assert "the day limit is 20 USDC and 19.95 USDC of it are deposited" in str(refused.value)


async def test_two_processes_together_stay_below_the_limit(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    engines = [open_engine(url) for _ in range(2)]
    with writer(engines[0]).begin() as connection:
        SQLModel.metadata.create_all(connection)
    journals = [Journal(engine) for engine in engines]
    allowed = 0

    async def spend(journal: Journal, spending: Spending) -> None:
        nonlocal allowed
        try:
            _, writes = spending.reserve(Ask("l", "k", 1_000_000), 0.0)
            await journal.commit(Batch(writes))
            allowed += 1
        except (SpendingRefused, StoreConflict):
            pass

    spendings = [Spending(journal) for journal in journals]
    for spending in spendings:
        spending.load(0.0)
    pairs = list(zip(journals, spendings, strict=True))
    await asyncio.gather(*(spend(*pairs[number % 2]) for number in range(40)))
    assert allowed == 10
    for journal in journals:
        journal.close()


def test_a_new_day_starts_at_nothing_and_what_is_given_back_can_be_spent(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with writer(engine).begin() as connection:
        SQLModel.metadata.create_all(connection)
    journal = Journal(engine)
    spending = Spending(journal)
    spending.load(0.0)
    ask = Ask("l", "k", 1_000_000)
    first = [spending.reserve(ask, 0.0)[0] for _ in range(10)]
    with pytest.raises(SpendingRefused):
        spending.reserve(ask, 0.0)
    spending.release(first[0])
    spending.reserve(ask, 0.0)
    spending.reserve(ask, 90_000.0)
    assert spending.spent("day", "*", 90_000.0) == 1_000_000
    journal.close()


async def test_days_have_their_limits_again_after_a_clock_ran_ahead(tmp_path: Path) -> None:
    """What was signed on a day stays counted on it, before and after."""
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with writer(engine).begin() as connection:
        SQLModel.metadata.create_all(connection)
    journal, day = Journal(engine), 86_400.0
    spending = Spending(journal)
    spending.load(day)

    async def spend(now: float) -> None:
        ask = Ask("l", "k", 1_000_000)
        while True:
            _, writes = spending.reserve(ask, now)
            try:
                return await journal.commit(Batch(writes))
            except StoreConflict:
                spending.load(now)

    async def spend_all(now: float) -> int:
        for spent in range(100):
            try:
                await spend(now)
            except SpendingRefused:
                return spent
        return 100

    assert await spend_all(day) == await spend_all(400 * day) == await spend_all(2 * day) == 10
    assert await spend_all(day) == await spend_all(400 * day) == 0
    journal.close()
