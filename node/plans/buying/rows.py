"""Rows of subscriptions, written in the transaction of whoever changes them (blocking)."""

from __future__ import annotations

import secrets
from typing import Any, Final

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlmodel import col

from catalog.models import Listing, ListingMode, ListingOrigin
from node.db.locks import number_in_turn
from node.plans.buying.errors import NotPossibleNow, SubscriptionUnknown
from node.plans.buying.models import (
    LIVE,
    UNDER_WAY,
    BoughtChange,
    BoughtOrder,
    BoughtState,
    BoughtSubscription,
    OrderKind,
    OrderState,
)
from node.plans.buying.ports import Place
from node.plans.buying.read import plan_in, standing_of
from node.plans.buying.shapes import Subscription, plan_text
from node.usage.events import Severity, event

_SUBSCRIPTIONS: Final = BoughtSubscription.__table__  # type: ignore[attr-defined]
_ORDERS: Final = BoughtOrder.__table__  # type: ignore[attr-defined]
FIRST: Final = "subscribe"  # the slot of an order that begins a subscription
_STATES: Final = {
    "active": BoughtState.ACTIVE,
    "grace": BoughtState.GRACE,
    "lapsed": BoughtState.LAPSED,
    "cancelled": BoughtState.CANCELLED,
}


def new_id(prefix: str) -> str:
    """`sub_…`, `ord_…`: for rows of ours."""
    return f"{prefix}_{secrets.token_hex(8)}"


def read_row(connection: Connection, subscription_id: str, hold: bool = False) -> Row[Any]:
    """`hold`: nobody orders for it, or changes it, until the transaction ends; an order of it that
    is to be changed is held before. Raises SubscriptionUnknown."""
    if hold:
        number_in_turn(connection)
    row = connection.execute(
        select(_SUBSCRIPTIONS).where(_SUBSCRIPTIONS.c.id == subscription_id)
    ).first()
    if row is None:
        raise SubscriptionUnknown("There is no such subscription.")
    return row


def read_live(
    connection: Connection, subscription_id: str, now: int, hold: bool = False
) -> Row[Any]:
    """One whose key is served. Raises SubscriptionUnknown, NotPossibleNow."""
    row = read_row(connection, subscription_id, hold)
    if standing_of(row, plan_in(row)).at(now) not in LIVE:
        raise NotPossibleNow("This subscription is over, or has not begun. Subscribe anew.")
    return row


def kept_rows(connection: Connection) -> list[Row[Any]]:
    """All that were live when somebody last wrote it down, or that a seller calls lapsed."""
    states = [state.value for state in (*LIVE, BoughtState.LAPSED)]
    kept = _SUBSCRIPTIONS.c.state.in_(states) & (_SUBSCRIPTIONS.c.ended_at == 0)
    return list(connection.execute(select(_SUBSCRIPTIONS).where(kept)))


def read_order(connection: Connection, order_id: str, hold: bool = False) -> Row[Any]:
    """`hold`: nobody signs for it, or changes it, until the transaction ends. Raises
    SubscriptionUnknown."""
    found = select(_ORDERS).where(_ORDERS.c.id == order_id)
    row = connection.execute(found.with_for_update() if hold else found).first()
    if row is None:
        raise SubscriptionUnknown("There is no such order.")
    return row


def order_of_slot(
    connection: Connection, subscription_id: str, slot: str, hold: bool = False
) -> Row[Any] | None:
    """The order of a stretch, if somebody has written one. `hold` as in `read_order`."""
    of_slot = (_ORDERS.c.subscription_id == subscription_id) & (_ORDERS.c.slot == slot)
    found = select(_ORDERS).where(of_slot)
    return connection.execute(found.with_for_update() if hold else found).first()


def open_orders(connection: Connection, subscription_id: str | None = None) -> list[Row[Any]]:
    """Those under way, of one subscription or all, the oldest first."""
    statement = select(_ORDERS).where(_ORDERS.c.state.in_(UNDER_WAY))
    if subscription_id is not None:
        statement = statement.where(_ORDERS.c.subscription_id == subscription_id)
    return list(connection.execute(statement.order_by(_ORDERS.c.created_at)))


def paid_orders(connection: Connection, subscription_id: str) -> list[Row[Any]]:
    """Those of a subscription that are done and cost something."""
    done = (_ORDERS.c.state == OrderState.DONE) & (_ORDERS.c.charged_atoms > 0)
    statement = select(_ORDERS).where(_ORDERS.c.subscription_id == subscription_id, done)
    return list(connection.execute(statement))


def refuse_while_ordering(connection: Connection, subscription_id: str) -> None:
    """Raises NotPossibleNow while an order of it is open."""
    if open_orders(connection, subscription_id):
        sentence = "A payment for it is under way. Look again when it is done."
        raise NotPossibleNow(sentence)


