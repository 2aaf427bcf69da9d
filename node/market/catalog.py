"""The catalog as people use it: look, mark, switch, take out. Pages and JSON API call these.

Everything here blocks, except what must tell the running node at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select
from sqlmodel import col

from catalog.discovered import RemoteListing
from catalog.editing import read_listing
from catalog.errors import ListingUnknown
from catalog.listings import PricedListing, compile_listing
from catalog.models import Listing, ListingMode, ListingOrigin, RoutePrice, Sample
from catalog.remote import change_mode, remove_remote
from catalog.search import Found, find_one
from catalog.search_index import refresh_index
from catalog.stars import set_star
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.market.explore import Explained, explain

Reload = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A sample of a listing. `declared`: the seller's own example, not an answer."""

    id: str
    method: str
    target: str
    status: int
    media_type: str
    body: bytes
    recorded_at: int
    declared: bool


@dataclass(frozen=True, slots=True)
class Detail:
    """Everything the catalog knows of a listing. `seen_at` is None for what nobody looked at."""

    found: Found
    base_url: str
    spec: str
    network: str
    pay_to: str
    seen_at: int | None
    operations: tuple[Explained, ...]
    samples: tuple[Recorded, ...]

    @property
    def own(self) -> bool:
        return self.found.origin is ListingOrigin.OWN


def read_detail(engine: Engine, listing_id: str, user_id: str) -> Detail:
    """One listing. Raises ListingUnknown."""
    found = find_one(engine, listing_id, user_id)
    if found is None:
        refresh_index(writer(engine))
        found = find_one(engine, listing_id, user_id)
    if found is None:
        raise ListingUnknown("There is no such listing. It may have been removed.")
    with engine.connect() as connection:
        listing, prices = read_listing(connection, listing_id)
        remote = _remote(connection, listing_id)
        samples = _samples(connection, listing_id)
    return Detail(
        found=found,
        base_url=listing.base_url,
        spec=listing.spec,
        network=remote.network if remote else "",
        pay_to=remote.pay_to if remote else "",
        seen_at=remote.seen_at if remote else None,
        operations=explain(_readable(listing, prices)),
        samples=samples,
    )


def star(engine: Engine, actor: Actor, listing_id: str, starred: bool, now: int) -> None:
    """Mark a listing as one's own API, or not. Raises ListingUnknown."""
    with writer(engine).begin() as connection:
        set_star(connection, actor.id, listing_id, starred, now)


async def switch(
    engine: Engine, actor: Actor, listing_id: str, demo: bool, now: int, reload: Reload
) -> None:
    """Answer a bought listing's calls with samples, or buy them. Raises ListingUnknown.

    It holds in this process when this returns, in others within a second.
    """
    mode = ListingMode.DEMO if demo else ListingMode.LIVE
    await asyncio.to_thread(_switch, engine, actor, listing_id, mode, now)
    await reload()


def _switch(engine: Engine, actor: Actor, listing_id: str, mode: ListingMode, now: int) -> None:
    with writer(engine).begin() as connection:
        before = change_mode(connection, listing_id, mode, now)
        if before is not mode:
            was, is_ = {"mode": _word(before)}, {"mode": _word(mode)}
            record(connection, actor, "catalog.mode", listing_id, now, was, is_)
    refresh_index(writer(engine))


async def take_out(engine: Engine, actor: Actor, listing_id: str, now: int, reload: Reload) -> None:
    """Remove a bought listing from the catalog; its calls stay booked. Raises ListingUnknown.

    What a peer lists comes back with the next sync, in demo mode.
    """
    await asyncio.to_thread(_take_out, engine, actor, listing_id, now)
    await reload()


def _take_out(engine: Engine, actor: Actor, listing_id: str, now: int) -> None:
    with writer(engine).begin() as connection:
        listing, _ = read_listing(connection, listing_id)
        if listing.origin != ListingOrigin.REMOTE:
            raise ListingUnknown("This API is sold here; it is removed under API Management.")
        remove_remote(connection, [listing_id])
        was = {"name": listing.name, "base_url": listing.base_url}
        record(connection, actor, "catalog.remove", listing_id, now, was)
    refresh_index(writer(engine))


def compiled(engine: Engine, listing_id: str) -> tuple[Listing, PricedListing]:
    """A listing's row, and its routes as they are priced. Raises ListingUnknown."""
    with engine.connect() as connection:
        listing, prices = read_listing(connection, listing_id)
    return listing, _readable(listing, prices)


def _readable(listing: Listing, prices: tuple[RoutePrice, ...]) -> PricedListing:
    return compile_listing(listing, prices)


def _remote(connection: Connection, listing_id: str) -> RemoteListing | None:
    statement = select(RemoteListing).where(col(RemoteListing.listing_id) == listing_id)
    row = connection.execute(statement).mappings().first()
    return None if row is None else RemoteListing(**row)


def _samples(connection: Connection, listing_id: str) -> tuple[Recorded, ...]:
    statement = (
        select(Sample)
        .where(col(Sample.listing_id) == listing_id)
        .order_by(col(Sample.target), col(Sample.method))
    )
    rows = [Sample(**row) for row in connection.execute(statement).mappings()]
    return tuple(_recorded(row) for row in rows)


def _recorded(row: Sample) -> Recorded:
    headers = {name.lower(): value for name, value in json.loads(row.headers)}
    return Recorded(
        row.id,
        row.method,
        row.target,
        row.status,
        headers.get("content-type", "application/octet-stream"),
        row.body,
        row.recorded_at,
        row.id.startswith("dec_"),
    )


def _word(mode: ListingMode) -> str:
    return "demo" if mode is ListingMode.DEMO else "production"
