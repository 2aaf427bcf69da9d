"""Tables of what is counted against quotas, and of what lifts them."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Index, Text
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID


class QuotaUsage(SQLModel, table=True):
    """What a subject has used of a meter in a month; added up in the transaction of the call."""

    __tablename__ = "quota_usage"
    __table_args__ = (
        Index("ix_quota_usage_window", "window_start", "meter"),
        CheckConstraint("used >= 0", name="quota_usage_not_negative"),
    )

    subject: str = Field(primary_key=True, description="key:<consumer key>, sub:<subscription>")
    meter: str = Field(primary_key=True, description="calls, stream_seconds")
    window_start: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix seconds; 1st of a month, 00:01 UTC"
    )
    used: int = Field(sa_type=BigInteger, description="calls, or seconds of streams")


class QuotaLease(SQLModel, table=True):
    """A process's share of what is left of a quota, where several share a database
    (node.usage.leases). What it may still use of it is `allowed - used`."""

    __tablename__ = "quota_lease"

    subject: str = Field(primary_key=True, description="as in quota_usage, or all of a kind: key:")
    meter: str = Field(primary_key=True)
    window_start: int = Field(primary_key=True, sa_type=BigInteger)
    owner: int = Field(
        primary_key=True, sa_type=BigInteger, description="number of the process; 0: to queue up at"
    )
    allowed: int = Field(sa_type=BigInteger, description="calls, or seconds of streams")
    used: int = Field(sa_type=BigInteger, description="of that, counted in quota_usage")


class RateHits(SQLModel, table=True):
    """Calls refused because they came too fast, per subject and quarter-hour."""

    __tablename__ = "rate_hits"

    subject: str = Field(primary_key=True, description="as in quota_usage")
    slot: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix time of the quarter-hour's start"
    )
    hits: int = Field(sa_type=BigInteger)


class QuotaOverride(SQLModel, table=True):
    """Another cap for a while; it ends by itself, or is ended before."""

    __tablename__ = "quota_override"
    __table_args__ = (
        CheckConstraint("ends_at >= starts_at", name="quota_override_lasts"),
        CheckConstraint("cap IS NULL OR cap >= 0", name="quota_override_cap"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    subject: str = Field(index=True, description="key: for all integrators, or a subscription")
    meter: str
    cap: int | None = Field(
        sa_type=BigInteger, description="calls or seconds a month; null: none at all"
    )
    starts_at: int = Field(sa_type=BigInteger, description="Unix seconds")
    ends_at: int = Field(sa_type=BigInteger, description="Unix seconds; not later than that")
    reason: str = Field(sa_type=Text)
    granted_by: str = Field(description="name of the user, as it was then")
    granted_at: int = Field(sa_type=BigInteger)
    ended_at: int | None = Field(default=None, sa_type=BigInteger, description="ended by hand")
    ended_by: str = Field(default="")


class QuotaNotice(SQLModel, table=True):
    """What was told about a quota in a month: never again in that month."""

    __tablename__ = "quota_notice"

    subject: str = Field(primary_key=True)
    meter: str = Field(primary_key=True)
    window_start: int = Field(primary_key=True, sa_type=BigInteger)
    rule: str = Field(primary_key=True, description="as in notification")
    at: int = Field(sa_type=BigInteger, description="Unix seconds")
