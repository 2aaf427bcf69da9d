"""Listings: what can be called, at which price."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


class ListingOrigin(StrEnum):
    OWN = "own"  # sold by this node; base_url is the upstream API
    REMOTE = "remote"  # bought; base_url is the seller's paid URL


class ListingMode(StrEnum):
    LIVE = "live"
    DEMO = "demo"


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
    price_atoms: int = Field(default=0, sa_type=BigInteger, description="USDC atoms per call")
    mode: str = Field(default=ListingMode.LIVE)
    paused: bool = False
    credential_kind: str = Field(default="none", description="none, header or query")
    credential_name: str = Field(default="", description="header or query parameter name")
    credential_secret: str = Field(
        default="", sa_type=Text, description="encrypted with the node's secret key; never shown"
    )
    spec: str = Field(default="", sa_type=Text, description="OpenAPI 3.x document, JSON")
    created_at: int = Field(default=0, sa_type=BigInteger)
    updated_at: int = Field(default=0, sa_type=BigInteger)


class RoutePrice(SQLModel, table=True):
    """A price of its own for one route of a listing."""

    __tablename__ = "route_price"
    __table_args__ = (CheckConstraint("price_atoms >= 0"),)

    listing_id: str = Field(primary_key=True)
    method: str = Field(primary_key=True, description="upper case, or * for all")
    path: str = Field(primary_key=True, description="template, e.g. /forecast/{city}")
    price_atoms: int = Field(sa_type=BigInteger, description="USDC atoms per call; 0 is free")
