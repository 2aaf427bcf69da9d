"""Writes an invoice for every period whose money has arrived, once.

Called when a settlement ended, at the start and now and then: it finds what has no invoice
yet, so nothing is forgotten by a crash. Numbers follow each other without a gap.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from catalog.models import Listing
from finance.models import OnchainPayment, PaymentState
from finance.money import Usdc
from node.db.engine import writer
from node.durations import DAY
from node.plans.models import Invoice, InvoiceSide, Subscription, SubscriptionPeriod
from node.plans.terms import Kind, share_of
from node.usage.events import event
from node.usage.windows import window_of

_log = logging.getLogger(__name__)


class Clerk:
    """Issues invoices; blocking, one at a time in a database."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine, self._clock = engine, clock

    def issue(self) -> int:
        """Write those that are due; how many."""
        if not self._is_due():
            return 0
        for _ in range(3):
            try:
                with writer(self._engine).begin() as connection:
                    return _issue(connection, int(self._clock()))
            except IntegrityError:
                # PostgreSQL: another process took the same number; it is done, or comes next.
                _log.info("invoices are being written by another process")
        return 0

    def _is_due(self) -> bool:
        with self._engine.connect() as connection:
            asked = (_DUE.limit(1), _MOVED.limit(1))
            return any(connection.execute(each).first() is not None for each in asked)


def invoice_number(sequence: int, at: int) -> str:
    """FB-2026-000001."""
    return f"FB-{datetime.fromtimestamp(at, UTC).year}-{sequence:06d}"


def line_text(kind: Kind, plan_name: str, ordered_at: int, starts_at: int, ends_at: int) -> str:
    """What an invoice's line says: `Pro, 10 of 30 days of November 2026`."""
    month = window_of(starts_at)
    name = datetime.fromtimestamp(month.start, UTC).strftime("%B %Y")
    days = (month.end - month.start) // DAY
    share = share_of(ordered_at) if starts_at == ordered_at else None
    what = name if share is None or share.left == days else f"{share.left} of {days} days of {name}"
    prefix = "Upgrade to " if kind is Kind.UPGRADE else ""
    assert ends_at == month.end
    return f"{prefix}{plan_name}, {what}"


def _issue(connection: Connection, now: int) -> int:
    last = connection.scalar(select(func.max(col(Invoice.sequence)))) or 0
    due = connection.execute(_DUE.order_by(_ORDERED_AT, _PERIOD.c.payment_id)).all()
    for sequence, row in enumerate(due, last + 1):
        connection.execute(_INSERT, _invoice(row, sequence))
        event("plan_paid", "info", _told(row), now).make(connection)
    _correct(connection)
    return len(due)


def _correct(connection: Connection) -> None:
    """A payment that was carried by another transaction in the end, after a reorganisation."""
    now_in = (
        select(col(OnchainPayment.tx_hash))
        .where(col(OnchainPayment.id) == col(Invoice.payment_id))
        .scalar_subquery()
    )
    connection.execute(update(Invoice).where(col(Invoice.id).in_(_MOVED)).values(tx_hash=now_in))


def _invoice(row: Any, sequence: int) -> dict[str, Any]:
    text = line_text(Kind(row.kind), row.plan_name, row.ordered_at, row.starts_at, row.ends_at)
    return {
        "side": InvoiceSide.SOLD,
        "number": invoice_number(sequence, row.updated_at),
        "sequence": sequence,
        "payment_id": row.payment_id,
        "subscription_id": row.subscription_id,
        "listing_id": row.listing_id,
        "listing_name": row.listing_name or "",
        "plan_name": row.plan_name,
        "seller": row.pay_to,
        "buyer": row.payer,
        "buyer_name": row.name,
        "buyer_email": row.email,
        "period_start": row.starts_at,
        "period_end": row.ends_at,
        "lines": json.dumps([{"text": text, "amount_atoms": row.price_atoms}]),
        "amount_atoms": row.price_atoms,
        "chain_id": row.chain_id,
        "tx_hash": row.tx_hash or "",
        "paid_at": row.updated_at,
    }


def _told(row: Any) -> str:
    listing = row.listing_name or "a listing"
    return f"{Usdc(row.price_atoms)} USDC were paid for the plan {row.plan_name} of {listing}."


_INSERT: Final = insert(Invoice)
_PERIOD: Final[Any] = SubscriptionPeriod.__table__  # type: ignore[attr-defined]
_ORDERED_AT: Final = col(OnchainPayment.updated_at)
_DUE: Final[Any] = (
    select(
        _PERIOD,
        col(Subscription.listing_id),
        col(Subscription.name),
        col(Subscription.email),
        col(Listing.name).label("listing_name"),
        col(OnchainPayment.payer),
        col(OnchainPayment.pay_to),
        col(OnchainPayment.chain_id),
        col(OnchainPayment.tx_hash),
        col(OnchainPayment.updated_at),
    )
    .select_from(_PERIOD)
    .join(Subscription, col(Subscription.id) == _PERIOD.c.subscription_id)
    .join(OnchainPayment, col(OnchainPayment.id) == _PERIOD.c.payment_id)
    .outerjoin(Listing, col(Listing.id) == col(Subscription.listing_id))
    .where(
        col(OnchainPayment.state) == PaymentState.CONFIRMED,
        ~select(col(Invoice.id)).where(col(Invoice.payment_id) == _PERIOD.c.payment_id).exists(),
    )
)
_MOVED: Final[Any] = (
    select(col(Invoice.id))
    .join(OnchainPayment, col(OnchainPayment.id) == col(Invoice.payment_id))
    .where(
        col(OnchainPayment.state) == PaymentState.CONFIRMED,
        col(OnchainPayment.tx_hash) != col(Invoice.tx_hash),
    )
)
