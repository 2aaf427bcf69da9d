"""Changing the catalog: add, edit, pause, remove. Each in the caller's transaction.

`updated_at` of a listing only ever grows, so that a running node sees every change.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, case, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from catalog.drafts import Draft, DraftCredential, slug_of
from catalog.errors import ListingExists, ListingUnknown
from catalog.models import (
    Listing,
    ListingDraft,
    ListingHealth,
    ListingMode,
    ListingOrigin,
    RoutePrice,
    Sample,
)

Seal = Callable[[bytes], str]

_NEWEST = 64


def new_listing_id() -> str:
    return f"lst_{secrets.token_hex(6)}"


def add_listing(
    connection: Connection, draft: Draft, seal: Seal, now: int, listing_id: str = ""
) -> str:
    """Store a listing and return its id. `seal` encrypts the upstream's credential.

    Raises ListingExists; the transaction is then of no more use.
    """
    listing_id = listing_id or new_listing_id()
    credential = credential_values(draft.credential, seal)
    row = {**_values(draft), **credential, "id": listing_id, "created_at": now, "updated_at": now}
    try:
        connection.execute(insert(Listing), {**row, "origin": draft.origin, "slug": draft.slug})
    except IntegrityError as error:
        raise ListingExists(
            f"There is a listing {draft.slug!r} already; remove it or choose another name."
        ) from error
    if draft.routes:
        connection.execute(insert(RoutePrice), _route_rows(draft, listing_id))
    return listing_id


def change_listing(connection: Connection, listing_id: str, draft: Draft, now: int) -> None:
    """Replace everything but slug, origin, mode, pause and credential."""
    _update(connection, [listing_id], now, **_values(draft))
    connection.execute(delete(RoutePrice).where(col(RoutePrice.listing_id) == listing_id))
    if draft.routes:
        connection.execute(insert(RoutePrice), _route_rows(draft, listing_id))


def change_credential(
    connection: Connection, listing_id: str, credential: DraftCredential, seal: Seal, now: int
) -> None:
    """Replace the upstream's credential, or take it away (kind none)."""
    _update(connection, [listing_id], now, **credential_values(credential, seal))


def pause_listing(connection: Connection, name: str, paused: bool, now: int) -> int:
    """Pause or resume the listings called `name` (name, slug or id); how many."""
    ids = find_listings(connection, name)
    _update(connection, ids, now, paused=paused)
    return len(ids)


def set_mode(connection: Connection, name: str, mode: ListingMode, now: int) -> int:
    """Sell for money, or answer from samples, what is called `name`; how many."""
    ids = find_listings(connection, name)
    _update(connection, ids, now, mode=mode)
    return len(ids)


def touch_listing(connection: Connection, listing_id: str, now: int) -> None:
    """Make a running node take over what hangs on this listing, e.g. its samples."""
    _update(connection, [listing_id], now)


def hold_listing(connection: Connection, listing_id: str) -> bool:
    """Have whoever else replaces something of this listing (or draft) wait until this
    transaction ends; False when it is gone. On SQLite every writer is alone."""
    return any(
        connection.scalar(
            select(col(table.id)).where(col(table.id) == listing_id).with_for_update()
        )
        for table in (Listing, ListingDraft)
    )


def remove_listing(connection: Connection, name: str) -> int:
    """Remove the listings called `name` (name, slug or id); how many. Calls stay booked."""
    ids = find_listings(connection, name)
    for table in (RoutePrice, Sample, ListingHealth):
        connection.execute(delete(table).where(col(table.listing_id).in_(ids)))
    connection.execute(delete(Listing).where(col(Listing.id).in_(ids)))
    return len(ids)


def find_listings(connection: Connection, name: str) -> Sequence[str]:
    """Ids of the listings with this name, slug or id. Raises ListingUnknown."""
    names = (
        (col(Listing.id) == name)
        | (col(Listing.slug) == slug_of(name))
        | (col(Listing.name) == name)
    )
    ids = connection.scalars(select(col(Listing.id)).where(names)).all()
    if not ids:
        raise ListingUnknown(f"There is no listing {name!r}; `farebox listing list` shows them.")
    return ids


