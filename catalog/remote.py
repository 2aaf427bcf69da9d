"""Bought listings as rows: stored from what was found, brought up to date, marked offline.

Everything here works in the caller's transaction. A listing keeps its id, slug, mode,
pause and stars for as long as its base address stays the same, whatever else its
seller says of it.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, case, delete, insert, select, update
from sqlmodel import col

from catalog.discovered import RemoteListing, Star
from catalog.discovery import FoundListing
from catalog.drafts import slug_of
from catalog.editing import new_listing_id
from catalog.errors import ListingUnknown
from catalog.models import Listing, ListingMode, ListingOrigin, RoutePrice, Sample

_MAX_SPEC_BYTES: Final = 1_000_000
_DECLARED = "dec_"  # ids of samples made from a seller's own example
_JSON_HEADERS = json.dumps([["content-type", "application/json"]])


@dataclass(frozen=True, slots=True)
class Known:
    """A bought listing that is there already. `digest` is empty when no peer listed it."""

    listing_id: str
    slug: str
    peer_id: str | None
    digest: str
    online: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a peer's list changes: to be added, to be replaced, still there, gone."""

    new: tuple[FoundListing, ...]
    changed: tuple[tuple[str, FoundListing], ...]
    back: tuple[str, ...]  # still there, whether or not it was offline
    gone: tuple[str, ...]
    skipped: Counter[str]


def read_known(connection: Connection) -> dict[str, Known]:
    """Every bought listing by its base address."""
    statement = (
        select(
            col(Listing.base_url),
            col(Listing.id),
            col(Listing.slug),
            col(RemoteListing.peer_id),
            col(RemoteListing.digest),
            col(RemoteListing.online),
        )
        .outerjoin(RemoteListing, col(RemoteListing.listing_id) == col(Listing.id))
        .where(col(Listing.origin) == ListingOrigin.REMOTE)
    )
    rows = connection.execute(statement)
    return {
        row[0]: Known(row[1], row[2], row[3], row[4] or "", row[5] is not False) for row in rows
    }


def plan(
    known: Mapping[str, Known], found: Iterable[FoundListing], peer_id: str, peer_origin: str
) -> Plan:
    """Compare a peer's whole list with the catalog. What somebody else listed, or an operator
    added, is a peer's to change only if it sells it: a seller knows best what it sells."""
    new, changed, back = [], [], []
    skipped: Counter[str] = Counter()
    for listing in found:
        there = known.get(listing.base_url)
        if there is None:
            new.append(listing)
        elif there.peer_id != peer_id and not f"{listing.base_url}/".startswith(f"{peer_origin}/"):
            skipped["in the catalog already"] += len(listing.routes)
        else:
            back.append(there.listing_id)
            if there.peer_id != peer_id or there.digest != listing.digest():
                changed.append((there.listing_id, listing))
    listed = set(back)
    gone = [
        each.listing_id
        for each in known.values()
        if each.peer_id == peer_id and each.online and each.listing_id not in listed
    ]
    return Plan(tuple(new), tuple(changed), tuple(back), tuple(gone), skipped)


