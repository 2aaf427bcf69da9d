"""Tables of notifications: incidents, their deliveries, and the mail that was sent."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID, index_where


class NotificationState(StrEnum):
    """new -> acknowledged -> resolved, or new -> resolved."""

    NEW = "new"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Notification(SQLModel, table=True):
    """One incident, from its first report to its end."""

    __tablename__ = "notification"
    __table_args__ = (
        # However many report it at once: one open incident per rule and subject.
        index_where("resolved_at IS NULL", "uq_notification_open", "rule", "subject", unique=True),
        Index("ix_notification_state", "state", "id"),
        Index("ix_notification_rule", "rule", "id"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    rule: str = Field(description="see node.alerts.rules.Rule")
    subject: str = Field(description="what it is about: a listing, a peer, a job; may be empty")
    severity: str = Field(description="info, warning, error")
    message: str = Field(sa_type=Text, description="one sentence, one line")
    link: str = Field(sa_type=Text, description="path of the page where it is dealt with")
    state: str = Field(default=NotificationState.NEW)
    shown: bool = Field(default=True, description="false: its rule was off, only the log has it")
    count: int = Field(default=1, sa_type=BigInteger, description="how often it was reported")
    opened_at: int = Field(sa_type=BigInteger)
    last_at: int = Field(sa_type=BigInteger, description="when it was reported last")
    acknowledged_at: int | None = Field(default=None, sa_type=BigInteger)
    acknowledged_by: str = Field(default="", description="name of who did")
    resolved_at: int | None = Field(default=None, sa_type=BigInteger)
    resolved_by: str = Field(default="", description="name of who did; empty: it ended by itself")


class Channel(StrEnum):
    EMAIL = "email"
    WEBHOOK = "webhook"


class DeliveryKind(StrEnum):
    OPENED = "opened"
    RESOLVED = "resolved"
    TEST = "test"


class DeliveryState(StrEnum):
    """pending -> sending -> sent | kept | failed | given_up; failed -> sending.

    `sending` is stored before anything leaves: found after its lease, the outcome is
    unknown, and it is sent once more.
    """

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    KEPT = "kept"  # no SMTP server is set: it lies in the local mailbox only
    FAILED = "failed"  # will be tried again
    GIVEN_UP = "given_up"


class Delivery(SQLModel, table=True):
    """One message about an incident through one channel."""

    __tablename__ = "delivery"
    __table_args__ = (
        Index("ix_delivery_due", "state", "next_attempt_at"),
        Index("ix_delivery_notification", "notification_id"),
    )

    id: str = Field(primary_key=True, description="128 random bits, hex; receivers see it")
    notification_id: int | None = Field(
        default=None, sa_type=BigInteger, description="null for a test"
    )
    channel: str
    kind: str
    state: str = Field(default=DeliveryState.PENDING)
    attempts: int = Field(default=0, sa_type=BigInteger)
    next_attempt_at: int = Field(
        sa_type=BigInteger, description="not before; while sending: end of the lease"
    )
    last_error: str = Field(default="", sa_type=Text)
    response_status: int | None = Field(default=None, description="HTTP or SMTP status")
    created_at: int = Field(sa_type=BigInteger)
    sent_at: int | None = Field(default=None, sa_type=BigInteger)


class Mail(SQLModel, table=True):
    """One mail as it was sent, or would have been: the local mailbox."""

    __tablename__ = "mail"

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    at: int = Field(sa_type=BigInteger)
    state: str = Field(description="sent, kept (no SMTP server is set), failed")
    sender: str = Field(sa_type=Text)
    recipients: str = Field(sa_type=Text, description="JSON list of addresses")
    subject: str = Field(sa_type=Text)
    text: str = Field(sa_type=Text, description="the plain part")
    html: str = Field(sa_type=Text, description="the HTML part; empty when there is none")
    attachments: str = Field(default="[]", sa_type=Text, description="JSON list of names")
    message_id: str = Field(description="Message-ID header")
    delivery_id: str = Field(default="", description="empty when no notification sent it")
    error: str = Field(default="", sa_type=Text)
