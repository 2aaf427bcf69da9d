"""Whatever is changed by two processes at once is taken over by all of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import Connection, Engine

from node.accounts.audit import SYSTEM
from node.changes import read_version
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.plans.buying.rows import add_subscription, change_row
from node.preferences import store_preference
from node.treasury.choices import ClaimTerms, Thresholds
from node.usage import keys

Change = Callable[[Connection], object]


def _together(engine: Engine, change: Change, meanwhile: Change) -> bool:
    """Whether a node that looked when `meanwhile` was done notices `change`, which ends then."""

    def other() -> None:
        with writer(engine).begin() as connection:
            meanwhile(connection)

    with ThreadPoolExecutor() as pool:
        with writer(engine).begin() as connection:
            change(connection)
            done = pool.submit(other)
            wait([done], timeout=1)
            looked = read_version(engine)
        done.result()
    return read_version(engine) != looked


@pytest.fixture
def engine(postgres_url: str) -> Engine:
    engine = open_engine(postgres_url)
    upgrade(engine)
    return engine


def test_a_secret_that_is_revoked_while_another_is_changed_opens_nothing(engine: Engine) -> None:
    lost, other = keys.create_key(engine, "lost", 1), keys.create_key(engine, "other", 1)
    assert _together(
        engine,
        lambda connection: keys._update(connection, lost.id, {"revoked_at": 2}),
        lambda connection: keys._update(connection, other.id, {"name": "another"}),
    )
    engine.dispose()


def test_a_choice_that_is_made_while_another_is_holds_everywhere(engine: Engine) -> None:
    assert _together(
        engine,
        lambda connection: store_preference(connection, Thresholds(low_gas_wei=7), SYSTEM, 1),
        lambda connection: store_preference(connection, ClaimTerms(dust_atoms=7), SYSTEM, 1),
    )
    engine.dispose()


def test_a_subscription_that_ends_while_another_changes_is_not_used_on(engine: Engine) -> None:
    row = {"listing_id": "x", "base_url": "http://127.0.0.1:9", "seller_id": "", "plan": "{}"}
    row |= {"state": "active", "secret_sealed": "", "created_by": ""}
    with writer(engine).begin() as connection:
        for number in ("ended", "other"):
            add_subscription(connection, {**row, "id": number})
    assert _together(
        engine,
        lambda connection: change_row(connection, "ended", {"ended_at": 2}),
        lambda connection: change_row(connection, "other", {"agreed_atoms": 3}),
    )
    engine.dispose()
