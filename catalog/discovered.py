"""Tables of what is sold elsewhere, who told us, and what the catalog is searched by."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Text
from sqlmodel import Field, SQLModel


class Peer(SQLModel, table=True):
    """Somebody who lists resources: another node, or an x402 discovery (Bazaar) endpoint."""

    __tablename__ = "peer"

    id: str = Field(primary_key=True)
    name: str = Field(description="1-80 characters")
    url: str = Field(unique=True, description="where its list is; ends in /discovery/resources")
    enabled: bool = Field(default=True, description="whether the schedule reads it")
    created_at: int = Field(default=0, sa_type=BigInteger)
    asked_at: int | None = Field(
        default=None, sa_type=BigInteger, description="when it was last read, with or without luck"
    )
    synced_at: int | None = Field(
        default=None, sa_type=BigInteger, description="when it was last read to the end"
    )
    error: str = Field(default="", sa_type=Text, description="why not, a sentence; empty: it was")
    resources: int = Field(default=0, sa_type=BigInteger, description="resources it listed")
    skipped: int = Field(default=0, sa_type=BigInteger, description="of those, not taken over")
    skipped_why: str = Field(
        default="{}", sa_type=Text, description="JSON object: reason to number of resources"
    )


class RemoteListing(SQLModel, table=True):
    """What is known of a bought listing besides its row in `listing`."""

    __tablename__ = "remote_listing"

    listing_id: str = Field(primary_key=True)
    peer_id: str | None = Field(
        default=None, index=True, description="who listed it; null: added by address"
    )
    base_url: str = Field(unique=True, description="the seller's address, as in `listing`")
    online: bool = Field(default=True, description="listed, or answering, when last looked at")
    seen_at: int = Field(sa_type=BigInteger, description="when it was last online")
    network: str = Field(default="", description="CAIP-2, e.g. eip155:8453")
    schemes: str = Field(default="[]", description="JSON list of x402 schemes it takes")
    pay_to: str = Field(default="", description="0x address that is paid")
    seller_demo: bool = Field(
        default=False, description="whether the seller itself answers demo requests"
    )
    named_here: bool = Field(
        default=False, description="name, description and tags are the operator's, not the seller's"
    )
    digest: str = Field(default="", description="of what was taken over; equal: nothing to do")


class CatalogEntry(SQLModel, table=True):
    """A listing as the catalog sorts and filters it; made from `listing`, never edited."""

    __tablename__ = "catalog_entry"
    __table_args__ = (CheckConstraint("price_from_atoms >= 0"),)

    listing_id: str = Field(primary_key=True)
    version: int = Field(sa_type=BigInteger, description="`listing.updated_at` it was made from")
    origin: str = Field(description="own or remote, as in `listing`")
    name_key: str = Field(index=True, description="the name, folded for sorting")
    paused: bool = Field(description="as in `listing`")
    price_from_atoms: int = Field(sa_type=BigInteger, description="cheapest call, USDC atoms")
    price_to_atoms: int = Field(sa_type=BigInteger, description="dearest call, USDC atoms")
    price_unit: str = Field(default="call", description="call, minute, or mixed")
    routes: int = Field(default=0, sa_type=BigInteger, description="operations that are described")
    created_at: int = Field(default=0, sa_type=BigInteger)


class CatalogTag(SQLModel, table=True):
    """One tag of one listing, folded to lower case."""

    __tablename__ = "catalog_tag"

    tag: str = Field(primary_key=True)
    listing_id: str = Field(primary_key=True, index=True)


class Star(SQLModel, table=True):
    """A listing somebody marked as theirs (My APIs)."""

    __tablename__ = "star"

    user_id: str = Field(primary_key=True)
    listing_id: str = Field(primary_key=True, index=True)
    at: int = Field(sa_type=BigInteger)
