"""Keeps what the catalog is searched, sorted and filtered by in step with `listing`.

Nobody who edits a listing has to think of it: whatever has another `updated_at` than
its entry is made anew, in bites, each a transaction. Run it after a change (the node
does within a second) and before a search that must see one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, text, union
from sqlmodel import SQLModel, col

from catalog.discovered import CatalogEntry, CatalogTag, RemoteListing, Star
from catalog.models import Listing, RoutePrice
from catalog.words import fold, operation_text, words

_BITE: Final = 250
_LOCK: Final = 0x66617266
MIXED: Final = "mixed"  # some prices are of a call, some of a minute

_Price = tuple[int, str]  # USDC atoms, unit

_SQLITE = text(
    "INSERT INTO listing_search (listing_id, name, tags, description, operations)"
    " VALUES (:listing_id, :name, :tags, :description, :operations)"
)
_POSTGRESQL = text(
    "INSERT INTO listing_search (listing_id, document) VALUES (:listing_id,"
    " setweight(to_tsvector('simple', :name), 'A') || setweight(to_tsvector('simple', :tags), 'B')"
    " || setweight(to_tsvector('simple', :description), 'C')"
    " || setweight(to_tsvector('simple', :operations), 'D'))"
)
# All at once: FTS5 has no index over ids, so each statement reads the whole table.
_FORGET = text("DELETE FROM listing_search WHERE listing_id IN :ids").bindparams(
    bindparam("ids", expanding=True)
)


def refresh_index(engine: Engine) -> int:
    """Make the entries of changed listings anew, drop those of removed ones; how many.

    `engine` must be one for writing; blocking.
    """
    done = 0
    while True:
        with engine.connect() as connection:
            stale = _stale(connection)
        if not stale:
            return done
        with engine.begin() as connection:
            _alone(connection)
            _index(connection, stale)
        done += len(stale)


def _stale(connection: Connection) -> Sequence[str]:
    """Ids that have no entry, an older one, or no listing any more."""
    changed = (
        select(col(Listing.id))
        .outerjoin(CatalogEntry, col(CatalogEntry.listing_id) == col(Listing.id))
        .where(
            col(CatalogEntry.version).is_(None)
            | (col(CatalogEntry.version) != col(Listing.updated_at))
        )
    )
    gone = (
        select(col(CatalogEntry.listing_id))
        .outerjoin(Listing, col(Listing.id) == col(CatalogEntry.listing_id))
        .where(col(Listing.id).is_(None))
    )
    return connection.scalars(union(changed, gone).limit(_BITE)).all()


def _alone(connection: Connection) -> None:
    """Two processes would write the same rows; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def _index(connection: Connection, ids: Sequence[str]) -> None:
    rows = connection.execute(select(Listing).where(col(Listing.id).in_(ids))).mappings().all()
    routes = connection.execute(select(RoutePrice).where(col(RoutePrice.listing_id).in_(ids)))
    prices: dict[str, list[_Price]] = {}
    for route in routes.mappings():
        priced = (route["price_atoms"], route["price_unit"])
        prices.setdefault(route["listing_id"], []).append(priced)
    _forget(connection, ids, {row["id"] for row in rows})
    texts, entries, tags = [], [], []
    for row in rows:
        operations, count = operation_text(row["spec"])
        entries.append(_entry(row, prices.get(row["id"], []), count))
        named = _tags(row["tags"])
        tags += [{"tag": tag, "listing_id": row["id"]} for tag in named]
        texts.append(_words(row, named, operations))
    _insert(connection, CatalogEntry, entries)
    _insert(connection, CatalogTag, tags)
    if texts:
        sqlite = connection.dialect.name == "sqlite"
        connection.execute(_SQLITE if sqlite else _POSTGRESQL, texts)


def _forget(connection: Connection, ids: Sequence[str], kept: set[Any]) -> None:
    for made in (CatalogEntry, CatalogTag):
        connection.execute(delete(made).where(col(made.listing_id).in_(ids)))
    connection.execute(_FORGET, {"ids": list(ids)})
    gone = [each for each in ids if each not in kept]
    for table in (Star, RemoteListing):
        connection.execute(delete(table).where(col(table.listing_id).in_(gone)))


def _insert(connection: Connection, table: type[SQLModel], rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _entry(row: Mapping[Any, Any], prices: Sequence[_Price], operations: int) -> dict[str, Any]:
    """The listing's own price holds for the routes that have none."""
    own = (row["price_atoms"], row["price_unit"])
    priced = [*prices, own] if not _covered(row, prices) else list(prices)
    known, units = [price for price, _ in priced], {unit for price, unit in priced if price}
    return {
        "listing_id": row["id"],
        "version": row["updated_at"],
        "origin": row["origin"],
        "name_key": fold(row["name"]),
        "paused": row["paused"],
        "price_from_atoms": min(known),
        "price_to_atoms": max(known),
        "price_unit": units.pop() if len(units) == 1 else MIXED if units else "call",
        "routes": operations,
        "created_at": row["created_at"],
    }


def _covered(row: Mapping[Any, Any], prices: Sequence[_Price]) -> bool:
    """Whether every price of a bought listing stands with a route: what a seller does not
    list cannot be said to have a price."""
    return bool(prices) and row["origin"] == "remote"


def _tags(text_: str) -> list[str]:
    found = json.loads(text_ or "[]")
    return list(dict.fromkeys(str(tag).casefold() for tag in found))


def _words(row: Mapping[Any, Any], tags: Iterable[str], operations: str) -> dict[str, str]:
    return {
        "listing_id": row["id"],
        "name": " ".join(words(row["name"])),
        "tags": " ".join(words(" ".join(tags))),
        "description": " ".join(words(row["description"])),
        "operations": " ".join(words(operations)),
    }
