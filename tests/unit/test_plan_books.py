"""What customers order, as the database keeps it: on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from hashlib import sha256
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert, text

from catalog.models import Listing
from finance.errors import StoreConflict
from finance.models import OnchainPayment
from finance.networks import NETWORKS
from finance.store import Batch, Write
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.plans import orders
from node.plans.clerk import Clerk
from node.plans.customers import list_customers, read_customer, read_payer
from node.plans.gate import SubscriberGate
from node.plans.invoices import list_invoices
from node.plans.models import InvoiceSide
from node.plans.offered import add_plan, change_plan, choices
from node.plans.requests import grant, open_by_subscription, read_requests
from node.plans.subscribers import Offered, Subscriber, read_subscribers
from node.plans.terms import Kind, Standing, State, first_stretch, renewal_stretch
from node.usage.calls import CallRecord, new_call_id
from node.usage.models import Side
from node.usage.quotas import Meter, Quotas
from node.usage.set_aside import show_calls_of
from node.usage.windows import window_of

NOW = int(time.time())
LISTING, SUBSCRIPTION, PAYER = "lst_1", "sub_1", "0x" + "c4" * 20


class Books:
    """A seller's database with one plan."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.journal = engine, Journal(engine)
        listing = Listing(id=LISTING, slug="api", name="The API", base_url="http://127.0.0.1:9")
        row = {name: getattr(listing, name) for name in Listing.model_fields}
        with writer(engine).begin() as connection:
            connection.execute(insert(Listing).values(row))
        self.plan = self.offer("Pro", 3_000_000)

    def offer(self, name: str, price: int) -> Offered:
        chosen = choices(name, "", price, 1_000, None, None, "stop", 3)
        return add_plan(self.engine, LISTING, chosen, NOW, SYSTEM)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    def commit(self, *writes: Write) -> None:
        self.run(self.journal.commit(Batch(list(writes))))

    def pay(self, payment_id: str, state: str, chain_id: int = 1) -> None:
        names = [name for name, field in OnchainPayment.model_fields.items() if field.is_required()]
        row: dict[str, Any] = dict.fromkeys(names, "")
        numbers = ("chain_id", "valid_after", "valid_before")
        row |= dict.fromkeys(numbers, 1) | {"payer": PAYER, "pay_to": "0x5e", "tx_hash": "0xab"}
        row |= {
            "chain_id": chain_id,
            "id": payment_id,
            "nonce": payment_id,
            "state": state,
            "updated_at": NOW,
        }
        with writer(self.engine).begin() as connection:
            connection.execute(insert(OnchainPayment).values(row))

    def subscribe(self, payment_id: str | None, subscription_id: str = SUBSCRIPTION) -> None:
        stretch = first_stretch(self.plan.deal, NOW)
        of_customer = (PAYER, "f" * 64, "Kim", "", payment_id, NOW)
        self.commit(*orders.subscribe(subscription_id, self.plan, stretch, *of_customer))

    @property
    def subscriber(self) -> Subscriber:
        [found] = read_subscribers(self.engine, [SUBSCRIPTION])
        return found

    @property
    def standings(self) -> list[Standing]:
        return [each.standing(NOW) for each in read_subscribers(self.engine)]


@pytest.fixture
def books(database_url: str) -> Iterator[Books]:
    engine = open_engine(database_url)
    upgrade(engine)
    books = Books(engine)
    yield books
    books.journal.close()
    engine.dispose()


def test_a_period_counts_in_step_with_its_payment(books: Books) -> None:
    books.pay("p1", "owed")
    books.subscribe("p1")
    assert books.subscriber.pending and books.subscriber.settled == []
    assert Clerk(books.engine).issue() == 0
    set_state = text("UPDATE onchain_payment SET state = :state")
    for state, settled in (("sent", 0), ("confirmed", 1), ("sent", 0), ("confirmed", 1)):
        with writer(books.engine).begin() as connection:
            connection.execute(set_state, {"state": state})
        assert len(books.subscriber.settled) == settled
    assert (Clerk(books.engine).issue(), Clerk(books.engine).issue()) == (1, 0)
    page = list_invoices(books.engine, 1, InvoiceSide.SOLD, 1, 10)
    assert (page.total, page.amount_atoms) == (1, first_stretch(books.plan.deal, NOW).price_atoms)


