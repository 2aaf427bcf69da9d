"""Calls a minute: never more than agreed, and every refusal is counted without a write each."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select
from sqlmodel import col

from finance.errors import StoreUnavailable
from finance.store import Batch
from node.db.journal import Journal
from node.usage.metering import RateHits
from node.usage.rates import RateLimited, RateLimiter

NOW = 1_780_000_000


def test_no_sixty_seconds_have_more_calls_than_the_limit() -> None:
    limiter, passed = RateLimiter(), []
    for second in range(300):
        for _ in range(3):
            try:
                limiter.check("key:a", 20, NOW + second)
            except RateLimited:
                continue
            passed.append(second)
    for start in range(240):
        assert sum(start <= second < start + 60 for second in passed) <= 20
    assert len(passed) == 100


def test_who_waits_as_long_as_told_is_let_in() -> None:
    limiter = RateLimiter()
    for second in (0, 10, 20):
        limiter.check("key:a", 3, NOW + second)
    with pytest.raises(RateLimited) as refused:
        limiter.check("key:a", 3, NOW + 25)
    assert refused.value.retry_after == 35
    with pytest.raises(RateLimited):
        limiter.check("key:a", 3, NOW + 59)
    assert limiter.check("key:a", 3, NOW + 60).remaining == 0


def test_headers_say_the_limit_what_is_left_and_when_more_comes() -> None:
    limiter = RateLimiter()
    assert limiter.check("key:a", 2, NOW).headers() == [
        (b"ratelimit-limit", b"2"),
        (b"ratelimit-remaining", b"1"),
        (b"ratelimit-reset", b"0"),
    ]
    assert limiter.check("key:a", 2, NOW + 4).reset == 56
    with pytest.raises(RateLimited) as refused:
        limiter.check("key:a", 2, NOW + 5)
    assert (b"retry-after", b"55") in refused.value.headers()
    assert limiter.in_last_minute("key:a", NOW + 5) == 2


def test_subjects_do_not_take_from_each_other_and_an_older_clock_opens_nothing() -> None:
    limiter = RateLimiter()
    limiter.check("key:a", 1, NOW)
    limiter.check("key:b", 1, NOW)
    with pytest.raises(RateLimited):
        limiter.check("key:a", 1, NOW - 3600)


async def test_a_flood_is_counted_in_one_write_and_none_is_lost(migrated_engine: Engine) -> None:
    limiter = RateLimiter()
    limiter.check("key:a", 1, NOW)
    for _ in range(5_000):
        with pytest.raises(RateLimited):
            limiter.check("key:a", 1, NOW)
    closed = Journal(migrated_engine)
    closed.close()
    with pytest.raises(StoreUnavailable):
        await limiter.flush(closed, NOW)
    journal = Journal(migrated_engine)
    await limiter.flush(journal, NOW)
    await limiter.flush(journal, NOW)
    await journal.commit(Batch([]))
    journal.close()
    with migrated_engine.connect() as connection:
        assert connection.scalars(select(col(RateHits.hits))).all() == [5_000]


async def test_a_clock_set_back_by_an_hour_locks_nobody_out_for_an_hour(
    migrated_engine: Engine,
) -> None:
    limiter, journal = RateLimiter(), Journal(migrated_engine)
    limiter.check("key:a", 1, NOW)
    with pytest.raises(RateLimited):
        limiter.check("key:a", 1, NOW - 3_600)
    await limiter.flush(journal, NOW - 3_600)
    assert limiter.check("key:a", 1, NOW - 3_600).remaining == 0
    await limiter.flush(journal, NOW - 3_590)  # a moment is none
    with pytest.raises(RateLimited):
        limiter.check("key:a", 1, NOW - 3_602)
    journal.close()
