"""Whether the APIs behind our listings are well: asked every minute, remembered, told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select
from sqlmodel import col

from catalog.editing import hold_listing
from catalog.errors import UpstreamFailed
from catalog.models import Listing, ListingHealth, ListingOrigin
from catalog.samples import SampleRequest
from finance.errors import WalletError
from node.db.engine import writer
from node.market.drafts import health_fault
from node.market.publisher import Publisher
from node.market.publishing import own_listing
from node.market.upstream import ask

FAILURES_UNTIL_TOLD = 3
MOST_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class HealthView:
    """How an upstream was found. Times in Unix seconds; `failures` in a row."""

    up: bool
    status: int
    latency_us: int
    failures: int
    note: str
    checked_at: int
    since: int

    @property
    def down(self) -> bool:
        """Down long enough to be told."""
        return self.failures >= FAILURES_UNTIL_TOLD


@dataclass(frozen=True, slots=True)
class Looked:
    """A listing and how it was found."""

    listing_id: str
    name: str
    health: HealthView


async def look_at_all(publisher: Publisher, now: int) -> tuple[Looked, ...]:
    """Ask every API that is not paused, a few at a time, and remember what came."""
    rows = await asyncio.to_thread(_listings, publisher)
    slots = asyncio.Semaphore(MOST_AT_ONCE)

    async def look(row: Listing) -> Looked:
        async with slots:
            return await _look(publisher, row, now)

    return tuple(await asyncio.gather(*(look(row) for row in rows)))


async def look_at(publisher: Publisher, listing_id: str, now: int) -> HealthView:
    """Ask one API now. Raises ListingUnknown."""
    row = await asyncio.to_thread(_listing, publisher, listing_id)
    return (await _look(publisher, row, now)).health


def read_health(connection: Connection, ids: Sequence[str]) -> dict[str, HealthView]:
    """What is remembered, by listing; those never looked at are left out."""
    statement = select(ListingHealth).where(col(ListingHealth.listing_id).in_(ids))
    return {
        row["listing_id"]: HealthView(
            row["up"],
            row["status"],
            row["latency_us"],
            row["failures"],
            row["note"],
            row["checked_at"],
            row["since"],
        )
        for row in connection.execute(statement).mappings()
    }


async def _look(publisher: Publisher, row: Listing, now: int) -> Looked:
    status, latency_us, note = 0, 0, ""
    try:
        request = SampleRequest("GET", row.health_path, row.health_path)
        upstream = publisher.upstream(row)
        fetched = await ask(publisher.egress(), upstream, request, whole=False)
    except UpstreamFailed as error:
        note = str(error)
    except WalletError:
        note = "Its credential was sealed under another wallet; give it again."
    else:
        status, latency_us = fetched.status, fetched.latency_us
        note = health_fault(status, row.health_path)
    found = HealthView(not note, status, latency_us, int(bool(note)), note, now, now)
    health = await asyncio.to_thread(_remember, publisher, row, found)
    return Looked(row.id, row.name, health)


def _remember(publisher: Publisher, row: Listing, found: HealthView) -> HealthView:
    """Store it beside what was known, unless the listing was removed meanwhile."""
    with writer(publisher.engine).begin() as connection:
        if not hold_listing(connection, row.id):
            return found
        known = read_health(connection, [row.id]).get(row.id)
        failures = 0 if found.up else (known.failures if known else 0) + 1
        since = known.since if known and known.up == found.up else found.checked_at
        health = HealthView(
            found.up,
            found.status,
            found.latency_us,
            failures,
            found.note,
            found.checked_at,
            since,
        )
        connection.execute(delete(ListingHealth).where(col(ListingHealth.listing_id) == row.id))
        values = {name: getattr(health, name) for name in HealthView.__slots__}
        connection.execute(insert(ListingHealth), {"listing_id": row.id, **values})
    return health


def _listings(publisher: Publisher) -> list[Listing]:
    own = select(Listing).where(
        col(Listing.origin) == ListingOrigin.OWN, col(Listing.paused).is_(False)
    )
    with publisher.engine.connect() as connection:
        return [Listing(**row) for row in connection.execute(own).mappings()]


def _listing(publisher: Publisher, listing_id: str) -> Listing:
    with publisher.engine.connect() as connection:
        return own_listing(connection, listing_id)[0]