def test_what_was_paid_on_another_network_serves_nobody_here(books: Books) -> None:
    """A month for money of a test network is none on the main one, and one again there."""
    test, main = NETWORKS["base-sepolia"], NETWORKS["base"]
    books.pay("p1", "confirmed", test.chain_id)
    books.subscribe("p1")
    for network, served in ((test, True), (main, False), (test, True)):
        show_calls_of(books.engine, network, NOW)
        assert [each.served for each in books.standings] == ([True] if served else [])
        assert len(list_customers(books.engine, NOW)) == int(served)


def test_of_two_orders_with_one_number_one_is_kept(books: Books) -> None:
    for payment_id in ("p1", "p2", "p3"):
        books.pay(payment_id, "confirmed")
    books.subscribe("p1")
    first = books.subscriber
    stretch = renewal_stretch(first.periods, None, books.plan.deal, NOW)
    renewal = (Kind.RENEWAL, books.plan, stretch)
    books.commit(*orders.order(first, *renewal, "p2", NOW, 2))
    with pytest.raises(StoreConflict):
        books.commit(*orders.order(first, *renewal, "p3", NOW, 2))
    with pytest.raises(StoreConflict):
        books.commit(*orders.order(first, *renewal, "p2", NOW, 3))
    books.commit(orders.cancel(first, NOW))
    with pytest.raises(StoreConflict):
        books.commit(*orders.order(first, *renewal, "p3", NOW, 3))
    assert books.subscriber.standing(NOW).state is State.CANCELLED
    assert Clerk(books.engine).issue() == 2


def test_a_key_whose_payment_failed_is_free_again_and_one_that_paid_is_not(books: Books) -> None:
    books.pay("p1", "failed")
    books.subscribe("p1")
    assert read_subscribers(books.engine) == []
    books.pay("p2", "confirmed")
    books.subscribe("p2", "sub_2")
    assert [each.id for each in read_subscribers(books.engine)] == ["sub_2"]
    books.pay("p3", "confirmed")
    with pytest.raises(StoreConflict):
        books.subscribe("p3", "sub_3")


def test_a_chosen_plan_is_void_once_a_later_period_is_paid(books: Books) -> None:
    books.pay("p1", "confirmed")
    books.subscribe("p1")
    small = books.offer("S", 1_000_000)
    books.commit(orders.choose(books.subscriber, small.id, NOW))
    assert books.subscriber.goes_on_with == small.id
    books.pay("p2", "owed")
    subscriber = books.subscriber
    stretch = renewal_stretch(subscriber.periods, None, small.deal, NOW)
    books.commit(*orders.order(subscriber, Kind.RENEWAL, small, stretch, "p2", NOW, 2))
    assert books.subscriber.goes_on_with == small.id  # as long as nothing has arrived
    with writer(books.engine).begin() as connection:
        connection.execute(text("UPDATE onchain_payment SET state = 'confirmed'"))
    assert books.subscriber.chosen_plan_id is None
    assert books.subscriber.goes_on_with == small.id
    assert books.subscriber.standing(NOW).plan_id == books.plan.id


def test_the_gate_follows_payments_rotations_and_overrides(books: Books) -> None:
    async def story() -> None:
        quotas, clerk = Quotas(books.engine), Clerk(books.engine)
        gate = SubscriberGate(books.journal, quotas, clerk.issue, lambda: float(NOW))
        await gate.load()
        old, new = b"old secret", b"new secret"
        books.pay("p1", "owed")
        stretch = first_stretch(books.plan.deal, NOW)
        hashed = sha256(old).hexdigest()
        of_customer = (PAYER, hashed, "Kim", "", "p1", NOW)
        made = orders.subscribe(SUBSCRIPTION, books.plan, stretch, *of_customer)
        await books.journal.commit(Batch(made))
        await gate.look()
        assert gate.find(old, LISTING) is None
        with writer(books.engine).begin() as connection:
            connection.execute(text("UPDATE onchain_payment SET state = 'confirmed'"))
        await gate.look()
        held = gate.find(old, LISTING)
        assert held is not None and gate.find(old, "another") is None
        assert held.limit(Meter.CALLS, NOW) == stretch.calls
        assert list_invoices(books.engine, 1, InvoiceSide.SOLD, 1, 10).total == 1
        asked = orders.ask(SUBSCRIPTION, "override", "calls", 9_000, NOW + 900, "More", NOW)
        await books.journal.commit(Batch([asked]))
        assert open_by_subscription(books.engine) == {SUBSCRIPTION: 1}
        request = read_requests(books.engine, SUBSCRIPTION)[0]
        grant(books.engine, request.id, 9_000, NOW + 900, "", NOW, SYSTEM)
        await gate.load()
        held = gate.find(old, LISTING)
        assert held is not None and held.limit(Meter.CALLS, NOW + 1) == 9_000
        rotated = orders.rotate(books.subscriber, sha256(new).hexdigest(), NOW)
        await books.journal.commit(Batch([rotated]))
        await gate.look()
        assert gate.find(old, LISTING) is None and gate.find(new, LISTING) is not None

    books.run(story())