def add_order(
    connection: Connection,
    subscription_id: str,
    kind: OrderKind,
    slot: str,
    plan_id: str,
    path: str,
    body: str,
    most_atoms: int,
    now: int,
) -> str:
    """Write an order that nobody has sent yet; its id."""
    order_id = new_id("ord")
    row = {
        "id": order_id,
        "subscription_id": subscription_id,
        "slot": slot,
        "kind": kind.value,
        "plan_id": plan_id,
        "path": path,
        "body": body,
        "most_atoms": most_atoms,
        "created_at": now,
    }
    connection.execute(insert(BoughtOrder), {**_blank(BoughtOrder), **row})
    return order_id


def add_subscription(connection: Connection, row: dict[str, Any]) -> None:
    """Raises IntegrityError while its listing has another."""
    row = {**_blank(BoughtSubscription), **row, "version": _next_version(connection)}
    connection.execute(insert(BoughtSubscription), row)


def change_row(
    connection: Connection, subscription_id: str, values: dict[str, Any], quietly: bool = False
) -> None:
    """The running node notices within a second, unless it is done `quietly`. After a change of
    its order: two transactions that change both wait for each other otherwise."""
    if not quietly:
        values = {**values, "version": _next_version(connection)}
    changed = update(BoughtSubscription).where(col(BoughtSubscription.id) == subscription_id)
    connection.execute(changed.values(values))


def change_order(connection: Connection, order_id: str, values: dict[str, Any]) -> bool:
    """Whether it was still under way, and so was changed."""
    open_ = col(BoughtOrder.state).in_(UNDER_WAY)
    changed = update(BoughtOrder).where(col(BoughtOrder.id) == order_id, open_)
    return connection.execute(changed.values(values)).rowcount == 1


def note(
    connection: Connection,
    subscription_id: str,
    kind: str,
    text: str,
    now: int,
    atoms: int = 0,
    by: str = "",
) -> None:
    """A line of the subscription's own record."""
    row = {"subscription_id": subscription_id, "at": now, "kind": kind, "text": text}
    connection.execute(insert(BoughtChange), {**row, "atoms": atoms, "by": by})


def log(connection: Connection, type_: str, severity: Severity, message: str, now: int) -> None:
    """A line of the node's event log."""
    event(type_, severity, message, now).make(connection)


def standing_values(told: Subscription, paid_until: int, now: int) -> dict[str, Any]:
    """The columns that a seller's answer decides. `paid_until` is known already: after a
    cancellation the seller names the present month only, and a later one may be paid."""
    state, period = _STATES.get(told.state, BoughtState.ACTIVE), told.period
    until = max(period.end, told.next.at) if told.next is not None else period.end
    if state is BoughtState.CANCELLED:
        until = max(until, paid_until)
        if told.ended is not None and told.ended.served_until:
            until = told.ended.served_until
    return {
        "seller_id": told.id,
        "state": state.value,
        "plan": plan_text(told.plan),
        "next_plan": plan_text(told.next_plan),
        "paid_until": until,
        "period_start": min(period.start, period.end),
        "period_end": period.end,
        "period_calls": period.calls,
        "period_stream_seconds": period.stream_seconds,
        "period_price_atoms": period.price_atoms,
        "used_calls": told.used.calls,
        "used_stream_seconds": told.used.stream_seconds,
        "per_minute_now": told.per_minute_now,
        "resets_at": told.resets_at,
        "next_at": told.next.at if told.next is not None else 0,
        "next_price_atoms": told.next.price_atoms if told.next is not None else 0,
        "synced_at": now,
        "sync_failed": "",
    }


def find_place(connection: Connection, listing_id: str) -> tuple[Place, str, bool]:
    """Where a bought listing is, its name, and whether it is in demo mode. Raises
    SubscriptionUnknown."""
    columns = (col(Listing.slug), col(Listing.base_url), col(Listing.name), col(Listing.mode))
    bought = col(Listing.origin) == ListingOrigin.REMOTE
    row = connection.execute(select(*columns).where(col(Listing.id) == listing_id, bought)).first()
    if row is None:
        raise SubscriptionUnknown("There is no such listing that this node can buy from.")
    return Place(listing_id, row[0], row[1].rstrip("/")), row[2], row[3] == ListingMode.DEMO


def place_of(row: Row[Any]) -> Place:
    """Where a subscription was bought, whatever became of the listing."""
    return Place(row.listing_id, row.listing_id, row.base_url)


def listing_stands(connection: Connection, row: Row[Any]) -> bool:
    """Whether its listing is still in the catalog, at the address it was bought at."""
    base = connection.scalar(select(col(Listing.base_url)).where(col(Listing.id) == row.listing_id))
    return base is not None and base.rstrip("/") == row.base_url


def _next_version(connection: Connection) -> int:
    number_in_turn(connection)
    return (connection.scalar(select(func.max(col(BoughtSubscription.version)))) or 0) + 1


def _blank(table: type[Any]) -> dict[str, Any]:
    """The defaults of a table's columns, which an insert of plain values does not know."""
    found = {}
    for name, field in table.model_fields.items():
        if not field.is_required():
            found[name] = field.get_default()
    return found
