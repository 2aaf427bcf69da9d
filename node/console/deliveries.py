"""Deliveries and mails as tables show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from node.alerts.mailbox import MailRecord
from node.alerts.models import DeliveryState
from node.alerts.reading import DeliveryView
from node.console.format import Moment, Short, moment, short

DELIVERY_HEADER = (
    "id",
    "notification_id",
    "channel",
    "kind",
    "state",
    "attempts",
    "response_status",
    "last_error",
    "created_at",
    "sent_at",
)
MAIL_HEADER = ("id", "at", "state", "sender", "recipients", "subject", "error")
_TONES = {
    "sent": "good",
    "kept": "info",
    "failed": "loud",
    "given_up": "bad",
}
_LABELS = {"given_up": "Given up", "kept": "In the mailbox", "failed": "To be repeated"}


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery; `about` is the address of its notification, empty for a test."""

    id: Short
    about: str
    channel: str
    kind: str
    state: str
    tone: str
    attempts: int
    status: str
    error: str
    created: Moment
    sent: Moment | None
    due: Moment | None


@dataclass(frozen=True, slots=True)
class MailRow:
    """One mail of the mailbox."""

    id: int
    at: Moment
    state: str
    tone: str
    sender: str
    recipients: str
    subject: str
    error: str


def delivery_row(found: DeliveryView, now: int, zone: ZoneInfo) -> DeliveryRow:
    """A delivery, formatted."""
    waiting = found.state in (DeliveryState.PENDING, DeliveryState.FAILED)
    known = found.notification_id is not None
    return DeliveryRow(
        id=short(found.id),
        about=f"/notifications/{found.notification_id}" if known else "",
        channel=found.channel.capitalize(),
        kind=found.kind.capitalize(),
        state=_LABELS.get(found.state, found.state.capitalize()),
        tone=_TONES.get(found.state, "plain"),
        attempts=found.attempts,
        status="" if found.response_status is None else str(found.response_status),
        error=found.last_error,
        created=moment(found.created_at, now, zone),
        sent=None if found.sent_at is None else moment(found.sent_at, now, zone),
        due=moment(found.next_attempt_at, now, zone) if waiting else None,
    )


def delivery_cells(rows: Iterator[DeliveryView]) -> Iterator[list[object]]:
    """Rows of the CSV, as DELIVERY_HEADER names them."""
    for row in rows:
        yield [getattr(row, name) for name in DELIVERY_HEADER]


def mail_row(found: MailRecord, now: int, zone: ZoneInfo) -> MailRow:
    """A mail, formatted."""
    return MailRow(
        id=found.id,
        at=moment(found.at, now, zone),
        state={"kept": "Not sent"}.get(found.state, found.state.capitalize()),
        tone={"sent": "good", "kept": "info"}.get(found.state, "bad"),
        sender=found.sender,
        recipients=", ".join(found.recipients),
        subject=found.subject,
        error=found.error,
    )


def mail_cells(rows: Iterator[MailRecord]) -> Iterator[list[object]]:
    """Rows of the CSV, as MAIL_HEADER names them."""
    for row in rows:
        cells = [getattr(row, name) for name in MAIL_HEADER]
        yield [", ".join(cell) if isinstance(cell, tuple) else cell for cell in cells]
