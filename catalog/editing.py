"""Changing the catalog: add, pause, remove.

`updated_at` of a listing only ever grows, so that a running node sees every change.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, case, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from catalog.drafts import Draft, slug_of
from catalog.errors import ListingExists, ListingUnknown
from catalog.models import Listing, RoutePrice

Seal = Callable[[bytes], str]


def add_listing(engine: Engine, draft: Draft, seal: Seal, now: int) -> str:
    """Store a listing and return its id. `seal` encrypts the upstream's credential.

    `engine` must be one for writing. Raises ListingExists.
    """
    listing_id = f"lst_{secrets.token_hex(6)}"
    try:
        with engine.begin() as connection:
            connection.execute(insert(Listing), _row(draft, listing_id, seal, now))
            if draft.routes:
                connection.execute(insert(RoutePrice), _route_rows(draft, listing_id))
    except IntegrityError as error:
        raise ListingExists(
            f"There is a listing {draft.slug!r} already; remove it or choose another name."
        ) from error
    return listing_id


def pause_listing(engine: Engine, name: str, paused: bool, now: int) -> int:
    """Pause or resume the listings called `name` (name, slug or id); how many."""
    with engine.begin() as connection:
        ids = _find(connection, name)
        known = col(Listing.updated_at)
        later = case((known >= now, known + 1), else_=now)
        connection.execute(
            update(Listing).where(col(Listing.id).in_(ids)).values(paused=paused, updated_at=later)
        )
    return len(ids)


def remove_listing(engine: Engine, name: str) -> int:
    """Remove the listings called `name` (name, slug or id); how many. Calls stay booked."""
    with engine.begin() as connection:
        ids = _find(connection, name)
        connection.execute(delete(RoutePrice).where(col(RoutePrice.listing_id).in_(ids)))
        connection.execute(delete(Listing).where(col(Listing.id).in_(ids)))
    return len(ids)


def read_listings(engine: Engine) -> list[tuple[Listing, tuple[RoutePrice, ...]]]:
    """Every listing with its prices, by name."""
    with engine.connect() as connection:
        listings = connection.execute(select(Listing).order_by(col(Listing.name))).mappings()
        prices = connection.execute(select(RoutePrice)).mappings().all()
        routes = [RoutePrice(**row) for row in prices]
        return [
            (Listing(**row), tuple(route for route in routes if route.listing_id == row["id"]))
            for row in listings
        ]


def catalog_version(engine: Engine) -> tuple[tuple[str, int], ...]:
    """Differs whenever a listing was added, changed or removed."""
    statement = select(col(Listing.id), col(Listing.updated_at)).order_by(col(Listing.id))
    with engine.connect() as connection:
        return tuple((row[0], row[1]) for row in connection.execute(statement))


def _find(connection: Connection, name: str) -> Sequence[str]:
    names = (
        (col(Listing.id) == name)
        | (col(Listing.slug) == slug_of(name))
        | (col(Listing.name) == name)
    )
    ids = connection.scalars(select(col(Listing.id)).where(names)).all()
    if not ids:
        raise ListingUnknown(f"There is no listing {name!r}; `farebox listing list` shows them.")
    return ids


def _row(draft: Draft, listing_id: str, seal: Seal, now: int) -> dict[str, Any]:
    secret = draft.credential.secret
    return {
        "id": listing_id,
        "origin": draft.origin,
        "slug": draft.slug,
        "name": draft.name,
        "description": draft.description,
        "tags": json.dumps(draft.tags),
        "base_url": draft.base_url.rstrip("/"),
        "price_atoms": int(draft.price),
        "credential_kind": draft.credential.kind,
        "credential_name": draft.credential.name,
        "credential_secret": seal(secret.encode()) if secret else "",
        "spec": draft.spec,
        "created_at": now,
        "updated_at": now,
    }


def _route_rows(draft: Draft, listing_id: str) -> list[dict[str, Any]]:
    return [
        {
            "listing_id": listing_id,
            "method": route.method,
            "path": route.path,
            "price_atoms": int(route.price),
        }
        for route in draft.routes
    ]
