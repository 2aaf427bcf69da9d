"""Keys, calls, their hourly rollups, and the event log."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from finance.models import ROW_ID


class Side(StrEnum):
    SERVED = "served"
    BOUGHT = "bought"


class ConsumerKey(SQLModel, table=True):
    """A bearer secret for the buyer's apps; only its hash is kept."""

    __tablename__ = "consumer_key"

    id: str = Field(primary_key=True)
    name: str
    secret_hash: str = Field(unique=True, description="SHA-256 of the secret, hex")
    created_at: int = Field(default=0, sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)
    last_used_at: int | None = Field(default=None, sa_type=BigInteger)


class Call(SQLModel, table=True):
    """One proxied request, bought or served."""

    __tablename__ = "call"
    __table_args__ = (Index("ix_call_side_at", "side", "at_ms"),)

    id: str = Field(primary_key=True)
    side: str
    at_ms: int = Field(sa_type=BigInteger, description="Unix milliseconds at arrival")
    listing_id: str
    method: str
    path: str = Field(description="path below the listing, without query")
    key_id: str | None = Field(default=None, description="bought: consumer key")
    payer: str | None = Field(default=None, description="served: who paid")
    scheme: str | None = Field(default=None, description="null when free")
    amount_atoms: int = Field(default=0, sa_type=BigInteger, description="charged, USDC atoms")
    status: int = Field(description="HTTP status given to the caller")
    error: str | None = Field(default=None, description="code when it failed")
    latency_us: int = Field(
        default=0, sa_type=BigInteger, description="microseconds until the answer was ready"
    )
    bytes_out: int = Field(default=0, sa_type=BigInteger)


class CallRollup(SQLModel, table=True):
    """Calls per hour, side, listing and key. Dashboards read this, never `call`."""

    __tablename__ = "call_rollup"

    side: str = Field(primary_key=True)
    hour: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix time of the hour's start"
    )
    listing_id: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True, default="", description="empty when served")
    calls: int = Field(default=0, sa_type=BigInteger)
    errors: int = Field(default=0, sa_type=BigInteger, description="status >= 400")
    paid: int = Field(default=0, sa_type=BigInteger)
    amount_atoms: int = Field(default=0, sa_type=BigInteger, description="USDC atoms")
    latency_us: int = Field(default=0, sa_type=BigInteger, description="sum, microseconds")
    bytes_out: int = Field(default=0, sa_type=BigInteger)


class Event(SQLModel, table=True):
    """A line of the event log."""

    __tablename__ = "event"

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    at: int = Field(index=True, sa_type=BigInteger)
    type: str
    severity: str = Field(description="info, warning, error")
    message: str = Field(sa_type=Text)
