"""Paid serving stops when the wallet runs low, goes on when it does not, and says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from catalog.drafts import Draft, slug_of
from catalog.editing import add_listing
from finance.money import Usdc
from finance.thresholds import Standing
from node.accounts.audit import Actor
from node.alerts.alerts import Alerts
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.preferences import change_preference
from node.treasury import guard as guarding
from node.treasury.choices import Thresholds
from node.treasury.guard import Guard, Seen

ANN = Actor("u1", "Ann")
LOW, MARGIN, PLENTY = 1000, 1199, 1200


class Wallet:
    """What the guard sees; `gas` None is a chain that does not answer."""

    def __init__(self, gas: int | None = PLENTY) -> None:
        self.gas = gas

    def seen(self, _now: float) -> Seen:
        return Seen(None if self.gas is None else 0, self.gas)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    chosen = Thresholds(low_gas_wei=LOW, margin_percent=20)
    change_preference(engine, chosen, ANN, 1)
    yield engine
    engine.dispose()


def sell(engine: Engine) -> None:
    draft = Draft("Weather", slug_of("Weather"), "http://up.example", price=Usdc(1000))
    with writer(engine).begin() as connection:
        add_listing(connection, draft, lambda _: "", int(time.time()))


def rows(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def events(engine: Engine) -> list[object]:
    return [row[0] for row in rows(engine, "SELECT type FROM event ORDER BY id")]


def open_incidents(engine: Engine) -> set[object]:
    query = "SELECT rule FROM notification WHERE resolved_at IS NULL"
    return {row[0] for row in rows(engine, query)}


def look(guard: Guard, wallet: Wallet, *balances: int | None) -> list[bool]:
    """Whether serving is paused after each of these balances."""
    found = []
    for balance in balances:
        wallet.gas = balance
        asyncio.run(guard.look())
        found.append(guard.paused())
    return found


def test_a_balance_around_the_threshold_pauses_once(engine: Engine) -> None:
    sell(engine)
    wallet = Wallet()
    guard = Guard(engine, Alerts(engine), wallet.seen)
    swinging = (LOW, LOW - 1, LOW, LOW - 1, MARGIN, LOW + 1, LOW - 1)
    assert look(guard, wallet, *swinging) == [False] + 6 * [True]
    assert events(engine) == ["low_gas", "auto_pause"]
    assert open_incidents(engine) == {"low_gas", "auto_pause"}
    assert look(guard, wallet, PLENTY, LOW) == [False, False]
    assert events(engine)[2:] == ["low_gas_resolved", "auto_pause_resolved"]
    assert open_incidents(engine) == set()
    assert len(rows(engine, "SELECT id FROM notification")) == 2


def test_a_chain_that_does_not_answer_neither_pauses_nor_resumes(engine: Engine) -> None:
    sell(engine)
    wallet = Wallet()
    guard = Guard(engine, Alerts(engine), wallet.seen)
    assert look(guard, wallet, None, PLENTY, None) == [False, False, False]
    assert look(guard, wallet, LOW - 1, None, None) == [True, True, True]


def test_a_pause_outlives_a_restart_and_its_incident_ends(engine: Engine) -> None:
    sell(engine)
    wallet = Wallet()
    look(Guard(engine, Alerts(engine), wallet.seen), wallet, LOW - 1)
    again = Guard(engine, Alerts(engine), wallet.seen)
    asyncio.run(again.reload())
    assert again.paused() and not again.paused_by_hand()
    assert look(again, wallet, None, MARGIN, PLENTY) == [True, True, False]
    assert open_incidents(engine) == set()


def test_a_pause_by_hand_stays_until_it_is_ended_by_hand(engine: Engine) -> None:
    sell(engine)
    wallet = Wallet()
    guard = Guard(engine, Alerts(engine), wallet.seen)
    asyncio.run(guard.pause(ANN, 50))
    assert look(guard, wallet, PLENTY, LOW - 1, PLENTY) == [True, True, True]
    other = Guard(engine, Alerts(engine), wallet.seen)
    asyncio.run(other.reload())
    assert other.paused() and other.paused_by_hand()
    asyncio.run(other.resume(ANN, 60))
    asyncio.run(guard.reload())
    assert not guard.paused() and not guard.paused_by_hand()
    trail = "SELECT actor_name FROM audit_entry WHERE subject = 'serving' AND actor_name = 'Ann'"
    assert len(rows(engine, trail)) == 2
    assert {"serving_paused", "serving_resumed"} <= set(events(engine))


def test_a_pause_by_hand_outlives_a_look_at_the_same_moment(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has read what holds, another pauses, and the first writes what it has found."""
    sell(engine)
    looking = Guard(engine, Alerts(engine), Wallet(0).seen)
    by_hand = Guard(engine, Alerts(engine), Wallet(0).seen)
    about_to_write, paused, observe = threading.Event(), threading.Event(), guarding.observe

    def observe_slowly(*seen: Any) -> Standing:
        after = observe(*seen)
        looks.append(after)
        if len(looks) == 2:  # the first time it only asks whether there is something to write
            about_to_write.set()
            paused.wait(0.5)
        return after

    looks: list[Standing] = []
    monkeypatch.setattr(guarding, "observe", observe_slowly)
    with ThreadPoolExecutor(1) as pool:
        look_once = pool.submit(guarding._observe, engine, looking._seen(0), 5)
        assert about_to_write.wait(10)
        asyncio.run(by_hand.pause(ANN, 6))
        paused.set()
        look_once.result()
    asyncio.run(looking.reload())
    assert (looking.standing.low_gas, looking.standing.hand_paused_at) == (True, 6)