def sold(books: Books, at: int, payer: str, atoms: int, route: str = "") -> None:
    """A call that `payer` paid for."""
    known = {"payer": payer, "scheme": "exact", "amount_atoms": atoms, "route": route}
    call_id = new_call_id(at * 1000)
    record = CallRecord(call_id, Side.SERVED, at * 1000, LISTING, "GET", "/", 200, 1, **known)
    books.run(books.journal.commit(Batch([record.write()], [record.increment()])))


def test_customers_are_counted_to_the_call_at_the_edge_of_the_month(books: Books) -> None:
    books.pay("p1", "confirmed")
    books.subscribe("p1")
    start = window_of(NOW).start
    sold(books, start - 1, PAYER, 7)
    sold(books, start, PAYER, 5)
    sold(books, start, f"sub:{SUBSCRIPTION}", 0)
    subscriber, payer_ = list_customers(books.engine, NOW)
    assert (subscriber.calls, subscriber.amount_atoms) == (1, 0)
    assert (payer_.id, payer_.calls, payer_.amount_atoms) == (PAYER, 1, 5)
    assert read_customer(books.engine, SUBSCRIPTION, NOW).customer == subscriber
    assert read_payer(books.engine, PAYER, NOW).customer == payer_


def test_what_a_plan_cost_is_no_call_of_its_payer_anywhere(books: Books) -> None:
    sold(books, NOW, PAYER, 5, "GET /x")
    sold(books, NOW, PAYER, 900, "POST /.farebox/plans/p")
    detail = read_payer(books.engine, PAYER, NOW)
    assert (detail.customer.calls, detail.customer.amount_atoms) == (1, 5)
    assert [(each.route, each.sums.calls) for each in detail.endpoints] == [("GET /x", 1)]


def test_customers_of_one_listing_are_not_those_of_another_of_the_same_name(books: Books) -> None:
    books.pay("p1", "confirmed")
    books.subscribe("p1")
    with writer(books.engine).begin() as connection:
        same = Listing(id="lst_2", slug="api-2", name="The API", base_url="http://127.0.0.1:9")
        connection.execute(insert(Listing), same.model_dump())
    assert [each.id for each in list_customers(books.engine, NOW, LISTING)] == [SUBSCRIPTION]
    assert list_customers(books.engine, NOW, "lst_2") == []
    with writer(books.engine).begin() as connection:
        connection.execute(delete(Listing))
    assert [each.id for each in list_customers(books.engine, NOW, LISTING)] == [SUBSCRIPTION]


def test_a_change_of_a_free_plan_holds_at_once_and_of_a_paid_one_later(books: Books) -> None:
    books.pay("p1", "confirmed")
    books.subscribe("p1")
    more = choices("Pro", "", 9_000_000, 5_000, None, None, "pay", 0)
    change_plan(books.engine, books.plan.id, more, NOW, SYSTEM)
    assert books.subscriber.standing(NOW).calls == first_stretch(books.plan.deal, NOW).calls
    free = books.offer("Free", 0)
    stretch = first_stretch(free.deal, NOW)
    made = orders.subscribe("sub_2", free, stretch, PAYER, "e" * 64, "", "", None, NOW)
    books.commit(*made)
    less = choices("Free", "", 0, 10, None, None, "stop", 0)
    change_plan(books.engine, free.id, less, NOW, SYSTEM)
    [found] = read_subscribers(books.engine, ["sub_2"])
    assert found.standing(window_of(NOW).end).calls == 10
    with pytest.raises(StoreConflict):  # one free plan for each payer
        books.commit(*orders.subscribe("sub_3", free, stretch, PAYER, "d" * 64, "", "", None, NOW))
