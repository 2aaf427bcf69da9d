"""Asking sellers how subscriptions stand: state, use, requests and their answers, invoices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, insert, select, update
from sqlmodel import col

from catalog.models import Listing
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.plans.buying.errors import SellerSaysNo
from node.plans.buying.models import BoughtRequest
from node.plans.buying.ports import Asked, Line, Told
from node.plans.buying.read import plan_in, standing_of
from node.plans.buying.rows import change_row, note, place_of, read_row, standing_values
from node.plans.buying.shapes import Invoice as ToldInvoice
from node.plans.buying.shapes import Request as ToldRequest
from node.plans.buying.shapes import Subscription, read_subscription
from node.plans.models import Invoice, InvoiceSide

KEY_UNKNOWN: Final = "subscription_key_invalid"
PATH: Final = "/.farebox/subscriptions"
OPEN: Final = "open"
_MOST: Final = 4000
# What the proxy decides by.
_OF_CALLS: Final = ("state", "plan", "paid_until", "resets_at", "period_calls")


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of asking. `problem` is empty when the seller answered."""

    problem: str = ""


class Sync:
    """Looks at subscriptions, one at a time. `chain_id` is of the money that is paid with."""

    def __init__(
        self,
        engine: Engine,
        line: Line,
        unseal: Callable[[str], bytes],
        alarm: Alarm,
        chain_id: int,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._line, self._unseal = engine, line, unseal
        self._alarm, self._chain_id, self._clock = alarm, chain_id, clock

    async def look(self, subscription_id: str) -> Looked:
        """Take over what the seller says. Raises SubscriptionUnknown."""
        row = await asyncio.to_thread(self._read, subscription_id)
        if not row.seller_id:
            return Looked("The seller has not confirmed it yet.")
        told, rotated = await self._ask(row)
        try:
            if not told.good:
                raise SellerSaysNo(told.detail or f"The seller answered {told.status}.", told.code)
            standing = read_subscription(told.body)
            if standing.id != row.seller_id:
                raise SellerSaysNo("The seller answered for another subscription.")
        except SellerSaysNo as error:
            await asyncio.to_thread(self._write_failure, row, str(error))
            return Looked(str(error))
        await self._announce(row, standing)
        await asyncio.to_thread(self._write, row.id, standing, rotated)
        return Looked()

    async def adopt(self, subscription_id: str, told: Told) -> None:
        """Take over the subscription in the answer to a change. Raises SellerSaysNo."""
        standing = read_subscription(told.body)
        await asyncio.to_thread(self._write, subscription_id, standing, None)

    def _read(self, subscription_id: str) -> Row[Any]:
        with self._engine.connect() as connection:
            return read_row(connection, subscription_id)

    async def _ask(self, row: Row[Any]) -> tuple[Told, bool | None]:
        """The answer, and whether a rotation that was under way has happened; None: there was
        none. A node that was killed in one does not know which of both secrets is good."""
        if not row.new_secret_sealed:
            return await self._ask_with(row, row.secret_sealed), None
        told = await self._ask_with(row, row.new_secret_sealed)
        if told.code != KEY_UNKNOWN:
            return told, True if told.good else None
        told = await self._ask_with(row, row.secret_sealed)
        return told, False if told.good else None

    async def _ask_with(self, row: Row[Any], sealed: str) -> Told:
        secret = await asyncio.to_thread(self._unseal, sealed)
        path = f"{PATH}/{row.seller_id}"
        return await self._line.ask_seller(Asked(place_of(row), "GET", path, secret))

    async def _announce(self, row: Row[Any], told: Subscription) -> None:
        """Tell of answers first and write them then: a crash between tells twice, which says
        nothing new."""
        known = await asyncio.to_thread(self._answered, row.id)
        for request in told.requests:
            if request.state != OPEN and str(request.id) not in known:
                words = (request.answer or "").strip()[:200]
                message = f"{told.plan.name}: the seller says “{request.state}”. {words}"
                subject, link = f"{row.id} {request.id}", f"/developers/subscriptions/{row.id}"
                await self._alarm.raise_(Rule.REQUEST_ANSWERED, subject, message.strip(), link)

    def _answered(self, subscription_id: str) -> set[str]:
        answered = (col(BoughtRequest.state) != OPEN) & (col(BoughtRequest.seller_id) != "")
        statement = select(col(BoughtRequest.seller_id)).where(
            col(BoughtRequest.subscription_id) == subscription_id, answered
        )
        with self._engine.connect() as connection:
            return set(connection.scalars(statement))

    def _write_failure(self, row: Row[Any], why: str) -> None:
        if row.sync_failed != why:
            with writer(self._engine).begin() as connection:
                change_row(connection, row.id, {"sync_failed": why[:500]}, quietly=True)

    def _write(self, subscription_id: str, told: Subscription, rotated: bool | None) -> None:
        now = int(self._clock())
        with writer(self._engine).begin() as connection:
            row = read_row(connection, subscription_id)
            before = standing_of(row, plan_in(row)).at(now)
            values = standing_values(told, row.paid_until, now)
            if row.ended_at:
                values.pop("state")  # over here is over: only a payment brings it back
            if rotated is not None:
                values |= {"new_secret_sealed": ""}
            if rotated:
                values |= {"secret_sealed": row.new_secret_sealed}
            changed = any(getattr(row, name) != values.get(name) for name in _OF_CALLS)
            change_row(connection, row.id, values, quietly=not changed and rotated is None)
            _note_change(connection, row, told, before.value, now)
            _merge_requests(connection, row.id, told.requests, now)
            _import_invoices(connection, row, told, self._chain_id)


def _note_change(
    connection: Connection, row: Row[Any], told: Subscription, before: str, now: int
) -> None:
    """What the seller changed by itself."""
    if told.plan.id != plan_in(row).id:
        note(connection, row.id, "plan", f"The plan is {told.plan.name} now.", now)
    if told.state != before and told.state in ("grace", "lapsed") and not row.ended_at:
        note(connection, row.id, told.state, f"The seller calls it “{told.state}”.", now)


def _merge_requests(
    connection: Connection, subscription_id: str, told: Iterable[ToldRequest], now: int
) -> None:
    """Answers to what was asked; one that was sent, and the node killed then, is found again
    by its words."""
    mine = select(BoughtRequest.__table__).where(  # type: ignore[attr-defined]
        col(BoughtRequest.subscription_id) == subscription_id
    )
    rows = list(connection.execute(mine))
    known = {row.seller_id: row for row in rows if row.seller_id}
    unsent = [row for row in rows if not row.seller_id]
    for request in told:
        row = known.get(str(request.id)) or _same(unsent, request)
        if row is None:
            continue
        if row in unsent:
            unsent.remove(row)
        answered_at = 0 if request.state == OPEN else (request.answered_at or now)
        values = {
            "seller_id": str(request.id),
            "state": request.state,
            "answer": (request.answer or "")[:_MOST],
            "answered_at": answered_at,
        }
        changed = update(BoughtRequest).where(col(BoughtRequest.id) == row.id)
        connection.execute(changed.values(values))


def _same(unsent: list[Row[Any]], request: ToldRequest) -> Row[Any] | None:
    asked = (request.kind, request.text, request.meter or "", request.cap, request.until or 0)
    for row in unsent:
        if (row.kind, row.text, row.meter, row.cap, row.until) == asked:
            return row
    return None


def _import_invoices(
    connection: Connection, row: Row[Any], told: Subscription, chain_id: int
) -> None:
    """Those that are not here yet, each once."""
    if not told.invoices:
        return
    statement = select(col(Invoice.number), col(Invoice.seller)).where(
        col(Invoice.side) == InvoiceSide.BOUGHT, col(Invoice.subscription_id) == told.id
    )
    known = {(number, seller) for number, seller in connection.execute(statement)}
    name = connection.scalar(select(col(Listing.name)).where(col(Listing.id) == row.listing_id))
    for each in told.invoices:
        if (each.number, each.seller) not in known:
            known.add((each.number, each.seller))
            values = _invoice_row(each, row, told, name or row.base_url, chain_id)
            connection.execute(insert(Invoice), values)


def _invoice_row(
    invoice: ToldInvoice, row: Row[Any], told: Subscription, name: str, chain_id: int
) -> dict[str, Any]:
    lines = [{"text": line.text, "amount_atoms": line.amount_atoms} for line in invoice.lines]
    return {
        "side": InvoiceSide.BOUGHT.value,
        "number": invoice.number,
        "subscription_id": told.id,
        "listing_id": row.listing_id,
        "listing_name": name,
        "plan_name": invoice.plan or told.plan.name,
        "seller": invoice.seller,
        "buyer": invoice.buyer,
        "buyer_name": "",
        "buyer_email": "",
        "period_start": invoice.period_start,
        "period_end": invoice.period_end,
        "lines": json.dumps(lines),
        "amount_atoms": invoice.amount_atoms,
        "chain_id": chain_id,
        "tx_hash": invoice.tx_hash or "",
        "paid_at": invoice.issued_at,
    }
