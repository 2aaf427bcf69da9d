"""Reading what this node sells: the list of API Management, and one listing whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, select
from sqlmodel import col

from catalog.listings import compile_listing
from catalog.models import Listing, ListingMode, ListingOrigin, PriceUnit, RoutePrice, Sample
from catalog.operations import spec_operations
from catalog.search_index import MIXED
from catalog.words import fold
from node.market.health import HealthView, read_health
from node.market.publisher import Publisher
from node.market.publishing import own_listing
from node.market.samples import SampleView, list_samples
from node.usage.breakdown import api_sums
from node.usage.models import Side
from node.usage.windows import NOTHING, Sums

PAGE_SIZE = 25


class Status(StrEnum):
    """What a buyer finds. In this order of weight."""

    PAUSED = "paused"
    DEMO = "demo"  # recorded answers only
    DOWN = "down"  # its upstream fails
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class ListingFilter:
    """`text` occurs in name, slug or a tag, capitals and accents aside."""

    text: str = ""
    status: Status | None = None


@dataclass(frozen=True, slots=True)
class OwnListing:
    """One line of the list. Prices in USDC atoms; `sums` since the first call."""

    id: str
    name: str
    slug: str
    tags: tuple[str, ...]
    status: Status
    mode: ListingMode
    paused: bool
    price_from_atoms: int
    price_to_atoms: int
    price_unit: str  # call, minute, or mixed
    samples: int
    sums: Sums
    health: HealthView | None
    updated_at: int


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Some of what was asked for; pages count from 1."""

    items: tuple[OwnListing, ...]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class PricedOperation:
    """One operation of a listing, as it is sold. `own_price` when it is not the listing's."""

    method: str
    path: str
    price_atoms: int
    price_unit: PriceUnit
    own_price: bool
    summary: str
    described: bool


@dataclass(frozen=True, slots=True)
class ListingDetail:
    """One listing whole, without its credential."""

    line: OwnListing
    base_url: str
    description: str
    health_path: str
    price_atoms: int
    price_unit: PriceUnit
    credential_kind: str
    credential_name: str
    spec: str
    operations: tuple[PricedOperation, ...]
    samples: tuple[SampleView, ...]
    created_at: int


