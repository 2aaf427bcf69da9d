"""The life of a delivery in the database: claimed before it leaves, recorded afterwards.

A row is sent by whoever claims it. A process that dies in between leaves `sending`
behind; when its lease is over the outcome is unknown, and it is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, select, update
from sqlalchemy.orm import aliased
from sqlmodel import col

from node.alerts.errors import DeliveryUnknown
from node.alerts.models import Channel, Delivery, DeliveryKind, DeliveryState
from node.alerts.reading import DeliveryView
from node.db.engine import writer

LEASE_SECONDS = 120  # longer than any attempt takes
RETRY_SECONDS = (10, 60, 300, 1800, 7200)  # after the first, second, … failure; then given up
MOST_AT_ONCE = 8

_OPEN = (DeliveryState.PENDING.value, DeliveryState.FAILED.value, DeliveryState.SENDING.value)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery this process may send now; `attempt` counts from 1."""

    id: str
    notification_id: int | None
    channel: Channel
    kind: DeliveryKind
    attempt: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: SENT, KEPT, FAILED (to be tried again) or GIVEN_UP."""

    state: DeliveryState
    status: int | None = None
    error: str = ""


def retry_at(attempt: int, now: int) -> int | None:
    """When to try again after the failure of `attempt`; None: not any more."""
    return now + RETRY_SECONDS[attempt - 1] if attempt <= len(RETRY_SECONDS) else None


def claim_due(engine: Engine, now: int) -> list[Claimed]:
    """Take what is due, oldest first (blocking); nothing due costs one read."""
    statement = select(col(Delivery.id)).where(_due(now))
    ordered = statement.order_by(col(Delivery.next_attempt_at)).limit(MOST_AT_ONCE)
    with engine.connect() as connection:
        ids = list(connection.scalars(ordered))
    if not ids:
        return []
    with writer(engine).begin() as connection:
        claimed = [_claim(connection, each, now) for each in ids]
    return [each for each in claimed if each is not None]


def claim_one(engine: Engine, delivery_id: str, now: int) -> Claimed | None:
    """Take this one; None when somebody else has it (blocking)."""
    with writer(engine).begin() as connection:
        return _claim(connection, delivery_id, now)


def _due(now: int) -> ColumnElement[bool]:
    """That something ended is told after that it began, also when that had to be repeated."""
    earlier = aliased(Delivery)
    waits = exists().where(
        col(earlier.notification_id) == col(Delivery.notification_id),
        col(earlier.channel) == col(Delivery.channel),
        col(earlier.kind) == DeliveryKind.OPENED.value,
        col(earlier.state).in_(_OPEN),
    )
    return and_(
        col(Delivery.state).in_(_OPEN),
        _is_time(now),
        (col(Delivery.kind) != DeliveryKind.RESOLVED.value) | ~waits,
    )


def _is_time(now: int) -> ColumnElement[bool]:
    """Also for what waits longer than any does: the clock that said until when was wrong."""
    at = col(Delivery.next_attempt_at)
    return (at <= now) | (at > now + RETRY_SECONDS[-1])


def _claim(connection: Connection, delivery_id: str, now: int) -> Claimed | None:
    statement = (
        update(Delivery)
        .where(
            col(Delivery.id) == delivery_id,
            col(Delivery.state).in_(_OPEN),
            _is_time(now),
        )
        .values(
            state=DeliveryState.SENDING,
            attempts=col(Delivery.attempts) + 1,
            next_attempt_at=now + LEASE_SECONDS,
        )
        .returning(
            col(Delivery.notification_id),
            col(Delivery.channel),
            col(Delivery.kind),
            col(Delivery.attempts),
            col(Delivery.created_at),
        )
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    notification_id, channel, kind, attempt, created_at = row
    return Claimed(
        delivery_id, notification_id, Channel(channel), DeliveryKind(kind), attempt, created_at
    )


def record_outcome(engine: Engine, claimed: Claimed, outcome: Outcome, now: int) -> None:
    """Store what came of it; nothing if the lease was lost to a later attempt (blocking)."""
    state, again = outcome.state, None
    if state is DeliveryState.FAILED:
        # Whoever asked for a test sees what came of it, and asks again.
        test = claimed.kind is DeliveryKind.TEST
        again = None if test else retry_at(claimed.attempt, now)
        state = DeliveryState.FAILED if again is not None else DeliveryState.GIVEN_UP
    done = state in (DeliveryState.SENT, DeliveryState.KEPT)
    statement = (
        update(Delivery)
        .where(
            col(Delivery.id) == claimed.id,
            col(Delivery.state) == DeliveryState.SENDING.value,
            col(Delivery.attempts) == claimed.attempt,
        )
        .values(
            state=state,
            next_attempt_at=now if again is None else again,
            last_error=outcome.error,
            response_status=outcome.status,
            sent_at=now if done else None,
        )
    )
    with writer(engine).begin() as connection:
        connection.execute(statement)


def read_delivery(engine: Engine, delivery_id: str) -> DeliveryView:
    """One delivery. Raises DeliveryUnknown."""
    columns = [col(getattr(Delivery, name)) for name in DeliveryView.__slots__]
    with engine.connect() as connection:
        statement = select(*columns).where(col(Delivery.id) == delivery_id)
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise DeliveryUnknown("There is no such delivery.")
    return DeliveryView(**row)
