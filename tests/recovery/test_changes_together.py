"""Whatever is changed by two processes at once is taken over by all of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from sqlalchemy import Connection, Engine
from sqlmodel import Session

from catalog.models import Listing, ListingOrigin
from catalog.samples import SampleRequest
from finance.x402.values import EXACT
from node.accounts.audit import SYSTEM
from node.changes import read_version
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.market import health, samples
from node.market.catalog import star
from node.market.health import HealthView
from node.market.publisher import Publisher
from node.market.try_it import TryIt, TryResult
from node.market.upstream import Fetched
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


@pytest.mark.parametrize("what", ["star", "health", "sample", "bought answer"])
def test_what_is_noted_of_a_listing_by_two_at_once_is_noted(engine: Engine, what: str) -> None:
    address = {"name": "Weather", "base_url": "http://127.0.0.1:9"}
    sold = Listing(id="sold", slug="sold", origin=ListingOrigin.OWN, **address)
    bought = Listing(id="bought", slug="bought", origin=ListingOrigin.REMOTE, **address)
    with Session(writer(engine), expire_on_commit=False) as session:
        session.add_all([sold, bought])
        session.commit()
    publisher = Publisher(engine, bytes.hex, bytes.fromhex, EgressPolicy)
    request, fetched = SampleRequest("GET", "/a", "/a"), Fetched(200, [], b"{}", 1)
    result = TryResult("", 200, False, "", 1, EXACT, 1, "GET", "/a", (), b"{}", True)
    tried = TryIt(engine, None, None)  # type: ignore[arg-type]  # nothing is called
    notes: dict[str, Callable[[], object]] = {
        "star": lambda: star(engine, SYSTEM, "sold", True, 1),
        "health": lambda: health._remember(publisher, sold, HealthView(True, 200, 1, 0, "", 1, 1)),
        "sample": lambda: samples._keep(publisher, "sold", request, fetched, SYSTEM, 1),
        "bought answer": lambda: tried._record("bought", request, result),
    }
    with ThreadPoolExecutor(8) as pool:
        for noted in [pool.submit(notes[what]) for _ in range(80)]:
            noted.result()
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
