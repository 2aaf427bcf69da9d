"""Keys, calls, their sums, and the event log."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Index, Text
from sqlmodel import Field, SQLModel

from finance.columns import ROW_ID, index_where


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
    previous_hash: str | None = Field(
        default=None, unique=True, index=True, description="of the secret before it was rotated"
    )
    previous_until: int | None = Field(
        default=None, sa_type=BigInteger, description="Unix seconds; the old secret ends then"
    )
    owner_email: str = Field(default="", description="whom to write to about it")
    integrator: bool = Field(default=False, description="third party: metered, within quotas")
    scopes: str = Field(
        default="", sa_type=Text, description="ids of listings, one a line; empty: all"
    )
    per_minute: int | None = Field(
        default=None, sa_type=BigInteger, description="calls in any 60 seconds; null: no end"
    )
    version: int = Field(
        default=0, sa_type=BigInteger, index=True, description="grows with every change of any key"
    )


class Call(SQLModel, table=True):
    """One proxied request, bought or served. `side` is of `Side`; of a call of another network
    than the node's, and of its sums, see node.usage.set_aside."""

    __tablename__ = "call"
    # The only index beside the key, since every paid call writes it. It holds all that is
    # added up or filtered by, so that a part of a quarter-hour is read from it alone.
    __table_args__ = (
        Index(
            "ix_call_side_at",
            "side",
            "at_ms",
            "listing_id",
            "status",
            "amount_atoms",
            "latency_us",
        ),
    )

    id: str = Field(primary_key=True)
    side: str
    at_ms: int = Field(sa_type=BigInteger, description="Unix milliseconds at arrival")
    listing_id: str
    method: str
    path: str = Field(description="path below the listing, without query")
    route: str = Field(description="method and template, e.g. GET /forecast/{city}; GET /*")
    key_id: str | None = Field(default=None, description="bought: consumer key")
    payer: str | None = Field(default=None, description="served: who paid, an address or sub:<id>")
    scheme: str | None = Field(default=None, description="null when free")
    amount_atoms: int = Field(default=0, sa_type=BigInteger, description="charged, USDC atoms")
    status: int = Field(description="HTTP status given to the caller")
    error: str | None = Field(default=None, description="code when it failed")
    latency_us: int = Field(
        default=0, sa_type=BigInteger, description="microseconds until the answer was ready"
    )
    bytes_out: int = Field(default=0, sa_type=BigInteger)


class _Counters(SQLModel):
    """What is counted of calls, in every table of sums."""

    calls: int = Field(default=0, sa_type=BigInteger)
    errors: int = Field(default=0, sa_type=BigInteger, description="status >= 400")
    paid: int = Field(default=0, sa_type=BigInteger, description="calls that cost more than 0")
    amount_atoms: int = Field(default=0, sa_type=BigInteger, description="USDC atoms")
    latency_us: int = Field(default=0, sa_type=BigInteger, description="sum, microseconds")
    bytes_out: int = Field(default=0, sa_type=BigInteger)


class CallRollup(_Counters, table=True):
    """The last hours' calls per quarter-hour, side, listing, key or customer, route and
    status, added up as they are journaled. Quarter-hours, because the hours of every time
    zone are made of them. Rows that have become quiet move to the tables below
    (node.usage.totals); a call that ends later than that begins a row of its own here,
    which follows them."""

    __tablename__ = "call_rollup"
    __table_args__ = ({"sqlite_with_rowid": False},)

    side: str = Field(primary_key=True)
    slot: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix time of the quarter-hour's start"
    )
    listing_id: str = Field(primary_key=True)
    key_id: str = Field(
        primary_key=True, default="", description="served: the payer as in `call`, empty when free"
    )
    route: str = Field(primary_key=True, description="as in `call`")
    status: int = Field(primary_key=True, description="HTTP status given to the caller")


class CallHistory(_Counters, table=True):
    """The time before, without customers, routes and statuses; with `call_rollup` the whole."""

    __tablename__ = "call_history"
    __table_args__ = (
        # With what is counted, so that SQLite reads nothing else and does not prefer the key.
        Index("ix_call_history_listing", "side", "listing_id", "slot", "calls", "errors"),
        index_where("errors > 0", "ix_call_history_errors", "side", "slot", "errors"),
        {"sqlite_with_rowid": False},
    )

    side: str = Field(primary_key=True)
    slot: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix time of the quarter-hour's start"
    )
    listing_id: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True, default="", description="empty when served")


class CallTotal(_Counters, table=True):
    """Everything in `call_history`, per side, listing and key. All time is this and
    `call_rollup`."""

    __tablename__ = "call_total"

    side: str = Field(primary_key=True)
    listing_id: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True, default="", description="empty when served")


class UsageHour(_Counters, table=True):
    """The time before, by the hour (UTC) and with all that tells calls apart; with
    `call_rollup` the whole. Usage of a key or a customer is read from here."""

    __tablename__ = "usage_hour"
    __table_args__ = (
        Index("ix_usage_hour_hour", "side", "hour"),
        {"sqlite_with_rowid": False},
    )

    side: str = Field(primary_key=True)
    key_id: str = Field(primary_key=True, description="as in `call_rollup`")
    hour: int = Field(
        primary_key=True, sa_type=BigInteger, description="Unix time of the hour's start"
    )
    listing_id: str = Field(primary_key=True)
    route: str = Field(primary_key=True)
    status: int = Field(primary_key=True)


class Event(SQLModel, table=True):
    """A line of the event log."""

    __tablename__ = "event"
    __table_args__ = (Index("ix_event_severity", "severity", "id"),)

    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    at: int = Field(index=True, sa_type=BigInteger)
    type: str
    severity: str = Field(description="info, warning, error")
    message: str = Field(sa_type=Text)
