"""Carrying an order out, and what its outcome means.

The proxy pays, under the order's id, and its books say what may have been charged: while
they do not exclude it, the order stays open and is asked for again under the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, text
from sqlmodel import col

from finance.buying.purchase import call_of
from finance.models import Purchase, PurchaseState
from finance.money import Usdc
from finance.store import Write
from node.accounts.audit import SYSTEM, record
from node.db.engine import writer
from node.plans.buying.errors import SellerSaysNo
from node.plans.buying.giving_up import give_up
from node.plans.buying.models import UNDER_WAY, BoughtState, OrderKind, OrderState
from node.plans.buying.ports import ORDER_KEY, Line, PlacedOrder, Told
from node.plans.buying.read import plan_in
from node.plans.buying.rows import (
    change_order,
    change_row,
    log,
    note,
    place_of,
    read_order,
    read_row,
    standing_values,
)
from node.plans.buying.shapes import Subscription, read_subscription
from node.plans.buying.states import RETRY_SECONDS

RUNNING: Final = "order_running"
_log = logging.getLogger(__name__)
# Made durable with the intent to pay: whoever wishes to give the order up comes before it, or
# sees that it may be charged.
_STILL_WANTED: Final = text(
    "UPDATE bought_order SET state = state WHERE id = :id AND state = 'open'"
)
# Nothing of them is said about the order itself: it is tried again.
_PASSING: Final = frozenset(
    (
        "seller_unreachable",
        "seller_timeout",
        "chain_unavailable",
        "store_unavailable",
        "idempotency_in_flight",
        "internal_error",
        "order_pending",
    )
)
_SOON_SECONDS: Final = 15
_PATIENCE_SECONDS: Final = 3600
_DONE: Final = {
    OrderKind.SUBSCRIBE: ("subscribed", "Subscribed to the plan {plan} for {price} USDC."),
    OrderKind.RENEWAL: ("renewed", "Renewed the plan {plan} for {price} USDC."),
    OrderKind.UPGRADE: ("upgraded", "Upgraded to the plan {plan} for {price} USDC."),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order; `code` and `detail` say why it is not done."""

    state: OrderState
    code: str = ""
    detail: str = ""
    charged_atoms: int = 0


@dataclass(frozen=True, slots=True)
class _Paid:
    """What the books say of an order's payment. `possible`: it was, or may still be, charged."""

    possible: bool
    charged_atoms: int = 0
    call_id: str = ""
    tx_hash: str = ""


