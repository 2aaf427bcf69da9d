"""Orders as they are written down, on each database: one per listing, one per month."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from catalog.models import Listing, ListingOrigin
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.plans.buying import ordering as ordering_rules
from node.plans.buying import orders
from node.plans.buying.errors import NotPossibleNow
from node.plans.buying.keys import held_version, load_held
from node.plans.buying.models import OrderState
from node.plans.buying.offers import Offer
from node.plans.buying.ordering import Agreed, Ordering
from node.plans.buying.ports import Place, Told, Vault
from node.plans.buying.read import list_subscriptions, live_subscriptions, read_subscription
from node.plans.buying.rows import change_order, change_row, note, standing_values
from node.plans.buying.shapes import Due, Now, Period, Plan, Subscription
from node.usage.windows import window_of

NOW = int(time.time())
MONTH = window_of(NOW)
PLAN = Plan("pro", "Pro", monthly_price_atoms=9, grace_days=3, now=Now(3, until=MONTH.end))
OFFER = Offer(Place("lst", "api", "http://seller.example/v1/api"), "Api", False, (PLAN,))
VAULT = Vault("0x0", lambda secret: secret.hex(), bytes.fromhex, lambda text: "0x")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    listing = Listing(id="lst", slug="api", name="Api", base_url=OFFER.place.base)
    listing.origin = ListingOrigin.REMOTE
    with writer(engine).begin() as connection:
        connection.execute(insert(Listing), listing.model_dump())
    yield engine
    engine.dispose()


def test_a_subscription_goes_from_its_order_to_its_renewal(engine: Engine) -> None:
    ordering = Ordering(engine, VAULT)
    made, order_id = ordering.subscription(SYSTEM, OFFER, PLAN, Agreed(3, 9), NOW)
    with pytest.raises(NotPossibleNow):
        ordering.subscription(SYSTEM, OFFER, PLAN, Agreed(3, 9), NOW)
    with pytest.raises(NotPossibleNow):  # nobody has confirmed it
        ordering.renewal(SYSTEM, made, 9, NOW, ordering.month(made, NOW))
    assert [each.state for each in list_subscriptions(engine, NOW)] == ["ordered"]
    assert load_held(engine, VAULT.unseal) == {}
    period = Period(MONTH.start, MONTH.end)
    told = Subscription("s1", PLAN, "active", period, next=Due(MONTH.end, 9))
    with writer(engine).begin() as connection:
        before = held_version(connection)
        change_row(connection, made, standing_values(told, 0, NOW))
        assert change_order(connection, order_id, {"state": OrderState.DONE.value})
        assert not change_order(connection, order_id, {"tries": 7})
        note(connection, made, "subscribed", "Subscribed.", NOW, 3)
        assert held_version(connection) != before
    assert load_held(engine, VAULT.unseal)["lst"].secret.startswith(b"fbs_")
    view = live_subscriptions(engine, NOW)[0]
    assert (view.state, view.next_billing_at, view.next_price_atoms) == ("active", MONTH.end, 9)
    assert [each.kind for each in view.changes] == ["subscribed", "ordered"]
    first = ordering.renewal(SYSTEM, made, 9, NOW, MONTH.end)
    assert ordering.renewal(SYSTEM, made, 8, NOW, MONTH.end) == first
    orders = read_subscription(engine, made, NOW).orders
    assert sorted((each.kind.value, each.most_atoms) for each in orders) == [
        ("renewal", 8),
        ("subscribe", 3),
    ]
    with pytest.raises(NotPossibleNow):  # while that is under way
        ordering.upgrade(SYSTEM, made, "max", 5, NOW)


def test_of_upgrades_that_are_wished_at_once_one_is_ordered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordering = Ordering(engine, VAULT)
    made, order_id = ordering.subscription(SYSTEM, OFFER, PLAN, Agreed(3, 9), NOW)
    told = Subscription("s1", PLAN, "active", Period(MONTH.start, MONTH.end))
    with writer(engine).begin() as connection:
        change_order(connection, order_id, {"state": OrderState.DONE.value})
        change_row(connection, made, standing_values(told, 0, NOW))
    written, together = ordering_rules.record, Barrier(2)

    def record_together(*args: Any, **options: Any) -> None:
        with suppress(BrokenBarrierError):
            together.wait(1)
        written(*args, **options)

    monkeypatch.setattr(ordering_rules, "record", record_together)
    with ThreadPoolExecutor() as pool:
        wishes = [pool.submit(ordering.upgrade, SYSTEM, made, "max", 5, NOW) for _ in range(2)]
        refused = [wish.exception() for wish in wishes]
    assert sum(isinstance(each, NotPossibleNow) for each in refused) == 1
    orders = read_subscription(engine, made, NOW).orders
    assert sorted(each.kind.value for each in orders) == ["subscribe", "upgrade"]


def test_an_order_that_fails_here_is_not_signed_for_by_another_process_meanwhile(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be paid, and its subscription be one that nobody uses."""
    made, order_id = Ordering(engine, VAULT).subscription(SYSTEM, OFFER, PLAN, Agreed(3, 9), NOW)
    read_paid, signed = orders.read_paid, list[int]()

    def sign() -> None:
        with writer(open_engine(engine.url.render_as_string(False))).begin() as other:
            done = other.execute(orders._STILL_WANTED, {"id": order_id})
            signed.append(done.rowcount)

    signing = Thread(target=sign)

    def read_then_sign(*args: Any) -> Any:
        found = read_paid(*args)
        signing.start()
        signing.join(1)
        return found

    monkeypatch.setattr(orders, "read_paid", read_then_sign)
    line: Any = None
    carried = orders.Orders(engine, line, VAULT.unseal, time.time)
    told = Told(502, code="seller_unreachable", answered=False)
    outcome = carried._write(order_id, told, None, False)
    signing.join()
    assert (outcome.state, signed) == (OrderState.FAILED, [0])
    assert read_subscription(engine, made, NOW).state == "failed"
