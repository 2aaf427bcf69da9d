"""Notifications and deliveries as operators see them, by page and by filter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, func, select, true, tuple_
from sqlmodel import col

from finance.chunks import CHUNK, in_chunks
from node.alerts.errors import NotificationUnknown
from node.alerts.models import Channel, Delivery, Notification, NotificationState
from node.alerts.rules import Rule

PER_PAGE = 30


@dataclass(frozen=True, slots=True)
class NotificationView:
    """One incident; times in Unix seconds, None: not yet."""

    id: int
    rule: str
    subject: str
    severity: str
    message: str
    link: str
    state: str
    count: int
    opened_at: int
    last_at: int
    acknowledged_at: int | None
    acknowledged_by: str
    resolved_at: int | None
    resolved_by: str


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """Which notifications; None: all."""

    state: NotificationState | None = None
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class NotificationPage:
    """One page, newest first; `pages` is at least 1."""

    items: tuple[NotificationView, ...]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One message through one channel; times in Unix seconds."""

    id: str
    notification_id: int | None
    channel: str
    kind: str
    state: str
    attempts: int
    next_attempt_at: int
    last_error: str
    response_status: int | None
    created_at: int
    sent_at: int | None


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries; None: all."""

    channel: Channel | None = None
    notification_id: int | None = None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """One page, newest first; `pages` is at least 1."""

    items: tuple[DeliveryView, ...]
    total: int
    page: int
    pages: int


_NOTIFICATION = [col(getattr(Notification, name)) for name in NotificationView.__slots__]
_DELIVERY = [col(getattr(Delivery, name)) for name in DeliveryView.__slots__]


def count_new(engine: Engine) -> int:
    """How many wait for somebody (blocking)."""
    return _total(engine, _conditions(NotificationFilter(NotificationState.NEW)))


def new_ids(engine: Engine, rule: Rule | None) -> list[int]:
    """The ids of those that wait, of one rule or of all (blocking)."""
    conditions = _conditions(NotificationFilter(NotificationState.NEW, rule))
    with engine.connect() as connection:
        return list(connection.scalars(select(col(Notification.id)).where(*conditions)))


def read_notification(engine: Engine, notification_id: int) -> NotificationView:
    """One of them. Raises NotificationUnknown."""
    statement = select(*_NOTIFICATION).where(col(Notification.id) == notification_id)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotificationUnknown("There is no such notification.")
    return NotificationView(**row)


def list_notifications(engine: Engine, which: NotificationFilter, page: int) -> NotificationPage:
    """A page of what the filter shows; pages past the end are the last one (blocking)."""
    conditions = _conditions(which)
    total = _total(engine, conditions)
    page, pages = clamp_page(total, page)
    statement = select(*_NOTIFICATION).where(*conditions)
    rows = _rows(engine, statement, (col(Notification.id),), page)
    return NotificationPage(tuple(NotificationView(**row) for row in rows), total, page, pages)


def export_notifications(engine: Engine, which: NotificationFilter) -> Iterator[NotificationView]:
    """All that the filter shows, newest first."""
    newest = select(*_NOTIFICATION).where(*_conditions(which))
    newest = newest.order_by(col(Notification.id).desc()).limit(CHUNK)

    def read(last: NotificationView | None) -> list[NotificationView]:
        query = newest if last is None else newest.where(col(Notification.id) < last.id)
        with engine.connect() as connection:
            return [NotificationView(**row) for row in connection.execute(query).mappings()]

    return in_chunks(read)


def list_deliveries(engine: Engine, which: DeliveryFilter, page: int) -> DeliveryPage:
    """A page of what the filter shows; pages past the end are the last one (blocking)."""
    chosen = _chosen(which)
    with engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(Delivery).where(*chosen)) or 0
    page, pages = clamp_page(total, page)
    statement = select(*_DELIVERY).where(*chosen)
    rows = _rows(engine, statement, (col(Delivery.created_at), col(Delivery.id)), page)
    return DeliveryPage(tuple(DeliveryView(**row) for row in rows), total, page, pages)


def export_deliveries(engine: Engine, which: DeliveryFilter) -> Iterator[DeliveryView]:
    """All that the filter shows, newest first."""
    key = col(Delivery.created_at), col(Delivery.id)
    newest = select(*_DELIVERY).where(*_chosen(which))
    newest = newest.order_by(*(each.desc() for each in key)).limit(CHUNK)

    def read(last: DeliveryView | None) -> list[DeliveryView]:
        older = tuple_(*key) < (last.created_at, last.id) if last else true()
        with engine.connect() as connection:
            found = connection.execute(newest.where(older)).mappings()
            return [DeliveryView(**row) for row in found]

    return in_chunks(read)


def _chosen(which: DeliveryFilter) -> list[ColumnElement[bool]]:
    chosen: list[ColumnElement[bool]] = []
    if which.channel is not None:
        chosen.append(col(Delivery.channel) == which.channel.value)
    if which.notification_id is not None:
        chosen.append(col(Delivery.notification_id) == which.notification_id)
    return chosen


def clamp_page(total: int, page: int) -> tuple[int, int]:
    """(page, pages): a page there is, and how many there are; at least one."""
    pages = max(1, -(-total // PER_PAGE))
    return min(max(page, 1), pages), pages


def _rows(
    engine: Engine, statement: Select[Any], newest: tuple[Any, ...], page: int
) -> list[dict[str, Any]]:
    ordered = statement.order_by(*(each.desc() for each in newest))
    ordered = ordered.limit(PER_PAGE).offset((page - 1) * PER_PAGE)
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(ordered).mappings()]


def _conditions(which: NotificationFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [col(Notification.shown).is_(True)]
    if which.state is not None:
        conditions.append(col(Notification.state) == which.state.value)
    if which.rule is not None:
        conditions.append(col(Notification.rule) == which.rule.value)
    return conditions


def _total(engine: Engine, conditions: list[ColumnElement[bool]]) -> int:
    statement = select(func.count()).select_from(Notification).where(*conditions)
    with engine.connect() as connection:
        return connection.scalar(statement) or 0
