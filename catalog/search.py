"""Finding listings: words, tags, filters, five orders, thirty a page.

One use case over two full-text engines. Words reach the database as parameters made
of letters and digits only, so no character of a query means anything to it. Columns
of `listing` behind `spec` are not read here: they lie beyond megabytes of documents.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Engine,
    Select,
    TextClause,
    and_,
    case,
    column,
    desc,
    false,
    func,
    literal_column,
    select,
    table,
    text,
    true,
)
from sqlmodel import col

from catalog.discovered import CatalogEntry, CatalogTag, Peer, RemoteListing, Star
from catalog.models import Listing, ListingHealth, ListingMode, ListingOrigin
from catalog.words import query_words

PAGE: Final = 30
# What this node sells by, in the order of its offers.
OWN_SCHEMES: Final = ("batch-settlement", "exact")
CLOUD: Final = 40
_MAX_TAGS = 8
_BITE = 500
_NO_RANK: ColumnElement[Any] = literal_column("0.0")


class Sort(StrEnum):
    RELEVANCE = "relevance"
    NAME = "name"
    NEWEST = "newest"
    PRICE_UP = "price_up"
    PRICE_DOWN = "price_down"


class Source(StrEnum):
    """Whose listings."""

    ALL = "all"
    OWN = "own"
    SYNCED = "synced"  # bought: from peers, or added by address


@dataclass(frozen=True, slots=True)
class Query:
    """What somebody looks for. `user_id` is whose stars count; `page` counts from 1."""

    words: str = ""
    tags: tuple[str, ...] = ()
    source: Source = Source.ALL
    starred: bool = False
    live: bool = False
    sort: Sort = Sort.RELEVANCE
    page: int = 1
    user_id: str = ""
    peer_id: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One listing of a result. Prices in atoms per `price_unit` (call, minute, or mixed where
    routes differ in it); `added_at` in Unix seconds.

    `live`: it can be called and, as far as is known, answers. `demo`: it answers with
    samples, free.
    """

    id: str
    origin: ListingOrigin
    slug: str
    name: str
    description: str
    tags: tuple[str, ...]
    price_from_atoms: int
    price_to_atoms: int
    price_unit: str
    live: bool
    paused: bool
    demo: bool
    starred: bool
    schemes: tuple[str, ...]
    operations: int
    peer: str
    added_at: int


@dataclass(frozen=True, slots=True)
class TagCount:
    tag: str
    listings: int


@dataclass(frozen=True, slots=True)
class Result:
    """A page of listings; `total` counts those of all pages. `cloud` are the tags of them."""

    items: tuple[Found, ...]
    total: int
    page: int
    pages: int
    cloud: tuple[TagCount, ...]