def list_own(publisher: Publisher, wanted: ListingFilter, page: int) -> ListingPage:
    """A page of our listings by name (blocking)."""
    found = every_own(publisher, wanted)
    pages = max((len(found) + PAGE_SIZE - 1) // PAGE_SIZE, 1)
    page = min(page, pages)
    first = (page - 1) * PAGE_SIZE
    return ListingPage(found[first : first + PAGE_SIZE], len(found), page, pages)


def every_own(publisher: Publisher, wanted: ListingFilter) -> tuple[OwnListing, ...]:
    """All that the filter shows, by name (blocking)."""
    columns = [getattr(Listing, name) for name in _LINE]
    own = select(*columns).where(col(Listing.origin) == ListingOrigin.OWN)
    with publisher.engine.connect() as connection:
        rows = connection.execute(own.order_by(func.lower(col(Listing.name)))).mappings()
        lines = _lines(connection, [row for row in rows if _holds(row, fold(wanted.text))])
    return tuple(line for line in lines if wanted.status in (None, line.status))


def read_own(publisher: Publisher, listing_id: str) -> ListingDetail:
    """One listing (blocking). Raises ListingUnknown."""
    with publisher.engine.connect() as connection:
        row, prices = own_listing(connection, listing_id)
        [line] = _lines(connection, [{name: getattr(row, name) for name in _LINE}])
        samples = list_samples(connection, listing_id)
    return ListingDetail(
        line=line,
        base_url=row.base_url,
        description=row.description,
        health_path=row.health_path,
        price_atoms=row.price_atoms,
        price_unit=PriceUnit(row.price_unit),
        credential_kind=row.credential_kind,
        credential_name=row.credential_name,
        spec=row.spec,
        operations=_operations(row, prices),
        samples=samples,
        created_at=row.created_at,
    )


_LINE = (
    "id",
    "name",
    "slug",
    "tags",
    "mode",
    "paused",
    "price_atoms",
    "price_unit",
    "updated_at",
)
_Range = tuple[int, int, frozenset[str]]  # cheapest, dearest, units


def _holds(row: Mapping[Any, Any], folded: str) -> bool:
    """Not asked of the database: SQLite knows capitals of ASCII only, and tags are JSON there."""
    shown = (row["name"], row["slug"], *json.loads(row["tags"]))
    return any(folded in fold(each) for each in shown)


def _lines(connection: Connection, rows: Sequence[Any]) -> tuple[OwnListing, ...]:
    ids = [str(row["id"]) for row in rows]
    sums = {each.listing_id: each.sums for each in api_sums(connection, Side.SERVED)}
    health = read_health(connection, ids)
    prices = _price_ranges(connection, ids)
    samples = _sample_counts(connection, ids)
    return tuple(_line(row, sums, health, prices, samples) for row in rows)


def _line(
    row: Mapping[str, Any],
    sums: Mapping[str, Sums],
    health: Mapping[str, HealthView],
    prices: Mapping[str, _Range],
    samples: Mapping[str, int],
) -> OwnListing:
    listing_id, price = str(row["id"]), int(str(row["price_atoms"]))
    lowest, highest, units = prices.get(listing_id, (price, price, frozenset()))
    units |= {str(row["price_unit"])}
    mode, paused = ListingMode(str(row["mode"])), bool(row["paused"])
    seen = health.get(listing_id)
    return OwnListing(
        id=listing_id,
        name=str(row["name"]),
        slug=str(row["slug"]),
        tags=tuple(json.loads(str(row["tags"]))),
        status=_status(mode, paused, seen),
        mode=mode,
        paused=paused,
        price_from_atoms=min(lowest, price),
        price_to_atoms=max(highest, price),
        price_unit=next(iter(units)) if len(units) == 1 else MIXED,
        samples=samples.get(listing_id, 0),
        sums=sums.get(listing_id, NOTHING),
        health=seen,
        updated_at=int(str(row["updated_at"])),
    )


def _status(mode: ListingMode, paused: bool, health: HealthView | None) -> Status:
    if paused:
        return Status.PAUSED
    if mode is ListingMode.DEMO:
        return Status.DEMO
    return Status.DOWN if health is not None and health.down else Status.LIVE


def _price_ranges(connection: Connection, ids: Sequence[str]) -> dict[str, _Range]:
    atoms, unit = col(RoutePrice.price_atoms), col(RoutePrice.price_unit)
    statement = (
        select(col(RoutePrice.listing_id), unit, func.min(atoms), func.max(atoms))
        .where(col(RoutePrice.listing_id).in_(ids))
        .group_by(col(RoutePrice.listing_id), unit)
    )
    found: dict[str, _Range] = {}
    for listing_id, named, low, high in connection.execute(statement):
        known = found.get(listing_id, (low, high, frozenset()))
        found[listing_id] = (min(known[0], low), max(known[1], high), known[2] | {named})
    return found


def _sample_counts(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    statement = (
        select(col(Sample.listing_id), func.count())
        .where(col(Sample.listing_id).in_(ids))
        .group_by(col(Sample.listing_id))
    )
    return {row[0]: int(row[1]) for row in connection.execute(statement)}


def _operations(row: Listing, prices: tuple[RoutePrice, ...]) -> tuple[PricedOperation, ...]:
    """As buyers meet them: each with the price that matching would find."""
    described = spec_operations(row.spec)
    own = {(price.method, "/" + price.path.strip("/")) for price in prices}
    return tuple(
        PricedOperation(
            route.method,
            route.template,
            route.price_atoms,
            route.unit,
            (route.method, route.template) in own,
            str(route.operation.get("summary") or route.operation.get("operationId") or ""),
            (route.method, route.template) in described,
        )
        for route in compile_listing(row, prices).routes
    )