def read_listing(connection: Connection, listing_id: str) -> tuple[Listing, tuple[RoutePrice, ...]]:
    """One listing with its prices. Raises ListingUnknown."""
    statement = select(Listing).where(col(Listing.id) == listing_id)
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise ListingUnknown(f"There is no listing {listing_id!r}. It may have been removed.")
    prices = (
        select(RoutePrice)
        .where(col(RoutePrice.listing_id) == listing_id)
        .order_by(col(RoutePrice.path), col(RoutePrice.method))
    )
    routes = tuple(RoutePrice(**price) for price in connection.execute(prices).mappings())
    return Listing(**row), routes


def read_listings(
    engine: Engine, origin: ListingOrigin | None = None
) -> list[tuple[Listing, tuple[RoutePrice, ...]]]:
    """Every listing (of one origin) with its prices, by name."""
    ours = true() if origin is None else col(Listing.origin) == origin
    ids = select(col(Listing.id)).where(ours)
    with engine.connect() as connection:
        listings = connection.execute(select(Listing).where(ours).order_by(col(Listing.name)))
        prices = connection.execute(select(RoutePrice).where(col(RoutePrice.listing_id).in_(ids)))
        routes: dict[str, list[RoutePrice]] = {}
        for row in prices.mappings():
            routes.setdefault(row["listing_id"], []).append(RoutePrice(**row))
        return [(Listing(**row), tuple(routes.get(row["id"], ()))) for row in listings.mappings()]


def read_samples(engine: Engine) -> list[Sample]:
    """The recorded answers of every listing this node sells."""
    own = select(col(Listing.id)).where(col(Listing.origin) == ListingOrigin.OWN)
    statement = select(Sample).where(col(Sample.listing_id).in_(own))
    with engine.connect() as connection:
        return [Sample(**row) for row in connection.execute(statement).mappings()]


def catalog_version(engine: Engine) -> tuple[object, ...]:
    """Differs whenever a listing was added, changed or removed.

    A change makes `updated_at` grow. It is asked for every second and there may be ten
    thousand listings, so sums over an index stand for them, and ids for the newest: one
    that was removed and one that was added within the same second have equal sums.
    """
    known = col(Listing.updated_at)
    sums = select(func.count(), func.coalesce(func.sum(known), 0)).select_from(Listing)
    newest = select(col(Listing.id)).order_by(known.desc(), col(Listing.id)).limit(_NEWEST)
    with engine.connect() as connection:
        count, total = connection.execute(sums).one()
        return int(count), int(total), *connection.scalars(newest)


def credential_values(credential: DraftCredential, seal: Seal) -> dict[str, str]:
    """A credential as columns, sealed."""
    secret = credential.secret
    return {
        "credential_kind": credential.kind,
        "credential_name": credential.name,
        "credential_secret": seal(secret.encode()) if secret else "",
    }


def _update(connection: Connection, ids: Sequence[str], now: int, **values: Any) -> None:
    known = col(Listing.updated_at)
    later = case((known >= now, known + 1), else_=now)
    connection.execute(
        update(Listing).where(col(Listing.id).in_(ids)).values(**values, updated_at=later)
    )


def _values(draft: Draft) -> dict[str, Any]:
    return {
        "name": draft.name,
        "description": draft.description,
        "tags": json.dumps(draft.tags),
        "base_url": draft.base_url.rstrip("/"),
        "price_atoms": int(draft.price),
        "price_unit": draft.unit.value,
        "spec": draft.spec,
        "health_path": draft.health_path,
    }


def _route_rows(draft: Draft, listing_id: str) -> list[dict[str, Any]]:
    return [
        {
            "listing_id": listing_id,
            "method": route.method,
            "path": route.path,
            "price_atoms": int(route.price),
            "price_unit": route.unit.value,
        }
        for route in draft.routes
    ]