def test_resumed_by_hand_while_low_holds_until_the_wallet_has_recovered(engine: Engine) -> None:
    sell(engine)
    wallet = Wallet()
    guard = Guard(engine, Alerts(engine), wallet.seen)
    assert look(guard, wallet, LOW - 1) == [True]
    asyncio.run(guard.resume(ANN, 60))
    assert look(guard, wallet, LOW - 2, LOW - 1) == [False, False]
    assert open_incidents(engine) == {"low_gas"}
    assert look(guard, wallet, PLENTY, LOW - 1) == [False, True]


def test_who_sells_nothing_needs_no_gas(engine: Engine) -> None:
    wallet = Wallet(0)
    guard = Guard(engine, Alerts(engine), wallet.seen)
    assert look(guard, wallet, 0) == [False]
    assert events(engine) == [] and open_incidents(engine) == set()


def test_without_auto_pause_a_low_wallet_is_only_told(engine: Engine) -> None:
    sell(engine)
    change_preference(engine, Thresholds(low_gas_wei=LOW, auto_pause=False), ANN, 2)
    wallet = Wallet()
    guard = Guard(engine, Alerts(engine), wallet.seen)
    assert look(guard, wallet, LOW - 1) == [False]
    assert open_incidents(engine) == {"low_gas"}


def test_a_low_wallet_that_was_called_resolved_by_hand_is_told_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell(engine)
    wallet, alerts = Wallet(), Alerts(engine)
    guard = Guard(engine, alerts, wallet.seen)
    look(guard, wallet, LOW - 1)
    told = [int(str(row[0])) for row in rows(engine, "SELECT id FROM notification")]
    asyncio.run(alerts.resolve_by_hand(told, ANN))
    assert open_incidents(engine) == set()
    monkeypatch.setattr(guarding, "TOLD_SECONDS", 0.0)
    assert look(guard, wallet, LOW - 1) == [True]
    assert open_incidents(engine) == {"low_gas", "auto_pause"}


def test_what_another_process_told_before_it_was_gone_ends_with_the_next_good_balance(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sell(engine)
    wallet = Wallet()
    gone, going_on = (Guard(engine, Alerts(engine), wallet.seen) for _ in range(2))
    look(going_on, wallet, PLENTY)
    look(gone, wallet, LOW - 1)
    assert open_incidents(engine) == {"low_gas", "auto_pause"}
    monkeypatch.setattr(guarding, "TOLD_SECONDS", 0.0)
    assert look(going_on, wallet, PLENTY) == [False]
    assert open_incidents(engine) == set()
