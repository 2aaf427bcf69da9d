"""The local mailbox: every mail that was sent, or would have been, as it was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select
from sqlmodel import col

from finance.chunks import CHUNK, in_chunks
from node.alerts.errors import DeliveryUnknown
from node.alerts.models import Mail
from node.alerts.reading import PER_PAGE, clamp_page
from node.db.engine import writer

MOST_KEPT = 500


class MailState(StrEnum):
    SENT = "sent"
    KEPT = "kept"  # no SMTP server is set
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class MailRecord:
    """One mail; `at` in Unix seconds, `error` empty when all recipients were accepted."""

    at: int
    state: MailState
    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str
    attachments: tuple[str, ...]
    message_id: str
    delivery_id: str
    error: str
    id: int = 0


@dataclass(frozen=True, slots=True)
class MailPage:
    """One page, newest first; `pages` is at least 1."""

    items: tuple[MailRecord, ...]
    total: int
    page: int
    pages: int


def keep(engine: Engine, mail: MailRecord) -> None:
    """Put it into the mailbox, in place of an earlier attempt of its delivery (blocking)."""
    row = {
        "at": mail.at,
        "state": mail.state.value,
        "sender": mail.sender,
        "recipients": json.dumps(mail.recipients),
        "subject": mail.subject,
        "text": mail.text,
        "html": mail.html,
        "attachments": json.dumps(mail.attachments),
        "message_id": mail.message_id,
        "delivery_id": mail.delivery_id,
        "error": mail.error,
    }
    oldest_kept = select(col(Mail.id)).order_by(col(Mail.id).desc()).offset(MOST_KEPT - 1).limit(1)
    with writer(engine).begin() as connection:
        if mail.delivery_id:
            connection.execute(delete(Mail).where(col(Mail.delivery_id) == mail.delivery_id))
        connection.execute(insert(Mail), row)
        connection.execute(delete(Mail).where(col(Mail.id) < oldest_kept.scalar_subquery()))


def list_mail(engine: Engine, page: int) -> MailPage:
    """A page of the mailbox (blocking)."""
    with engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(Mail)) or 0
        page, pages = clamp_page(total, page)
        statement = select(Mail.__table__).order_by(col(Mail.id).desc())  # type: ignore[attr-defined]
        rows = connection.execute(statement.limit(PER_PAGE).offset((page - 1) * PER_PAGE))
        return MailPage(tuple(_record(row) for row in rows.mappings()), total, page, pages)


def export_mail(engine: Engine) -> Iterator[MailRecord]:
    """The whole mailbox, newest first."""
    newest = select(Mail.__table__).order_by(col(Mail.id).desc()).limit(CHUNK)  # type: ignore[attr-defined]

    def read(last: MailRecord | None) -> list[MailRecord]:
        query = newest if last is None else newest.where(col(Mail.id) < last.id)
        with engine.connect() as connection:
            return [_record(row) for row in connection.execute(query).mappings()]

    return in_chunks(read)


def read_mail(engine: Engine, mail_id: int) -> MailRecord:
    """One mail. Raises DeliveryUnknown."""
    statement = select(Mail.__table__).where(col(Mail.id) == mail_id)  # type: ignore[attr-defined]
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise DeliveryUnknown(f"There is no such mail; the last {MOST_KEPT} are kept.")
    return _record(row)


def _record(row: Any) -> MailRecord:
    fields = dict(row)
    fields["state"] = MailState(fields["state"])
    fields["recipients"] = tuple(json.loads(fields["recipients"]))
    fields["attachments"] = tuple(json.loads(fields["attachments"]))
    return MailRecord(**fields)
