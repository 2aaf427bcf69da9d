"""Invoices of both sides, as they are shown (blocking)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, func, select, true, tuple_
from sqlmodel import col

from finance.chunks import CHUNK, in_chunks
from node.plans.errors import PlanUnknown
from node.plans.models import Invoice, InvoiceSide


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    amount_atoms: int


@dataclass(frozen=True, slots=True)
class InvoiceView:
    """One invoice. Amounts in USDC atoms, times in Unix seconds; `seller` and `buyer` are
    addresses."""

    id: int
    side: InvoiceSide
    number: str
    subscription_id: str
    listing_id: str
    listing_name: str
    plan_name: str
    seller: str
    buyer: str
    buyer_name: str
    buyer_email: str
    period_start: int
    period_end: int
    lines: tuple[Line, ...]
    amount_atoms: int
    chain_id: int
    tx_hash: str
    paid_at: int
    payment_id: str | None


@dataclass(frozen=True, slots=True)
class InvoicePage:
    """Some of them, newest first; `page` is the one they are, `total` of all and their sum."""

    invoices: tuple[InvoiceView, ...]
    page: int
    total: int
    amount_atoms: int


def list_invoices(
    engine: Engine, chain_id: int, side: InvoiceSide | None, page: int, size: int
) -> InvoicePage:
    """A page of one side's or of all, paid on one network; the first is 1. Of one behind the
    last, the last."""
    table, where = _TABLE, _wanted(chain_id, side)
    statement = select(table).where(*where).order_by(table.c.paid_at.desc(), table.c.id.desc())
    sums = select(func.count(), func.coalesce(func.sum(table.c.amount_atoms), 0)).where(*where)
    with engine.connect() as connection:
        total, amount = connection.execute(sums).one()
        page = min(page, max(-(-total // size), 1))
        rows = connection.execute(statement.limit(size).offset((page - 1) * size)).all()
    return InvoicePage(tuple(_view(row) for row in rows), page, int(total), int(amount))


def every_invoice(engine: Engine, chain_id: int, side: InvoiceSide | None) -> Iterator[InvoiceView]:
    """All of one side or both, newest first, read as they are taken."""
    table = _TABLE
    newest = select(table).order_by(table.c.paid_at.desc(), table.c.id.desc()).limit(CHUNK)
    newest = newest.where(*_wanted(chain_id, side))

    def read(last: InvoiceView | None) -> list[InvoiceView]:
        key = tuple_(table.c.paid_at, table.c.id)
        older = key < (last.paid_at, last.id) if last else true()
        with engine.connect() as connection:
            return [_view(row) for row in connection.execute(newest.where(older))]

    return in_chunks(read)


def _wanted(chain_id: int, side: InvoiceSide | None) -> list[Any]:
    here = _TABLE.c.chain_id == chain_id
    return [here] if side is None else [here, _TABLE.c.side == side]


def read_invoice(engine: Engine, invoice_id: int) -> InvoiceView:
    """One. Raises PlanUnknown."""
    with engine.connect() as connection:
        row = connection.execute(select(_TABLE).where(_TABLE.c.id == invoice_id)).one_or_none()
    if row is None:
        raise PlanUnknown("There is no such invoice.")
    return _view(row)


def invoices_of(
    engine: Engine, subscription_id: str, side: InvoiceSide, most: int = 200
) -> list[InvoiceView]:
    """Of one subscription, the newest first."""
    statement = (
        select(_TABLE)
        .where(_TABLE.c.subscription_id == subscription_id, _TABLE.c.side == side)
        .order_by(col(Invoice.paid_at).desc(), col(Invoice.id).desc())
        .limit(most)
    )
    with engine.connect() as connection:
        return [_view(row) for row in connection.execute(statement)]


def _view(row: Any) -> InvoiceView:
    lines = tuple(Line(each["text"], each["amount_atoms"]) for each in json.loads(row.lines))
    known = {name: getattr(row, name) for name in InvoiceView.__slots__}
    return InvoiceView(**{**known, "side": InvoiceSide(row.side), "lines": lines})


_TABLE: Final[Any] = Invoice.__table__  # type: ignore[attr-defined]
