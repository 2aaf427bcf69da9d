"""Sellers' invoices: kept where this node paid what they bill.

A seller writes what it likes. An invoice is taken over when it says who was paid and how
much as the proxy's books do, and as often as they do: whatever else is sent cannot fill the
list, change its sums, or take the number of another seller's invoice.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select
from sqlmodel import col

from catalog.models import Listing
from finance.errors import PaymentMalformed
from finance.models import Purchase, PurchaseState
from finance.x402.text import parse_address, to_hex
from finance.x402.values import ExactPayment
from finance.x402.wire import decode_payment
from node.plans.buying.models import BoughtOrder
from node.plans.buying.ports import ORDER_KEY
from node.plans.buying.shapes import Invoice as ToldInvoice
from node.plans.buying.shapes import Subscription
from node.plans.models import Invoice, InvoiceSide

_MAX_HEADER_BYTES: Final = 1 << 20
_log = logging.getLogger(__name__)


def take_over(
    connection: Connection, row: Row[Any], told: Subscription, chain_id: int, now: int
) -> None:
    """Write the invoices that are not here yet, each once (blocking)."""
    if not told.invoices:
        return
    paid = Counter(_payments(connection, row.id))
    known: set[tuple[str, str]] = set()
    for invoice in _known(connection, {seller for seller, _ in paid}):
        known.add((invoice.seller, invoice.number))
        if invoice.subscription_id == told.id:
            paid[invoice.seller, invoice.amount_atoms] -= 1
    name = connection.scalar(select(col(Listing.name)).where(col(Listing.id) == row.listing_id))
    for each in told.invoices:
        seller = _address(each.seller)
        if (seller, each.number) in known:
            continue
        if paid[seller, each.amount_atoms] <= 0:
            _log.info("invoice %r of subscription %s is of no payment here", each.number, row.id)
            continue
        paid[seller, each.amount_atoms] -= 1
        known.add((seller, each.number))
        values = _values(each, seller, told, chain_id, now)
        values |= {"listing_id": row.listing_id, "listing_name": name or row.base_url}
        connection.execute(insert(Invoice), values)


def _payments(connection: Connection, subscription_id: str) -> Iterator[tuple[str, int]]:
    """Who was paid for a subscription, and how many atoms."""
    statement = (
        select(col(Purchase.payment_header), col(Purchase.charged_atoms))
        .join(BoughtOrder, col(BoughtOrder.id) == col(Purchase.idempotency_key))
        .where(
            col(Purchase.key_id) == ORDER_KEY,
            col(Purchase.state) == PurchaseState.PAID,
            col(BoughtOrder.subscription_id) == subscription_id,
        )
    )
    for header, atoms in connection.execute(statement):
        try:
            payment = decode_payment(header, _MAX_HEADER_BYTES).payload
        except PaymentMalformed:
            continue  # of another version; its invoice is missed, nothing else
        if isinstance(payment, ExactPayment):
            yield to_hex(payment.authorization.to), atoms
        else:
            yield to_hex(payment.config.receiver), atoms


def _known(connection: Connection, sellers: Iterable[str]) -> Sequence[Row[Any]]:
    """What is here of these sellers, whichever subscription it is of."""
    columns: tuple[Any, ...] = (
        Invoice.seller,
        Invoice.number,
        Invoice.subscription_id,
        Invoice.amount_atoms,
    )
    statement = select(*(col(each) for each in columns)).where(
        col(Invoice.side) == InvoiceSide.BOUGHT, col(Invoice.seller).in_(list(sellers))
    )
    rows: Sequence[Row[Any]] = connection.execute(statement).all()
    return rows


def _address(text: str) -> str:
    """In one spelling; empty for what is none."""
    try:
        return to_hex(parse_address(text))
    except ValueError:
        return ""


def _values(
    invoice: ToldInvoice, seller: str, told: Subscription, chain_id: int, now: int
) -> dict[str, Any]:
    lines = [{"text": line.text, "amount_atoms": line.amount_atoms} for line in invoice.lines]
    return {
        "side": InvoiceSide.BOUGHT.value,
        "number": invoice.number,
        "subscription_id": told.id,
        "plan_name": invoice.plan or told.plan.name,
        "seller": seller,
        "buyer": invoice.buyer,
        "buyer_name": "",
        "buyer_email": "",
        "period_start": invoice.period_start,
        "period_end": invoice.period_end,
        "lines": json.dumps(lines),
        "amount_atoms": invoice.amount_atoms,
        "chain_id": chain_id,
        "tx_hash": invoice.tx_hash or "",
        "paid_at": min(invoice.issued_at or now, now),
    }
