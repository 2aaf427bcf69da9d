"""Support & Billings: what happened to a key, its limits and its subscriptions, in one list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Engine, or_, select
from sqlmodel import col

from node.accounts.models import AuditEntry
from node.plans.buying.models import OrderKind, OrderState
from node.plans.buying.read import OrderView, RequestView, SubscriptionView
from node.usage.keys import KeyView
from node.usage.my_usage import subscriptions_of
from node.usage.overrides import Override, list_overrides
from node.usage.quota_watch import amount_text
from node.usage.quotas import Meter

_TIERS: Final = "usage_tiers"
_METERS: Final = {Meter.CALLS: "API calls", Meter.STREAM_SECONDS: "stream hours"}
_CHANGES: Final = {
    "key.create": "The key was made.",
    "key.change": "What the key may do was changed.",
    "key.rotate": "A new token was made.",
    "key.revoke": "The key was revoked.",
}
_PAID: Final = {
    OrderKind.SUBSCRIBE: "First period",
    OrderKind.RENEWAL: "Renewal",
    OrderKind.UPGRADE: "Upgrade",
}


class Kind(StrEnum):
    """What a line is about."""

    PLAN = "plan"
    PAYMENT = "payment"
    OVERRIDE = "override"
    SUPPORT = "support"
    KEY = "key"


@dataclass(frozen=True, slots=True)
class RecordLine:
    """One line; `about`: the listing, empty for the node itself. `atoms`: USDC that was paid;
    `answer` of whoever was asked, `state` of a request or payment (empty: it is done)."""

    at: int
    kind: Kind
    about: str
    text: str
    by: str = ""
    atoms: int = 0
    tx_hash: str = ""
    state: str = ""
    answer: str = ""


def read_record(engine: Engine, key: KeyView, now: int) -> tuple[RecordLine, ...]:
    """All of it, newest first (blocking)."""
    lines = [*_audited(engine, key)]
    if key.integrator:
        for each in list_overrides(engine):
            lines += _override(each, now)
    for held in subscriptions_of(engine, key, now):
        lines += _subscription(held)
    return tuple(sorted(lines, key=lambda line: -line.at))


def _audited(engine: Engine, key: KeyView) -> Iterator[RecordLine]:
    """Changes of the key, and of the tiers where they hold for it."""
    about = [col(AuditEntry.subject) == key.id]
    if key.integrator:
        about.append(col(AuditEntry.subject) == _TIERS)
    names = ("at", "actor_name", "action", "subject", "before", "after")
    columns = [col(getattr(AuditEntry, name)) for name in names]
    with engine.connect() as connection:
        rows = connection.execute(select(*columns).where(or_(*about))).all()
    for row in rows:
        if row.subject == _TIERS:
            yield RecordLine(row.at, Kind.PLAN, "", _tiers(row), row.actor_name)
        elif row.action in _CHANGES:
            yield RecordLine(row.at, Kind.KEY, "", _CHANGES[row.action], row.actor_name)


def _tiers(row: Any) -> str:
    before, after = (json.loads(text) if text else {} for text in (row.before, row.after))
    changed = [
        f"{noun}: {before.get(name, 'free')} to {after[name]}"
        for name, noun in (("calls", "API calls"), ("streams", "Streams"))
        if name in after and before.get(name, "free") != after[name]
    ]
    if changed:
        return f"Tier of this node changed, {', '.join(changed)}."
    return "The quotas of this node's tiers were changed."


def _override(each: Override, now: int) -> Iterator[RecordLine]:
    meter = _METERS[each.meter]
    cap = (
        "without a cap"
        if each.cap is None
        else f"up to {amount_text(each.meter, each.cap)} a month"
    )
    state = "holds" if each.holds(now) else "over"
    granted = f"Override granted: {meter} {cap}. {each.reason}"
    yield RecordLine(each.granted_at, Kind.OVERRIDE, "", granted, each.granted_by, state=state)
    if each.ended_at is not None:
        ended = f"Override of {meter} ended before its time."
        yield RecordLine(each.ended_at, Kind.OVERRIDE, "", ended, each.ended_by)


def _subscription(held: SubscriptionView) -> Iterator[RecordLine]:
    for change in held.changes:
        yield RecordLine(change.at, Kind.PLAN, held.listing, change.text, change.by)
    for order in held.orders:
        yield _payment(held, order)
    for request in held.requests:
        yield _request(held, request)


def _payment(held: SubscriptionView, order: OrderView) -> RecordLine:
    text = f"{_PAID[order.kind]}, plan {held.plan.name}."
    done = order.state is OrderState.DONE
    return RecordLine(
        at=order.done_at or order.created_at,
        kind=Kind.PAYMENT,
        about=held.listing,
        text=text if done or not order.detail else f"{text} {order.detail}",
        atoms=order.charged_atoms,
        tx_hash=order.tx_hash,
        state="" if done else order.state.value,
    )


def _request(held: SubscriptionView, request: RequestView) -> RecordLine:
    kind = Kind.OVERRIDE if request.kind == "override" else Kind.SUPPORT
    return RecordLine(
        at=request.asked_at,
        kind=kind,
        about=held.listing,
        text=request.text,
        by=request.asked_by,
        state=request.state,
        answer=request.answer,
    )