def search(engine: Engine, query: Query) -> Result:
    """The page asked for, or the last one there is (blocking)."""
    with engine.connect() as connection:
        matching = _matching(connection.dialect.name, query)
        total = connection.scalar(select(func.count()).select_from(matching)) or 0
        pages = max(1, -(-total // PAGE))
        query = replace(query, page=min(max(1, query.page), pages))
        return Result(
            items=_page(connection, query),
            total=total,
            page=query.page,
            pages=pages,
            cloud=_cloud(connection, matching),
        )


def find_all(engine: Engine, query: Query) -> tuple[Found, ...]:
    """Every listing of a result, for a file of them (blocking)."""
    with engine.connect() as connection:
        return _page(connection, query, whole=True)


def find_one(engine: Engine, listing_id: str, user_id: str) -> Found | None:
    """One listing as a search shows it (blocking)."""
    with engine.connect() as connection:
        rows = connection.execute(
            _columns(user_id).where(col(CatalogEntry.listing_id) == listing_id)
        )
        return next((_found(row) for row in rows.mappings()), None)


def _page(connection: Connection, query: Query, whole: bool = False) -> tuple[Found, ...]:
    """In order. Which they are is decided by narrow rows; the rest is read for those only."""
    matching = _matching(connection.dialect.name, query, query.sort is Sort.RELEVANCE)
    entry = col(CatalogEntry.listing_id)
    statement = select(entry).join(matching, matching.c.listing_id == entry)
    statement = statement.order_by(*_order(query.sort, matching))
    if not whole:
        statement = statement.limit(PAGE).offset((query.page - 1) * PAGE)
    ids = connection.scalars(statement).all()
    found: dict[str, Found] = {}
    for start in range(0, len(ids), _BITE):
        wanted = _columns(query.user_id).where(entry.in_(ids[start : start + _BITE]))
        for row in connection.execute(wanted).mappings():
            found[row["id"]] = _found(row)
    return tuple(found[each] for each in ids if each in found)


def _matching(dialect: str, query: Query, ranked: bool = False) -> CTE:
    """Ids of all listings that fit, as a table of this query; `ranked`: with how well their
    words do, which costs as much as finding them."""
    entry = col(CatalogEntry.listing_id)
    asked = query_words(query.words)
    if asked:
        found = _by_words(dialect, asked, ranked)
        statement = select(entry.label("listing_id"), found.c.rank)
        statement = statement.join(found, found.c.listing_id == entry)
    else:
        statement = select(entry.label("listing_id"), _NO_RANK.label("rank"))
    if query.words.strip() and not asked:
        statement = statement.where(false())  # signs only: there is no such word
    return _filtered(statement, query).cte("matching")


def _filtered(statement: Select[Any], query: Query) -> Select[Any]:
    entry = col(CatalogEntry.listing_id)
    for tag in query.tags[:_MAX_TAGS]:
        tagged = select(col(CatalogTag.listing_id)).where(col(CatalogTag.tag) == tag.casefold())
        statement = statement.where(entry.in_(tagged))
    if query.source is not Source.ALL:
        own = query.source is Source.OWN
        wanted = ListingOrigin.OWN if own else ListingOrigin.REMOTE
        statement = statement.where(col(CatalogEntry.origin) == wanted)
    if query.starred:
        stars = select(col(Star.listing_id)).where(col(Star.user_id) == query.user_id)
        statement = statement.where(entry.in_(stars))
    if query.peer_id:
        theirs = col(RemoteListing.peer_id) == query.peer_id
        statement = statement.where(entry.in_(select(col(RemoteListing.listing_id)).where(theirs)))
    if query.live:
        away = select(col(RemoteListing.listing_id)).where(~col(RemoteListing.online))
        down = select(col(ListingHealth.listing_id)).where(~col(ListingHealth.up))
        awake = and_(~col(CatalogEntry.paused), entry.not_in(away), entry.not_in(down))
        statement = statement.where(awake)
    return statement


def _live() -> ColumnElement[bool]:
    """Not paused, and not known to be away; of a row that has its tables joined."""
    known = func.coalesce(col(RemoteListing.online), col(ListingHealth.up), true())
    return and_(~col(CatalogEntry.paused), known)


def _by_words(dialect: str, asked: list[str], ranked: bool) -> CTE:
    """Listings with all the words, each as a beginning; a higher rank is a better match."""
    source = table("listing_search", column("listing_id"), column("document"))
    rank: ColumnElement[Any]
    fits: ColumnElement[bool] | TextClause
    if dialect == "sqlite":
        match = " AND ".join(f'"{word}"*' if _begins(word) else f'"{word}"' for word in asked)
        rank = literal_column("-bm25(listing_search, 0.0, 10.0, 5.0, 2.0, 1.0)")
        fits = text("listing_search MATCH :match").bindparams(match=match)
    else:
        match = " & ".join(f"{word}:*" if _begins(word) else word for word in asked)
        wanted = func.to_tsquery(literal_column("'simple'"), match)
        rank = func.ts_rank(source.c.document, wanted)
        fits = source.c.document.op("@@")(wanted)
    shown = (rank if ranked else _NO_RANK).label("rank")
    return select(source.c.listing_id, shown).select_from(source).where(fits).cte("found")


def _begins(word: str) -> bool:
    """Whether longer words count too; half the catalog begins with any one letter."""
    return len(word) > 1 or not word.isascii()


def _order(sort: Sort, matching: CTE) -> list[Any]:
    """The order asked for; names, then ids decide between equals, so that pages are stable."""
    entry = CatalogEntry
    first: dict[Sort, list[Any]] = {
        Sort.RELEVANCE: [desc(matching.c.rank)],
        Sort.NAME: [],
        Sort.NEWEST: [desc(col(entry.created_at))],
        Sort.PRICE_UP: [col(entry.price_from_atoms), col(entry.price_to_atoms)],
        Sort.PRICE_DOWN: [desc(col(entry.price_to_atoms)), desc(col(entry.price_from_atoms))],
    }
    return [*first[sort], col(entry.name_key), col(entry.listing_id)]


def _columns(user_id: str) -> Select[*tuple[Any, ...]]:
    entry = col(CatalogEntry.listing_id)
    mine = and_(col(Star.listing_id) == entry, col(Star.user_id) == user_id)
    return (
        select(
            col(Listing.id),
            col(Listing.origin),
            col(Listing.slug),
            col(Listing.name),
            col(Listing.description),
            col(Listing.tags),
            col(CatalogEntry.paused),
            (col(Listing.mode) == ListingMode.DEMO).label("demo"),
            _live().label("live"),
            col(CatalogEntry.price_from_atoms),
            col(CatalogEntry.price_to_atoms),
            col(CatalogEntry.price_unit),
            col(CatalogEntry.routes).label("operations"),
            col(CatalogEntry.created_at).label("added_at"),
            func.coalesce(col(RemoteListing.schemes), "").label("schemes"),
            func.coalesce(col(Peer.name), "").label("peer"),
            case((col(Star.at).is_(None), 0), else_=1).label("starred"),
        )
        .select_from(CatalogEntry)
        .join(Listing, col(Listing.id) == entry)
        .outerjoin(RemoteListing, col(RemoteListing.listing_id) == entry)
        .outerjoin(ListingHealth, col(ListingHealth.listing_id) == entry)
        .outerjoin(Peer, col(Peer.id) == col(RemoteListing.peer_id))
        .outerjoin(Star, mine)
    )


def _cloud(connection: Connection, matching: CTE) -> tuple[TagCount, ...]:
    tag, listings = col(CatalogTag.tag), func.count().label("listings")
    statement = (
        select(tag, listings)
        .join(matching, matching.c.listing_id == col(CatalogTag.listing_id))
        .group_by(tag)
        .order_by(desc(listings), tag)
        .limit(CLOUD)
    )
    return tuple(TagCount(row[0], row[1]) for row in connection.execute(statement))


def _found(row: Any) -> Found:
    own = row["origin"] == ListingOrigin.OWN
    schemes = OWN_SCHEMES if own else tuple(json.loads(row["schemes"] or "[]"))
    return Found(
        id=row["id"],
        origin=ListingOrigin(row["origin"]),
        slug=row["slug"],
        name=row["name"],
        description=row["description"],
        tags=tuple(json.loads(row["tags"] or "[]")),
        price_from_atoms=row["price_from_atoms"],
        price_to_atoms=row["price_to_atoms"],
        price_unit=row["price_unit"],
        live=bool(row["live"]),
        paused=bool(row["paused"]),
        demo=bool(row["demo"]),
        starred=bool(row["starred"]),
        schemes=schemes,
        operations=row["operations"],
        peer=row["peer"],
        added_at=row["added_at"],
    )
