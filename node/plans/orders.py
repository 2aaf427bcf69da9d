"""What customers order and change, as guarded writes: durable with the debt they make, or with
the answer that says so."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import insert, text

from finance.store import Write
from node.plans.models import Subscription, SubscriptionPeriod, SubscriptionRequest
from node.plans.subscribers import Offered, Subscriber
from node.plans.terms import Kind, Stretch

_INSERT_SUBSCRIPTION: Final = insert(Subscription)
_INSERT_PERIOD: Final = insert(SubscriptionPeriod)
_INSERT_REQUEST: Final = insert(SubscriptionRequest)
_TOUCH = "changed_at = :at, changes = changes + 1 WHERE id = :id"
_NOTE_ORDER = text(f"UPDATE subscription SET {_TOUCH} AND cancelled_at IS NULL")
_TAKE_FREE = text(f"UPDATE subscription SET free_for = :free_for, {_TOUCH}")
_LEAVE_FREE = text(f"UPDATE subscription SET free_for = NULL, {_TOUCH} AND changes = :seen")
_CANCEL = text(
    f"UPDATE subscription SET cancelled_at = :at, free_for = NULL, {_TOUCH}"
    " AND cancelled_at IS NULL"
)
_CHOOSE = text(
    f"UPDATE subscription SET next_plan_id = :plan_id, next_plan_after = :after, {_TOUCH}"
    " AND cancelled_at IS NULL"
)
_ROTATE = text(f"UPDATE subscription SET key_hash = :key_hash, {_TOUCH} AND key_hash = :old")

# Whose first payment failed never had anything: the same key may try again.
_FORGET_UNPAID = text(
    "DELETE FROM subscription WHERE key_hash = :key_hash AND NOT EXISTS ("
    "SELECT 1 FROM subscription_period p LEFT JOIN onchain_payment o ON o.id = p.payment_id"
    " WHERE p.subscription_id = subscription.id"
    " AND (p.payment_id IS NULL OR o.state <> 'failed'))"
)


def free_holder(listing_id: str, payer: str) -> str:
    """What there is one live free subscription of."""
    return f"{listing_id} {payer}"


def subscribe(
    subscription_id: str,
    plan: Offered,
    stretch: Stretch,
    payer: str,
    key_hash: str,
    name: str,
    email: str,
    payment_id: str | None,
    at: int,
) -> list[Write]:
    """A new subscription with its first period. `payment_id` None where it is free."""
    row = {
        "id": subscription_id,
        "listing_id": plan.listing_id,
        "key_hash": key_hash,
        "payer": payer,
        "name": name,
        "email": email,
        "free_for": free_holder(plan.listing_id, payer) if payment_id is None else None,
        "next_plan_id": None,
        "next_plan_after": 0,
        "created_at": at,
        "cancelled_at": None,
        "ended_by": "",
        "end_reason": "",
        "served_until": None,
        "changed_at": at,
        "changes": 0,
    }
    period = _period(subscription_id, 1, Kind.FIRST, plan, stretch, payment_id, at)
    forgotten = Write(_FORGET_UNPAID, {"key_hash": key_hash}, rows=None)
    return [forgotten, Write(_INSERT_SUBSCRIPTION, row), period]


def order(
    subscriber: Subscriber,
    kind: Kind,
    plan: Offered,
    stretch: Stretch,
    payment_id: str | None,
    at: int,
    number: int,
) -> list[Write]:
    """One more period; refused by the store if another order was quicker or it was cancelled
    meanwhile. `number` follows that of the last order, also of one that failed."""
    touch = {"id": subscriber.id, "at": at}
    writes = [
        _period(subscriber.id, number, kind, plan, stretch, payment_id, at),
        Write(_NOTE_ORDER, touch),
    ]
    if payment_id is None:
        held = free_holder(subscriber.listing_id, subscriber.payer)
        writes.append(Write(_TAKE_FREE, {**touch, "free_for": held}))
    return writes


def leave_free(subscriber: Subscriber, at: int) -> Write:
    """It holds a free plan no more; refused by the store where it was changed meanwhile."""
    return Write(_LEAVE_FREE, {"id": subscriber.id, "seen": subscriber.changes, "at": at})


def cancel(subscriber: Subscriber, at: int) -> Write:
    """No renewal; refused by the store where it is cancelled already."""
    return Write(_CANCEL, {"id": subscriber.id, "at": at})


def choose(subscriber: Subscriber, plan_id: str | None, at: int) -> Write:
    """The plan to go on with; None: the same."""
    after = subscriber.last_number
    return Write(_CHOOSE, {"id": subscriber.id, "plan_id": plan_id, "after": after, "at": at})


def rotate(subscriber: Subscriber, key_hash: str, at: int) -> Write:
    """Another key; the old one ends at once."""
    row = {"id": subscriber.id, "key_hash": key_hash, "old": subscriber.key_hash, "at": at}
    return Write(_ROTATE, row)


def ask(
    subscription_id: str,
    kind: str,
    meter: str | None,
    cap: int | None,
    until: int | None,
    words: str,
    at: int,
) -> Write:
    """A request for the seller to answer."""
    row: dict[str, Any] = {
        "subscription_id": subscription_id,
        "kind": kind,
        "meter": meter,
        "cap": cap,
        "until": until,
        "text": words,
        "asked_at": at,
        "state": "open",
        "answer": "",
        "answered_by": "",
        "answered_at": None,
        "override_id": None,
    }
    return Write(_INSERT_REQUEST, row)


def _period(
    subscription_id: str,
    number: int,
    kind: Kind,
    plan: Offered,
    stretch: Stretch,
    payment_id: str | None,
    at: int,
) -> Write:
    deal = plan.deal
    row = {
        "subscription_id": subscription_id,
        "number": number,
        "kind": kind.value,
        "plan_id": plan.id,
        "plan_name": plan.name,
        "starts_at": stretch.start,
        "ends_at": stretch.end,
        "calls": stretch.calls,
        "stream_seconds": stretch.stream_seconds,
        "price_atoms": stretch.price_atoms,
        "month_price_atoms": deal.price_atoms,
        "month_calls": deal.calls,
        "month_stream_seconds": deal.stream_seconds,
        "per_minute": deal.per_minute,
        "beyond": deal.beyond.value,
        "grace_days": deal.grace_days,
        "payment_id": payment_id,
        "ordered_at": at,
    }
    return Write(_INSERT_PERIOD, row)
