"""Listings: what can be called, at which price."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class ListingOrigin(StrEnum):
    OWN = "own"  # sold by this node; base_url is the upstream API
    REMOTE = "remote"  # bought; base_url is the seller's paid URL


class ListingMode(StrEnum):
    LIVE = "live"
    DEMO = "demo"


class PriceUnit(StrEnum):
    """What a price buys. A minute: of a stream; whatever ends like a plain answer is charged
    once, as a call."""

    CALL = "call"
    MINUTE = "minute"


class Listing(SQLModel, table=True):
    """One API in the catalog."""

    __tablename__ = "listing"
    __table_args__ = (
        UniqueConstraint("origin", "slug", name="uq_listing_slug"),
        CheckConstraint("price_atoms >= 0"),
    )

    id: str = Field(primary_key=True)
    origin: str = Field(default=ListingOrigin.OWN)
    slug: str = Field(description="name in URLs: /v1/{slug}/… and /call/{slug}/…")
    name: str = Field(description="3-80 characters")
    description: str = Field(default="", sa_type=Text, description="at most 500 characters")
    tags: str = Field(default="[]", description="JSON list of at most 20")
    base_url: str
    price_atoms: int = Field(default=0, sa_type=BigInteger, description="USDC atoms per unit")
    price_unit: str = Field(default=PriceUnit.CALL, description="call, minute")
    mode: str = Field(default=ListingMode.LIVE)
    paused: bool = False
    credential_kind: str = Field(default="none", description="none, header or query")
    credential_name: str = Field(default="", description="header or query parameter name")
    credential_secret: str = Field(
        default="", sa_type=Text, description="encrypted with the node's secret key; never shown"
    )
    spec: str = Field(default="", sa_type=Text, description="OpenAPI 3.x document, JSON")
    health_path: str = Field(
        default="",
        description="path below base_url that says whether the API is up; empty: base_url",
    )
    created_at: int = Field(default=0, sa_type=BigInteger)
    updated_at: int = Field(
        default=0, index=True, sa_type=BigInteger, description="grows with every change"
    )


class RoutePrice(SQLModel, table=True):
    """A price of its own for one route of a listing."""

    __tablename__ = "route_price"
    __table_args__ = (CheckConstraint("price_atoms >= 0"),)

    listing_id: str = Field(primary_key=True)
    method: str = Field(primary_key=True, description="upper case, or * for all")
    path: str = Field(primary_key=True, description="template, e.g. /forecast/{city}")
    price_atoms: int = Field(sa_type=BigInteger, description="USDC atoms per unit; 0 is free")
    price_unit: str = Field(default=PriceUnit.CALL, description="call, minute")


class ListingDraft(SQLModel, table=True):
    """A registration under way. Its id is the listing's once it is published."""

    __tablename__ = "listing_draft"

    id: str = Field(primary_key=True)
    name: str
    base_url: str
    description: str = Field(sa_type=Text)
    tags: str = Field(sa_type=Text, description="JSON list")
    health_path: str
    credential_kind: str = Field(description="none, header or query")
    credential_name: str
    credential_secret: str = Field(sa_type=Text, description="as in listing")
    spec_text: str = Field(sa_type=Text, description="the specification as it was given")
    spec: str = Field(sa_type=Text, description="compact JSON; empty while it has problems")
    problems: str = Field(
        sa_type=Text, description="JSON list of {pointer, line, message} of the specification"
    )
    upstream_status: int = Field(description="HTTP status of its last answer; 0: none yet")
    upstream_note: str = Field(
        sa_type=Text, description="why the upstream could not be reached; empty when it was"
    )
    started_by: str = Field(description="user id")
    created_at: int = Field(sa_type=BigInteger)
    updated_at: int = Field(sa_type=BigInteger)


class Sample(SQLModel, table=True):
    """A recorded answer, given for free in demo mode. Holds no credential of the upstream."""

    __tablename__ = "sample"
    __table_args__ = (UniqueConstraint("listing_id", "method", "target", name="uq_sample_request"),)

    id: str = Field(primary_key=True)
    listing_id: str = Field(description="listing or draft")
    method: str = Field(description="upper case")
    template: str = Field(description="the operation's path, e.g. /forecast/{city}")
    target: str = Field(description="path below the listing with its query, as requested")
    request_headers: str = Field(sa_type=Text, description="JSON list of [name, value]")
    request_type: str = Field(default="", description="content type of the request's body")
    request_body: str = Field(default="", sa_type=Text, description="at most 64 KiB")
    status: int = Field(description="HTTP status, 200 to 299")
    headers: str = Field(sa_type=Text, description="JSON list of [name, value], a harmless few")
    body: bytes = Field(sa_type=LargeBinary, description="at most 256 KiB")
    latency_us: int = Field(sa_type=BigInteger, description="microseconds the upstream took")
    recorded_at: int = Field(sa_type=BigInteger)


class ListingHealth(SQLModel, table=True):
    """Whether a listing's upstream answers, as last looked at."""

    __tablename__ = "listing_health"

    listing_id: str = Field(primary_key=True)
    checked_at: int = Field(sa_type=BigInteger)
    up: bool
    status: int = Field(description="HTTP status; 0 when there was no answer")
    latency_us: int = Field(sa_type=BigInteger, description="microseconds to the answer's head")
    failures: int = Field(description="in a row; 0 when up")
    note: str = Field(sa_type=Text, description="why it is down; empty when up")
    since: int = Field(sa_type=BigInteger, description="when it went up or down")
