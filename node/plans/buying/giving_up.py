"""Giving an order up: the end of one whose answer never comes, safe for the money.

It is wished first. From then on the order is not sent any more, and nothing is signed for
one that was being sent: the intent to pay is only written while the order is open. It is given
up once nothing that was signed can be charged any more: it was charged already, or the proxy's
books exclude it, which for an `exact` payment means that its authorization has expired and the
chain shows it unused (see finance.buying.recovery).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select
from sqlmodel import col

from finance.buying.onchain import EXPIRED_SECONDS
from finance.buying.purchase import call_of
from finance.errors import PaymentMalformed
from finance.models import BuyerChannel, ChannelState, Purchase, PurchaseState
from finance.money import Usdc
from finance.x402.values import ExactPayment
from finance.x402.wire import decode_payment
from node.accounts.audit import SYSTEM, Actor, record
from node.db.engine import writer
from node.plans.buying.errors import NotPossibleNow
from node.plans.buying.models import BoughtState, OrderKind, OrderState
from node.plans.buying.ports import ORDER_KEY
from node.plans.buying.rows import change_order, change_row, log, note, open_orders, read_row

_MAX_HEADER_BYTES: Final = 1 << 20
_OPEN: Final = (PurchaseState.INTENT, PurchaseState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of an order's signature. `waits` says why it may still be charged, and until
    when; empty: it cannot be."""

    waits: str = ""
    charged_atoms: int = 0
    call_id: str = ""
    tx_hash: str = ""


def wish(engine: Engine, actor: Actor, subscription_id: str, now: int) -> str:
    """Have the order that is under way given up; its id (blocking). The running node does it.
    Raises SubscriptionUnknown, NotPossibleNow."""
    with writer(engine).begin() as connection:
        row = read_row(connection, subscription_id)
        orders = open_orders(connection, row.id)
        if not orders:
            raise NotPossibleNow("Nothing is under way for it that could be given up.")
        order = orders[0]
        if order.state != OrderState.GIVING_UP:
            giving_up = {"state": OrderState.GIVING_UP.value, "detail": ""}
            change_order(connection, order.id, {**giving_up, "next_try_at": 0})
            text = f"The {order.kind} is to be given up; nothing more is sent for it."
            note(connection, row.id, "give_up", text, now, by=actor.name)
            asked = {"order": order.id, "kind": order.kind}
            record(connection, actor, "subscription.give_up", row.id, now, after=asked)
        return str(order.id)


def give_up(connection: Connection, order: Row[Any], now: int) -> tuple[OrderState, str, int]:
    """End an order that is to be given up, if that is safe by now: its state, a sentence, and
    what was charged (atoms)."""
    signed = read_signed(connection, order.id, now)
    if signed.waits:
        change_order(connection, order.id, {"detail": signed.waits})
        return OrderState.GIVING_UP, signed.waits, 0
    atoms = signed.charged_atoms
    text = f"The {order.kind} was given up. Nothing was charged, and nothing can be any more."
    if atoms:
        text = f"The {order.kind} was given up. {Usdc(atoms)} USDC were charged for it, and the"
        text += " seller’s answer never came; ask the seller, the transaction is the proof."
    ended = {"state": OrderState.GIVEN_UP.value, "detail": text, "error": "given_up"}
    booked = {"charged_atoms": atoms, "call_id": signed.call_id, "tx_hash": signed.tx_hash}
    change_order(connection, order.id, {**ended, **booked, "done_at": now})
    row = read_row(connection, order.subscription_id)
    if order.kind == OrderKind.SUBSCRIBE:
        change_row(connection, row.id, {"state": BoughtState.FAILED.value, "ended_at": now})
    if order.kind == OrderKind.SUBSCRIBE or row.ended_at:
        change_row(connection, row.id, {"open_for": None})
    note(connection, row.id, "given_up", text, now, atoms)
    log(connection, "plan_given_up", "warning", text, now)
    told = {"order": order.id, "charged_atoms": atoms}
    record(connection, SYSTEM, "subscription.given_up", row.id, now, after=told)
    return OrderState.GIVEN_UP, text, atoms


def read_signed(connection: Connection, order_id: str, now: int) -> Signed:
    """What the books say of an order's newest payment, which has its Idempotency-Key."""
    row = connection.execute(
        select(Purchase.__table__).where(  # type: ignore[attr-defined]
            col(Purchase.key_id) == ORDER_KEY, col(Purchase.idempotency_key) == order_id
        )
    ).first()
    if row is None:
        return Signed()
    if row.state == PurchaseState.PAID:
        return Signed("", row.charged_atoms, call_of(row.call_id), row.tx_hash or "")
    if row.channel_id is not None:
        return Signed(_voucher_waits(connection, row))
    return Signed(_authorization_waits(row, now) if row.state in _OPEN else "")


def _authorization_waits(row: Row[Any], now: int) -> str:
    chain = "the chain is asked whether it was charged. Nothing more is sent for it."
    try:
        payload = decode_payment(row.payment_header, _MAX_HEADER_BYTES).payload
    except PaymentMalformed:
        payload = None
    if not isinstance(payload, ExactPayment):
        return f"What was signed cannot be read here; {chain}"
    until = payload.authorization.valid_before + EXPIRED_SECONDS
    if now > until:
        return f"What was signed has expired; {chain}"
    at = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"What was signed may be charged until {at}; then {chain}"


def _voucher_waits(connection: Connection, row: Row[Any]) -> str:
    """A voucher is good until its channel is past it, or closed."""
    found = select(col(BuyerChannel.state), col(BuyerChannel.charged_atoms))
    channel = connection.execute(found.where(col(BuyerChannel.channel_id) == row.channel_id)).one()
    if channel.state == ChannelState.CLOSED or channel.charged_atoms >= row.cumulative_atoms:
        return ""
    return (
        "What was signed is a voucher, which may be charged until its payment channel is closed"
        " or paid a later call: close it in Finance. Nothing more is sent for the order."
    )
