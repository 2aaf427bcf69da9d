"""What the clock does to subscriptions: orders go on, months are renewed or lapse, sellers are
asked how things stand. Every step is harmless twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, select
from sqlmodel import col

from catalog.models import Listing
from finance.errors import FinanceError
from finance.money import Usdc
from node.accounts.audit import SYSTEM, record
from node.alerts.rules import Rule
from node.db.engine import writer
from node.plans.buying.errors import NotPossibleNow, SubscriptionError
from node.plans.buying.models import BoughtState, OrderKind, OrderState
from node.plans.buying.orders import RUNNING, Outcome
from node.plans.buying.read import next_price, plan_in, standing_of
from node.plans.buying.rows import (
    change_row,
    kept_rows,
    log,
    note,
    open_orders,
    order_of_slot,
    paid_orders,
    read_order,
    read_row,
)
from node.plans.buying.service import Subscriptions
from node.plans.buying.shapes import plan_of
from node.plans.buying.states import has_passed, renewal_slot, renewed_month
from node.usage.windows import window_of

SYNC_SECONDS: Final = 3600
ANEW_SECONDS: Final = 120
_OVER: Final = (BoughtState.LAPSED, BoughtState.ENDED)
_log = logging.getLogger(__name__)


class Upkeep:
    """One per process; `run` is a job's."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._all = subscriptions
        self._engine, self._alarm = subscriptions.engine, subscriptions.alarm
        self._asked: dict[str, int] = {}

    async def run(self) -> None:
        """Everything that is due now. What goes wrong with one leaves the others kept; what
        nobody expected is raised when all had their turn, so that the job is seen to fail."""
        now, doubted = self._all.now, self._all.line.take_doubted()
        unexpected: list[Exception] = []
        for order in await asyncio.to_thread(self._orders):
            if order.next_try_at <= now:
                await self._apart(order.subscription_id, self._go_on(order), unexpected)
        for row in await asyncio.to_thread(self._live):
            await self._apart(row.id, self._keep(row, now, row.id in doubted), unexpected)
        if unexpected:
            raise unexpected[0]

    async def _apart(
        self, subscription_id: str, work: Awaitable[None], unexpected: list[Exception]
    ) -> None:
        try:
            await work
        except (SubscriptionError, FinanceError) as error:
            # One that somebody else just ended, or whose key is sealed elsewhere.
            _log.warning("subscription %s: %s", subscription_id, error)
        except Exception as error:
            # Here and not only at the job's edge: a row that cannot be kept must not stop the
            # renewals of those after it.
            _log.exception("subscription %s could not be kept up", subscription_id)
            unexpected.append(error)

    def _orders(self) -> list[Row[Any]]:
        with self._engine.connect() as connection:
            return open_orders(connection)

    def _live(self) -> list[Row[Any]]:
        with self._engine.connect() as connection:
            return kept_rows(connection)

    async def _go_on(self, order: Row[Any]) -> None:
        """An order that is open is sent again: it may have been paid. One that somebody gave
        up is not, nor a renewal whose month is over: it would buy another."""
        if order.state == OrderState.GIVING_UP:
            await self._all.end_given_up(order.subscription_id, order.id)
            return
        if has_passed(order.slot, self._all.now):
            await self._all.give_up(SYSTEM, order.subscription_id)
            return
        await self._tell(order, await self._all.carry_out(order.id, patient=True))

    async def _tell(self, order: Row[Any], outcome: Outcome) -> None:
        if outcome.code == RUNNING:
            return
        if outcome.state is OrderState.DONE:
            await self._all.resolve(order.subscription_id)
        elif order.kind != OrderKind.RENEWAL and outcome.state is OrderState.FAILED:
            await self._alarm.resolve(Rule.RENEWAL_FAILED, order.subscription_id)
        elif order.kind == OrderKind.RENEWAL or order.tries >= 2:
            row, name = await asyncio.to_thread(self._named, order.subscription_id)
            what = "renewed" if order.kind == OrderKind.RENEWAL else "paid for"
            sentence = f"{name}: the plan {plan_in(row).name} could not be {what}:"
            why = outcome.detail or outcome.code
            message = f"{sentence} {why} {_until(row)}".strip()
            await self._alarm.raise_(Rule.RENEWAL_FAILED, row.id, message[:800], _link(row))

    async def _keep(self, row: Row[Any], now: int, doubted: bool) -> None:
        """One live subscription."""
        if doubted or self._is_stale(row, now):
            self._asked[row.id] = now
            await self._all.look(row.id)
            await self._all.changing.resend(row.id)
        # Looked at just now, or changed by somebody while the run waited for another's seller.
        row, _ = await asyncio.to_thread(self._named, row.id)
        standing = standing_of(row, plan_in(row))
        if _is_over(row, now):
            await self._end(row, now)
        elif standing.renewable(now):
            await self._renew(row, now)
        elif standing.to_announce(now, row.noticed_for):
            await self._announce(row, now)
        elif not row.renews:
            await self._alarm.resolve(Rule.RENEWAL_SOON, row.id)

    def _is_stale(self, row: Row[Any], now: int) -> bool:
        """Whether the seller is to be asked again: hourly, and soon after a month began."""
        asked = self._asked.get(row.id, 0)
        anew = row.synced_at < row.resets_at <= now and now - asked >= ANEW_SECONDS
        return anew or now - max(row.synced_at, asked) >= SYNC_SECONDS

    async def _renew(self, row: Row[Any], now: int) -> None:
        """Write the month's order, or take it up again after a while, and carry it out."""
        month = renewed_month(row.paid_until, now)
        order = await asyncio.to_thread(self._order_of, row.id, renewal_slot(month))
        if order is not None and (order.state != OrderState.FAILED or order.next_try_at > now):
            return
        if await asyncio.to_thread(self._is_paid_here, row.id, month):
            _, name = await asyncio.to_thread(self._named, row.id)
            message = f"{name}: the seller says that what was paid is over, but this month was"
            message += " paid here. It is not paid again by itself: ask the seller."
            await self._alarm.raise_(Rule.RENEWAL_FAILED, row.id, message, _link(row))
            return
        write, args = self._all.ordering.renewal, (SYSTEM, row.id, None, now, month)
        try:
            order_id = await asyncio.to_thread(write, *args)
        except NotPossibleNow as error:
            row, name = await asyncio.to_thread(self._named, row.id)
            if row.renews:
                message = f"{name}: {error} {_until(row)}"
                await self._alarm.raise_(Rule.RENEWAL_FAILED, row.id, message, _link(row))
            return
        outcome = await self._all.carry_out(order_id, patient=True)
        await self._tell(await asyncio.to_thread(self._order, order_id), outcome)

    def _order_of(self, subscription_id: str, slot: str) -> Row[Any] | None:
        with self._engine.connect() as connection:
            return order_of_slot(connection, subscription_id, slot)

    def _is_paid_here(self, subscription_id: str, month: int) -> bool:
        """Whether the rest of that month was bought by the first order, or an upgrade: a seller
        that gives another date is not paid twice for it."""
        with self._engine.connect() as connection:
            paid = paid_orders(connection, subscription_id)
        within = [each for each in paid if each.kind != OrderKind.RENEWAL]
        return any(window_of(each.created_at).start == month for each in within)

    def _order(self, order_id: str) -> Row[Any]:
        with self._engine.connect() as connection:
            return read_order(connection, order_id)

    async def _announce(self, row: Row[Any], now: int) -> None:
        """A renewal is near. Told first, then remembered."""
        _, name = await asyncio.to_thread(self._named, row.id)
        following, price = plan_of(row.next_plan) or plan_in(row), next_price(row)
        text = f"{name}: the plan {following.name} is renewed for {Usdc(price)} USDC"
        if price > row.agreed_atoms:
            text = f"{name}: the plan {following.name} will cost {Usdc(price)} USDC, more than the"
            text += f" {Usdc(row.agreed_atoms)} agreed to, and is not renewed unless that is raised"
        message = f"{text}. {_until(row)}"
        await self._alarm.raise_(Rule.RENEWAL_SOON, row.id, message, _link(row))
        await asyncio.to_thread(self._change, row.id, {"noticed_for": row.paid_until})

    async def _end(self, row: Row[Any], now: int) -> None:
        """It is over: the proxy shows its key no more."""
        standing = standing_of(row, plan_in(row))
        lapsed = BoughtState.LAPSED in (standing.at(now), BoughtState(row.state))
        _, name = await asyncio.to_thread(self._named, row.id)
        if lapsed:
            text = f"{name}: the plan {plan_in(row).name} lapsed. Calls are paid one by one from"
            message = f"{text} now on, within the limits, until it is renewed."
            await self._alarm.raise_(Rule.SUBSCRIPTION_LAPSED, row.id, message, _link(row))
        await self._all.resolve(row.id)
        state = BoughtState.LAPSED if lapsed else BoughtState.ENDED
        await asyncio.to_thread(self._write_end, row.id, state, name, now)

    def _write_end(self, subscription_id: str, state: BoughtState, name: str, now: int) -> None:
        with writer(self._engine).begin() as connection:
            row = read_row(connection, subscription_id, hold=True)
            if row.ended_at or not _is_over(row, now):
                return
            held = row.listing_id if open_orders(connection, row.id) else None
            ended = {"state": state.value, "open_for": held, "ended_at": now}
            change_row(connection, row.id, ended)
            text = f"The plan {plan_in(row).name} has {state.value}."
            note(connection, row.id, state.value, text, now)
            log(connection, f"plan_{state.value}", "warning", f"{name}: {text}", now)
            record(connection, SYSTEM, f"subscription.{state.value}", row.id, now)

    def _change(self, subscription_id: str, values: dict[str, Any]) -> None:
        with writer(self._engine).begin() as connection:
            change_row(connection, subscription_id, values)

    def _named(self, subscription_id: str) -> tuple[Row[Any], str]:
        """The row as it stands, and its listing's name."""
        with self._engine.connect() as connection:
            row = read_row(connection, subscription_id)
            named = select(col(Listing.name)).where(col(Listing.id) == row.listing_id)
            return row, connection.scalar(named) or row.base_url


def _is_over(row: Row[Any], now: int) -> bool:
    return standing_of(row, plan_in(row)).at(now) in _OVER or row.state in _OVER


def _until(row: Row[Any]) -> str:
    until = datetime.fromtimestamp(row.paid_until, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"What is paid ends on {until}."


def _link(row: Row[Any]) -> str:
    return f"/developers/subscriptions/{row.id}"