def add_found(
    connection: Connection,
    found: FoundListing,
    network: str,
    peer_id: str | None,
    slug: str,
    mode: ListingMode,
    now: int,
) -> str:
    """Store a new listing; its id."""
    _forget_removed(connection, found.base_url)
    listing_id = new_listing_id()
    row = {
        **_values(found),
        "id": listing_id,
        "origin": ListingOrigin.REMOTE,
        "slug": slug,
        "base_url": found.base_url,
        "mode": mode,
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(insert(Listing), row)
    _store_routes(connection, listing_id, found, now)
    remote: dict[str, Any] = {
        "listing_id": listing_id,
        "base_url": found.base_url,
        "peer_id": peer_id,
    }
    remote |= {"named_here": peer_id is None, **_remote(found, network, now)}
    connection.execute(insert(RemoteListing), remote)
    return listing_id


def _forget_removed(connection: Connection, base_url: str) -> None:
    """A listing that was removed elsewhere may have left its row here."""
    there = select(col(Listing.id))
    left = (col(RemoteListing.base_url) == base_url, col(RemoteListing.listing_id).not_in(there))
    connection.execute(delete(RemoteListing).where(*left))


def change_found(
    connection: Connection,
    listing_id: str,
    found: FoundListing,
    network: str,
    peer_id: str,
    now: int,
) -> None:
    """Replace what the seller says of a listing; what an operator called it stays."""
    named = _named_here(connection, listing_id)
    values = {**_values(found), **{name: text for name, text in named.items() if text}}
    _touch(connection, listing_id, now, **values)
    connection.execute(delete(RoutePrice).where(col(RoutePrice.listing_id) == listing_id))
    declared = col(Sample.id).startswith(_DECLARED, autoescape=True)
    connection.execute(delete(Sample).where(col(Sample.listing_id) == listing_id, declared))
    _store_routes(connection, listing_id, found, now)
    connection.execute(delete(RemoteListing).where(col(RemoteListing.listing_id) == listing_id))
    remote: dict[str, Any] = {
        "listing_id": listing_id,
        "base_url": found.base_url,
        "peer_id": peer_id,
    }
    remote |= {"named_here": bool(named), **_remote(found, network, now)}
    connection.execute(insert(RemoteListing), remote)


def _named_here(connection: Connection, listing_id: str) -> dict[str, str]:
    """The operator's words for a listing that was added by hand; empty for a peer's."""
    statement = (
        select(
            col(Listing.name),
            col(Listing.description),
            col(Listing.tags),
            col(RemoteListing.named_here),
        )
        .outerjoin(RemoteListing, col(RemoteListing.listing_id) == col(Listing.id))
        .where(col(Listing.id) == listing_id)
    )
    row = connection.execute(statement).one()
    if row[3] is False:
        return {}
    return {"name": row[0], "description": row[1], "tags": "" if row[2] == "[]" else row[2]}


def set_online(connection: Connection, ids: Sequence[str], online: bool, now: int) -> None:
    """Note whether listings were there when last looked at."""
    values: dict[str, Any] = {"online": online, **({"seen_at": now} if online else {})}
    rows = col(RemoteListing.listing_id).in_(ids)
    connection.execute(update(RemoteListing).where(rows).values(**values))


def set_peer_offline(connection: Connection, peer_id: str) -> None:
    """A peer that is gone takes nothing with it: what it listed stays, marked offline."""
    theirs = col(RemoteListing.peer_id) == peer_id
    connection.execute(update(RemoteListing).where(theirs).values(online=False))


def change_mode(
    connection: Connection, listing_id: str, mode: ListingMode, now: int
) -> ListingMode:
    """Demo or production, of a bought listing; what it was. Raises ListingUnknown."""
    statement = select(col(Listing.mode)).where(
        col(Listing.id) == listing_id, col(Listing.origin) == ListingOrigin.REMOTE
    )
    before = connection.scalar(statement)
    if before is None:
        raise ListingUnknown("There is no such bought listing. It may have been removed.")
    if before != mode:
        _touch(connection, listing_id, now, mode=mode)
    return ListingMode(before)


def remove_remote(connection: Connection, ids: Sequence[str]) -> None:
    """Take bought listings out of the catalog. Calls and purchases stay booked."""
    for table in (RoutePrice, Sample, RemoteListing, Star):
        connection.execute(delete(table).where(col(table.listing_id).in_(ids)))
    connection.execute(delete(Listing).where(col(Listing.id).in_(ids)))


def slugs(connection: Connection) -> set[str]:
    """Names in URLs that bought listings have."""
    remote = col(Listing.origin) == ListingOrigin.REMOTE
    return set(connection.scalars(select(col(Listing.slug)).where(remote)))


def free_slug(name: str, taken: set[str]) -> str:
    """A name in URLs that nobody has yet; it is taken from now on."""
    wanted = slug_of(name) or "api"
    slug = next(each for each in _variants(wanted) if each not in taken)
    taken.add(slug)
    return slug


def _variants(wanted: str) -> Iterator[str]:
    yield wanted
    for number in range(2, 100):
        yield f"{wanted[:58].rstrip('-')}-{number}"
    while True:
        yield f"{wanted[:50].rstrip('-')}-{secrets.token_hex(4)}"


def make_spec(found: FoundListing) -> str:
    """An OpenAPI document of what a seller declares; empty when it declares nothing."""
    paths: dict[str, dict[str, Any]] = {}
    size = 0
    for route in found.routes:
        if route.declaration is None:
            continue
        operation = route.declaration.operation
        if route.description and route.description != found.description:
            operation["summary"] = route.description
        size += len(json.dumps(operation))
        if size > _MAX_SPEC_BYTES:
            operation = {"responses": {"200": {"description": "The answer"}}}
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    if not paths:
        return ""
    document = {
        "openapi": "3.1.0",
        "info": {"title": found.name, "version": "1", "description": found.description},
        "servers": [{"url": found.base_url}],
        "paths": paths,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _values(found: FoundListing) -> dict[str, Any]:
    return {
        "name": found.name,
        "description": found.description,
        "tags": json.dumps(found.tags),
        "price_atoms": found.price_atoms,
        "price_unit": found.unit.value,
        "spec": make_spec(found),
    }


def _remote(found: FoundListing, network: str, now: int) -> dict[str, Any]:
    return {
        "online": True,
        "seen_at": now,
        "network": network,
        "schemes": json.dumps(found.schemes),
        "pay_to": found.pay_to,
        "seller_demo": found.seller_demo,
        "digest": found.digest(),
    }


def _store_routes(connection: Connection, listing_id: str, found: FoundListing, now: int) -> None:
    prices = [
        {
            "listing_id": listing_id,
            "method": route.method,
            "path": route.path,
            "price_atoms": route.price_atoms,
            "price_unit": route.price_unit.value,
        }
        for route in found.routes
    ]
    connection.execute(insert(RoutePrice), prices)
    # What was bought and recorded here is better than the seller's example.
    there = select(col(Sample.method), col(Sample.target)).where(
        col(Sample.listing_id) == listing_id
    )
    recorded = {(row[0], row[1]) for row in connection.execute(there)}
    declared = _declared_samples(listing_id, found, now)
    samples = [each for each in declared if (each["method"], each["target"]) not in recorded]
    if samples:
        connection.execute(insert(Sample), samples)


def _declared_samples(listing_id: str, found: FoundListing, now: int) -> Iterator[dict[str, Any]]:
    """The seller's own examples of answers: what demo mode shows while nothing better is
    recorded."""
    for route in found.routes:
        example = route.declaration and route.declaration.example
        if example is None:
            continue
        yield {
            "id": _DECLARED + secrets.token_hex(8),
            "listing_id": listing_id,
            "method": route.method,
            "template": "/" + route.path.strip("/"),
            "target": route.path,
            "request_headers": "[]",
            "request_type": "",
            "request_body": "",
            "status": 200,
            "headers": _JSON_HEADERS,
            "body": json.dumps(example, ensure_ascii=False).encode(),
            "latency_us": 0,
            "recorded_at": now,
        }


def _touch(connection: Connection, listing_id: str, now: int, **values: Any) -> None:
    """Change a listing so that running nodes see it: `updated_at` only ever grows."""
    known = col(Listing.updated_at)
    later = case((known >= now, known + 1), else_=now)
    changed = update(Listing).where(col(Listing.id) == listing_id)
    connection.execute(changed.values(**values, updated_at=later))
