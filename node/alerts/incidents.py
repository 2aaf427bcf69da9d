"""The life of an incident in the database: opened once, told once, ended once.

Functions take the caller's transaction: an incident, its line of the event log and the
deliveries to be made become durable together or not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select, text, update
from sqlmodel import col

from node.alerts.choices import AlertRules
from node.alerts.models import (
    Channel,
    Delivery,
    DeliveryKind,
    Notification,
    NotificationState,
)
from node.alerts.rules import Level, Rule, Severity
from node.alerts.text import one_line
from node.usage.events import INSERT_EVENT

MESSAGE_CHARACTERS = 500
SUBJECT_CHARACTERS = 200

_CHANNELS: dict[Level, tuple[Channel, ...]] = {
    Level.OFF: (),
    Level.PANEL: (),
    Level.EMAIL: (Channel.EMAIL,),
    Level.EMAIL_WEBHOOK: (Channel.EMAIL, Channel.WEBHOOK),
}

# The partial unique index decides; the same words on SQLite and PostgreSQL.
_OPEN = text(
    "INSERT INTO notification (rule, subject, severity, message, link, state, shown, count,"
    " opened_at, last_at, acknowledged_by, resolved_by)"
    " VALUES (:rule, :subject, :severity, :message, :link, 'new', :shown, 1,"
    " :now, :now, '', '') ON CONFLICT DO NOTHING RETURNING id"
)
_COUNT = (
    update(Notification)
    .where(col(Notification.resolved_at).is_(None))
    .values(count=col(Notification.count) + 1)
)


def open_incident(
    connection: Connection, rules: AlertRules, row: dict[str, Any], rule: Rule, now: int
) -> bool:
    """Open (rule, row["subject"]) with its `message` and `link`, or count the report if it is
    open. True when there is something to tell."""
    choice = rules.of(rule)
    shown = choice.level != Level.OFF
    values = row | {"rule": rule.value, "severity": choice.severity.value}
    opened = connection.execute(_OPEN, values | {"shown": shown, "now": now}).scalar()
    if opened is None:
        shown_now = _report_again(connection, rule, row["subject"], shown, now)
        if shown_now is not None:
            queue(connection, shown_now, _CHANNELS[choice.level], DeliveryKind.OPENED, now)
        return shown_now is not None
    log(connection, rule.value, choice.severity, row["message"], now)
    queue(connection, opened, _CHANNELS[choice.level], DeliveryKind.OPENED, now)
    return shown


def _report_again(
    connection: Connection, rule: Rule, subject: str, shown: bool, now: int
) -> int | None:
    """Count one more report. The incident's id when its rule has been switched on since."""
    same = (col(Notification.rule) == rule.value, col(Notification.subject) == subject)
    connection.execute(_COUNT.where(*same).values(last_at=now))
    if not shown:
        return None
    hidden = (col(Notification.resolved_at).is_(None), col(Notification.shown).is_(False))
    statement = update(Notification).where(*same, *hidden).values(shown=True)
    return connection.execute(statement.returning(col(Notification.id))).scalar()


def end_incidents(
    connection: Connection, ids: Iterable[int], notify: bool, by: str, now: int
) -> list[int]:
    """Resolve those of `ids` that are open, and tell whoever was told that they opened.
    `by` names who did it; empty: it ended by itself."""
    ended = [row for each in ids if (row := _end(connection, each, by, now)) is not None]
    for row in ended:
        how = f"{by} marked it as resolved" if by else "Resolved"
        log(connection, f"{row.rule}_resolved", Severity.INFO, f"{how}: {row.message}", now)
        if notify:
            told = _told(connection, row.id)
            queue(connection, row.id, told, DeliveryKind.RESOLVED, now)
    return [row.id for row in ended]


def _end(connection: Connection, notification_id: int, by: str, now: int) -> Any:
    statement = (
        update(Notification)
        .where(col(Notification.id) == notification_id, col(Notification.resolved_at).is_(None))
        .values(state=NotificationState.RESOLVED, resolved_at=now, resolved_by=by)
        .returning(col(Notification.id), col(Notification.rule), col(Notification.message))
    )
    return connection.execute(statement).first()


def open_ids(connection: Connection, rule: Rule) -> dict[str, int]:
    """The open incidents of a rule: subject -> id."""
    statement = select(col(Notification.subject), col(Notification.id)).where(
        col(Notification.rule) == rule.value, col(Notification.resolved_at).is_(None)
    )
    return {row.subject: row.id for row in connection.execute(statement)}


def open_id(connection: Connection, rule: Rule, subject: str) -> int | None:
    """The open incident of (rule, subject)."""
    statement = select(col(Notification.id)).where(
        col(Notification.rule) == rule.value,
        col(Notification.subject) == subject,
        col(Notification.resolved_at).is_(None),
    )
    return connection.scalar(statement)


def queue(
    connection: Connection,
    notification_id: int | None,
    channels: Iterable[Channel],
    kind: DeliveryKind,
    now: int,
) -> list[str]:
    """Store that something is to be sent; the ids of the deliveries."""
    rows = [
        {
            "id": secrets.token_hex(16),
            "notification_id": notification_id,
            "channel": channel.value,
            "kind": kind.value,
            "next_attempt_at": now,
            "created_at": now,
        }
        for channel in channels
    ]
    if rows:
        connection.execute(insert(Delivery), rows)
    return [str(row["id"]) for row in rows]


def _told(connection: Connection, notification_id: int) -> list[Channel]:
    statement = select(col(Delivery.channel)).where(
        col(Delivery.notification_id) == notification_id,
        col(Delivery.kind) == DeliveryKind.OPENED.value,
    )
    return [Channel(channel) for channel in connection.scalars(statement)]


def log(connection: Connection, type_: str, severity: Severity, message: str, now: int) -> None:
    """One line of the event log."""
    row = {"at": now, "type": type_, "severity": severity.value, "message": message}
    connection.execute(INSERT_EVENT, row)


def incident_row(subject: str, message: str, link: str) -> dict[str, Any]:
    """What is stored of a report: names of strangers on one line, a link within the console."""
    return {
        "subject": one_line(subject, SUBJECT_CHARACTERS),
        "message": one_line(message, MESSAGE_CHARACTERS),
        "link": link if _is_path(link) else "/notifications",
    }


def _is_path(link: str) -> bool:
    """A path of ours: browsers read `//host` and `/\\host` as other hosts."""
    return (
        link.startswith("/")
        and not link.startswith(("//", "/\\"))
        and all(character.isprintable() and character != "\\" for character in link)
    )
