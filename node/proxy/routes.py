"""By which route of its listing a call is counted: `GET /forecast/{city}`, never a raw path.

The operations of a listing are read from its specification when it is first called, and
again after it changed; a call then costs a look-up.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sqlalchemy import Engine, select
from sqlmodel import col

from catalog.listings import (
    ANY,
    REST,
    PathAmbiguous,
    PricedListing,
    compile_listing,
    split_path,
)
from catalog.models import Listing
from node.proxy.sources import Source
from node.usage.calls import route_name

KEPT = 1000  # listings
NAMED = 512  # paths of each, the names of which need not be looked for again


@dataclass(frozen=True, slots=True)
class _Kept:
    """A listing as it was compiled, and the names of what was called of it."""

    version: int
    listing: PricedListing
    names: dict[tuple[str, str], str]


class Routes:
    """The routes of the listings that were called."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, _Kept] = {}

    async def name(self, source: Source, method: str, path: str) -> str:
        """The route of a path below the listing; as much as is known for one that its
        specification does not have."""
        kept = self._kept.get(source.listing_id)
        if kept is None or kept.version != source.version:
            kept = await self._load(source)
        name = kept.names.get((method, path))
        if name is None:
            name = _name(kept.listing, method, path)
            if len(kept.names) >= NAMED:
                kept.names.clear()
            kept.names[method, path] = name
        return name

    async def _load(self, source: Source) -> _Kept:
        compiled = await asyncio.to_thread(_read, self._engine, source)
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        kept = self._kept[source.listing_id] = _Kept(source.version, compiled, {})
        return kept


def _name(listing: PricedListing, method: str, path: str) -> str:
    try:
        found = listing.match(method, split_path(b"/" + path.encode()))
    except (PathAmbiguous, UnicodeEncodeError):
        found = None
    if found is None or found.method == ANY:
        return route_name(method, REST if found is None else found.template)
    return f"{found.method} {found.template}"


def _read(engine: Engine, source: Source) -> PricedListing:
    spec = select(col(Listing.spec)).where(col(Listing.id) == source.listing_id)
    with engine.connect() as connection:
        found = connection.scalar(spec) or ""
    blank = Listing(
        id=source.listing_id, slug=source.slug, name="", base_url=source.base, spec=found
    )
    return compile_listing(blank)