class Orders:
    """Carries orders out, each by one at a time. One per process."""

    def __init__(
        self,
        engine: Engine,
        line: Line,
        unseal: Callable[[str], bytes],
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._line, self._unseal, self._clock = engine, line, unseal, clock
        self._running: set[str] = set()

    async def carry_out(self, order_id: str, patient: bool = False) -> Outcome:
        """Send it, and write down what came of it. `patient`: nobody waits for it, so what
        passes by itself is waited for. Raises SubscriptionUnknown."""
        if order_id in self._running:
            return Outcome(OrderState.OPEN, RUNNING, "It is being carried out.")
        self._running.add(order_id)
        try:
            return await self._carry_out(order_id, patient)
        finally:
            self._running.discard(order_id)

    async def _carry_out(self, order_id: str, patient: bool) -> Outcome:
        order, row = await asyncio.to_thread(self._read, order_id)
        if order.state != OrderState.OPEN:
            return Outcome(OrderState(order.state), order.error, order.detail, order.charged_atoms)
        secret = None if order.kind == OrderKind.SUBSCRIBE else self._unseal(row.secret_sealed)
        body = order.body.encode()
        wanted = Write(_STILL_WANTED, {"id": order.id})
        placed = PlacedOrder(
            place_of(row), order.path, body, order.id, order.most_atoms, secret, wanted
        )
        told = await self._line.place(placed)
        try:
            standing = read_subscription(told.body) if told.good else None
        except SellerSaysNo as error:
            told, standing = Told(502, code="answer_unreadable", detail=str(error)), None
        return await asyncio.to_thread(self._write, order_id, told, standing, patient)

    async def give_up(self, order_id: str) -> Outcome:
        """End an order that is to be given up, if that is safe by now. One that is being sent
        just now, here or by another process, is not signed any more. Raises
        SubscriptionUnknown."""
        return await asyncio.to_thread(self._give_up, order_id)

    def _give_up(self, order_id: str) -> Outcome:
        with writer(self._engine).begin() as connection:
            order = read_order(connection, order_id)
            if order.state != OrderState.GIVING_UP:
                state = OrderState(order.state)
                return Outcome(state, order.error, order.detail, order.charged_atoms)
            state, detail, atoms = give_up(connection, order, int(self._clock()))
            return Outcome(state, state.value, detail, atoms)

    def _read(self, order_id: str) -> tuple[Row[Any], Row[Any]]:
        with self._engine.connect() as connection:
            order = read_order(connection, order_id)
            return order, read_row(connection, order.subscription_id)

    def _write(
        self, order_id: str, told: Told, standing: Subscription | None, patient: bool
    ) -> Outcome:
        now = int(self._clock())
        with writer(self._engine).begin() as connection:
            # Held before the books are read: another process may be about to sign for it.
            order = read_order(connection, order_id, hold=True)
            if order.state not in UNDER_WAY:
                return Outcome(OrderState(order.state), order.error, order.detail)
            paid = read_paid(connection, order_id)
            if standing is not None:
                return _finish(connection, order, standing, paid, now)
            if order.state == OrderState.GIVING_UP:
                return Outcome(OrderState.GIVING_UP, "giving_up", order.detail)
            if _goes_on(order, told, paid, patient, now):
                return _keep_open(connection, order, told, now)
            return _fail(connection, order, told, now)


def read_paid(connection: Connection, order_id: str) -> _Paid:
    """What the books say. An order's newest payment has its Idempotency-Key."""
    row = connection.execute(
        select(
            col(Purchase.state),
            col(Purchase.charged_atoms),
            col(Purchase.call_id),
            col(Purchase.tx_hash),
        ).where(col(Purchase.key_id) == ORDER_KEY, col(Purchase.idempotency_key) == order_id)
    ).first()
    if row is None:
        return _Paid(False)
    state, charged, call_id, tx_hash = row
    possible = state in (PurchaseState.INTENT, PurchaseState.UNKNOWN, PurchaseState.PAID)
    return _Paid(possible, charged, call_of(call_id), tx_hash or "")


def _goes_on(order: Row[Any], told: Told, paid: _Paid, patient: bool, now: int) -> bool:
    if paid.possible:
        return True
    passing = told.code in _PASSING and now - order.created_at < _PATIENCE_SECONDS
    return told.code == "idempotency_in_flight" or (patient and passing)


def _finish(
    connection: Connection, order: Row[Any], told: Subscription, paid: _Paid, now: int
) -> Outcome:
    """The seller's answer has it: order and subscription in one transaction."""
    row = read_row(connection, order.subscription_id)
    values = standing_values(told, row.paid_until, now)
    if values["state"] != BoughtState.LAPSED:
        values |= {"open_for": row.listing_id, "ended_at": 0}
    done = {
        "state": OrderState.DONE.value,
        "charged_atoms": paid.charged_atoms,
        "call_id": paid.call_id,
        "tx_hash": paid.tx_hash,
        "error": "",
        "detail": "",
        "tries": order.tries + 1,
        "done_at": now,
    }
    change_order(connection, order.id, done)
    change_row(connection, row.id, values)
    kind, sentence = _DONE[OrderKind(order.kind)]
    text = sentence.format(plan=told.plan.name, price=Usdc(paid.charged_atoms))
    note(connection, row.id, kind, text, now, paid.charged_atoms)
    log(connection, f"plan_{kind}", "info", text, now)
    after = {"plan": told.plan.id, "charged_atoms": paid.charged_atoms, "order": order.id}
    record(connection, SYSTEM, f"subscription.{kind}", row.id, now, after=after)
    return Outcome(OrderState.DONE, charged_atoms=paid.charged_atoms)


def _keep_open(connection: Connection, order: Row[Any], told: Told, now: int) -> Outcome:
    """It may have been charged, or nothing was said about it yet."""
    wait = min(_SOON_SECONDS << min(order.tries, 10), RETRY_SECONDS)
    tried = {"error": told.code, "detail": told.detail, "tries": order.tries + 1}
    change_order(connection, order.id, {**tried, "next_try_at": now + wait})
    _log.info("order %s stays open: %s %s", order.id, told.code, told.detail)
    return Outcome(OrderState.OPEN, told.code, told.detail)


def _fail(connection: Connection, order: Row[Any], told: Told, now: int) -> Outcome:
    """Nothing was charged, and nothing will be. A renewal is ordered again later."""
    failed = {"error": told.code, "detail": told.detail, "tries": order.tries + 1, "done_at": now}
    failed |= {"state": OrderState.FAILED.value, "next_try_at": now + RETRY_SECONDS}
    change_order(connection, order.id, failed)
    row = read_row(connection, order.subscription_id)
    why = told.detail or told.code
    note(connection, row.id, f"{order.kind}_failed", f"Nothing was paid: {why}", now)
    if order.kind == OrderKind.SUBSCRIBE:
        ended = {"state": BoughtState.FAILED.value, "open_for": None, "ended_at": now}
        change_row(connection, row.id, ended)
        text = f"The plan {plan_in(row).name} was not bought, and nothing was paid: {why}"
        log(connection, "plan_not_bought", "warning", text[:500], now)
    elif row.ended_at:
        change_row(connection, row.id, {"open_for": None})
    return Outcome(OrderState.FAILED, told.code, told.detail)
