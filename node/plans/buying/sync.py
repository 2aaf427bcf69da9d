"""Asking sellers how subscriptions stand: state, use, requests and their answers, invoices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlmodel import col

from catalog.characters import cut, readable
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.plans.buying.billed import take_over
from node.plans.buying.errors import SellerSaysNo
from node.plans.buying.models import BoughtRequest, BoughtState
from node.plans.buying.ports import Asked, Line, Told
from node.plans.buying.read import plan_in, standing_of
from node.plans.buying.rows import change_row, note, place_of, read_row, standing_values
from node.plans.buying.shapes import Request as ToldRequest
from node.plans.buying.shapes import Subscription, read_subscription

KEY_UNKNOWN: Final = "subscription_key_invalid"
PATH: Final = "/.farebox/subscriptions"
OPEN: Final = "open"
SELLER_ENDS: Final = "seller_ends"  # in the record
_NOT_KEPT: Final = "What the seller says cannot be stored; the node's log says more."
_MOST_REASON: Final = 300
# What the proxy decides by.
_OF_CALLS: Final = ("state", "plan", "paid_until", "resets_at", "period_calls")
Pair = tuple[Row[Any], ToldRequest]
_log = logging.getLogger(__name__)


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
        """Take over what the seller says; again where the subscription was changed here meanwhile:
        an answer may be older than what was paid since. Raises SubscriptionUnknown."""
        looked = None
        while looked is None:
            looked = await self._look(subscription_id)
        return looked

    async def _look(self, subscription_id: str) -> Looked | None:
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
        try:
            written = await asyncio.to_thread(self._write, row, standing, rotated)
        except (DataError, IntegrityError):
            _log.exception("what the seller says of subscription %s", row.id)
            await asyncio.to_thread(self._write_failure, row, _NOT_KEPT)
            return Looked(_NOT_KEPT)
        return Looked() if written else None

    def _read(self, subscription_id: str) -> Row[Any]:
        with self._engine.connect() as connection:
            return read_row(connection, subscription_id)

    async def _ask(self, row: Row[Any]) -> tuple[Told, str]:
        """The answer, and the new secret (sealed) of a rotation that has happened. A node that
        was killed in one does not know which of both secrets is good; while the old one is,
        the new one may still be on its way to the seller."""
        if row.new_secret_sealed:
            told = await self._ask_with(row, row.new_secret_sealed)
            if told.code != KEY_UNKNOWN:
                return told, row.new_secret_sealed if told.good else ""
        return await self._ask_with(row, row.secret_sealed), ""

    async def _ask_with(self, row: Row[Any], sealed: str) -> Told:
        secret = await asyncio.to_thread(self._unseal, sealed)
        path = f"{PATH}/{row.seller_id}"
        return await self._line.ask_seller(Asked(place_of(row), "GET", path, secret))

    async def _announce(self, row: Row[Any], told: Subscription) -> None:
        """Tell of answers first and write them then: a crash between tells twice, which says
        nothing new."""
        if _ends(row, told):
            link = f"/developers/subscriptions/{row.id}"
            await self._alarm.raise_(Rule.SELLER_ENDS, row.id, _ended_text(told), link)
        for asked, request in await asyncio.to_thread(self._pairs, row.id, told):
            if asked.state == OPEN != request.state:
                words = readable(request.answer or "")[:200]
                message = f"{told.plan.name}: the seller says “{request.state}”. {words}"
                subject, link = f"{row.id} {request.id}", f"/developers/subscriptions/{row.id}"
                await self._alarm.raise_(Rule.REQUEST_ANSWERED, subject, message.strip(), link)

    def _pairs(self, subscription_id: str, told: Subscription) -> list[Pair]:
        with self._engine.connect() as connection:
            return _matched(connection, subscription_id, told.requests)

    def _write_failure(self, row: Row[Any], why: str) -> None:
        if row.sync_failed != why:
            with writer(self._engine).begin() as connection:
                change_row(connection, row.id, {"sync_failed": why[:500]}, quietly=True)

    def _write(self, asked: Row[Any], told: Subscription, rotated: str) -> bool:
        """Whether it was as it is now when the seller was asked."""
        now = int(self._clock())
        with writer(self._engine).begin() as connection:
            row = read_row(connection, asked.id, hold=True)
            if row.version != asked.version:
                return False
            before = standing_of(row, plan_in(row)).at(now)
            values = standing_values(told, row.paid_until, now)
            if row.ended_at:
                values.pop("state")  # over here is over: only a payment brings it back
            if _ends(row, told):
                values |= {"renews": False}
            if rotated and rotated == row.new_secret_sealed:
                values |= {"secret_sealed": rotated, "new_secret_sealed": ""}
            changed = any(getattr(row, name) != values.get(name) for name in _OF_CALLS)
            change_row(connection, row.id, values, quietly=not (changed or rotated))
            _note_change(connection, row, told, before.value, now)
            for ours, request in _matched(connection, row.id, told.requests):
                _take_answer(connection, ours, request, now)
            take_over(connection, row, told, self._chain_id, now)
            return True


def _ends(row: Row[Any], told: Subscription) -> bool:
    """Whether the seller has ended it since the last look."""
    if told.ended is None or told.state != BoughtState.CANCELLED.value:
        return False
    return row.state != BoughtState.CANCELLED and not row.ended_at


def _ended_text(told: Subscription) -> str:
    assert told.ended is not None
    what = "is served no more" if told.ended.served_until else "is good until the end of its month"
    what = f"The seller ends the plan {told.plan.name}: it {what}, and is not renewed."
    return f"{what} Its reason: {cut(readable(told.ended.reason), _MOST_REASON)}"


def _note_change(
    connection: Connection, row: Row[Any], told: Subscription, before: str, now: int
) -> None:
    """What the seller changed by itself."""
    if _ends(row, told):
        note(connection, row.id, SELLER_ENDS, _ended_text(told), now)
    if told.plan.id != plan_in(row).id:
        note(connection, row.id, "plan", f"The plan is {told.plan.name} now.", now)
    if told.state != before and told.state in ("grace", "lapsed") and not row.ended_at:
        note(connection, row.id, told.state, f"The seller calls it “{told.state}”.", now)


def _matched(
    connection: Connection, subscription_id: str, told: Iterable[ToldRequest]
) -> list[Pair]:
    """What was asked here, each with what the seller says of it; what it was not asked is
    passed over. One that was sent, and the node killed then, is found again by its words."""
    mine = select(BoughtRequest.__table__).where(  # type: ignore[attr-defined]
        col(BoughtRequest.subscription_id) == subscription_id
    )
    rows = list(connection.execute(mine))
    known = {row.seller_id: row for row in rows if row.seller_id}
    unsent = [row for row in rows if not row.seller_id]
    pairs = []
    for request in told:
        row = known.pop(str(request.id), None)
        if row is None and (row := _same(unsent, request)) is not None:
            unsent.remove(row)
        if row is not None:
            pairs.append((row, request))
    return pairs


def _take_answer(connection: Connection, asked: Row[Any], request: ToldRequest, now: int) -> None:
    """What was answered stays answered."""
    values: dict[str, Any] = {"seller_id": str(request.id)}
    if asked.state == OPEN != request.state:
        answer = "\n".join(readable(line) for line in (request.answer or "").splitlines())
        at = request.answered_at or now
        values |= {"state": request.state, "answer": answer, "answered_at": at}
    changed = update(BoughtRequest).where(col(BoughtRequest.id) == asked.id)
    connection.execute(changed.values(values))


def _same(unsent: list[Row[Any]], request: ToldRequest) -> Row[Any] | None:
    asked = (request.kind, request.text, request.meter or "", request.cap, request.until or 0)
    for row in unsent:
        if (row.kind, row.text, row.meter, row.cap, row.until) == asked:
            return row
    return None
