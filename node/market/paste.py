"""Adding an address by hand: look what it asks for first, then take it into the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from catalog.addresses import callable_parts
from catalog.discovery import (
    FoundListing,
    FoundRoute,
    Payable,
    Resource,
    Unusable,
    clean,
    clean_tags,
    group,
    read_resource,
)
from catalog.drafts import Draft, slug_of
from catalog.errors import AddressInvalid, ListingExists
from catalog.models import ListingMode, ListingOrigin, PriceUnit
from catalog.peers import LIST_PATH
from catalog.remote import add_found, free_slug, read_known, slugs
from catalog.search_index import refresh_index
from finance.x402.values import PaymentRequired
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.market.catalog import Reload
from node.market.peer_reader import GLANCE, PeerFailed, PeerReader


class Asked(Protocol):
    """What an address answered without being paid (node.proxy.sources.Offered)."""

    @property
    def status(self) -> int: ...
    @property
    def required(self) -> PaymentRequired | None: ...


# Raises AddressInvalid, also for an offer that this node cannot pay.
Probe = Callable[[str], Awaitable[Asked]]


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be added. `price_atoms` is what the address itself asks; `whole`: its node
    lists the service, so that all of it comes along. `listing_id`: it is there already."""

    url: str
    price_atoms: int
    unit: PriceUnit
    network: str
    found: FoundListing
    whole: bool
    listing_id: str = ""


class Paste:
    """One per node."""

    def __init__(
        self, engine: Engine, probe: Probe, reader: PeerReader, payable: Payable, reload: Reload
    ) -> None:
        self._engine = engine
        self._probe = probe
        self._reader = reader
        self._payable = payable
        self._reload = reload

    async def look(self, url: str, alone: bool = False) -> Preview:
        """Ask an address for its price, paying nothing. Raises AddressInvalid.

        `alone`: only what is at this address, not the service it belongs to.
        """
        url = checked_address(url)
        whole = await self._service(url)
        if whole is not None and whole.base_url == url.rstrip("/"):
            return await self._preview(url, whole, whole, True)
        single = await self._single(url)
        if whole is not None and not alone:
            return await self._preview(url, single, whole, True)
        [found], _ = group([replace(single, base="")])
        found = replace(found, base_url=_base_of(url), routes=_at_base(found))
        return await self._preview(url, single, found, False)

    async def _single(self, url: str) -> Resource:
        """What the address itself asks for."""
        asked = await self._probe(url)
        if asked.required is None:
            raise AddressInvalid(
                f"The address asks for no x402 payment (it answered {asked.status})."
                " Give the address of a call that is for sale."
            )
        try:
            return read_resource(_item(url, asked.required), self._payable)
        except Unusable as error:
            raise AddressInvalid(f"This cannot be bought here: {error}.") from error

    async def _preview(
        self, url: str, asked: Resource | FoundListing, found: FoundListing, whole: bool
    ) -> Preview:
        known = await asyncio.to_thread(self._known, found.base_url)
        network = self._payable.network
        return Preview(url, asked.price_atoms, asked.unit, network, found, whole, known)

    async def add(
        self, actor: Actor, url: str, name: str, description: str, tags: str, demo: bool, now: int
    ) -> str:
        """Look again, then add it; the listing's id. Empty fields are as the seller says.

        Raises AddressInvalid, ListingInvalid, ListingExists.
        """
        preview = await self.look(url)
        if preview.listing_id:
            raise ListingExists("This address is in the catalog already.")
        found = _named(preview.found, name, description, tags)
        listing_id = await asyncio.to_thread(self._add, actor, found, demo, now)
        await self._reload()
        return listing_id

    async def _service(self, url: str) -> FoundListing | None:
        """The whole service an address belongs to, if its node lists it."""
        parts = urlsplit(url)
        address = f"{parts.scheme}://{parts.netloc.lower()}{LIST_PATH}"
        try:
            reading = await self._reader.read(address, self._payable, GLANCE)
        except PeerFailed:
            return None
        listings, _ = group(reading.resources)
        above = [each for each in listings if f"{url.rstrip('/')}/".startswith(f"{each.base_url}/")]
        return max(above, key=lambda each: len(each.base_url), default=None)

    def _known(self, base_url: str) -> str:
        with self._engine.connect() as connection:
            known = read_known(connection).get(base_url)
        return known.listing_id if known else ""

    def _add(self, actor: Actor, found: FoundListing, demo: bool, now: int) -> str:
        mode = ListingMode.DEMO if demo else ListingMode.LIVE
        try:
            with writer(self._engine).begin() as connection:
                slug = free_slug(found.name, slugs(connection))
                network = self._payable.network
                listing_id = add_found(connection, found, network, None, slug, mode, now)
                after = {"name": found.name, "base_url": found.base_url, "demo": demo}
                record(connection, actor, "catalog.add", listing_id, now, None, after)
        except IntegrityError as error:
            raise ListingExists("This address is in the catalog already.") from error
        refresh_index(writer(self._engine))
        return listing_id


def checked_address(url: str) -> str:
    """An address as it is called, spelled as lists spell it. Raises AddressInvalid."""
    url = url.strip()
    parts = callable_parts(url)
    if parts is None or len(url) > 1000 or not url.isprintable() or " " in url:
        raise AddressInvalid("Give a whole http or https address.")
    if parts.username or parts.password:
        raise AddressInvalid("The address may not have a password in it.")
    if parts.query or parts.fragment:
        raise AddressInvalid(
            "Leave out the query (everything from ? on); it is given with each call."
        )
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"


def _base_of(url: str) -> str:
    """With the slash at its end: an address may be sold with it, and not without."""
    return url if urlsplit(url).path != "/" else url.rstrip("/")


def _item(url: str, required: PaymentRequired) -> dict[str, object]:
    """A 402 in the shape of an item of a list."""
    resource = required.resource
    return {
        "resource": url,
        "type": "http",
        "accepts": msgspec.to_builtins(required.accepts),
        "description": resource.description if resource else None,
        "serviceName": resource.service_name if resource else None,
        "tags": resource.tags if resource else None,
        "extensions": required.extensions or {},
    }


def _at_base(alone: FoundListing) -> tuple[FoundRoute, ...]:
    return tuple(replace(route, path="/") for route in alone.routes)


def _named(found: FoundListing, name: str, description: str, tags: str) -> FoundListing:
    """With the operator's words; raises ListingInvalid."""
    named = replace(
        found,
        name=clean(name, 200) or found.name,
        description=clean(description, 2000) or found.description,
        tags=clean_tags(tags.split(",")) if tags.strip() else found.tags,
    )
    Draft(
        name=named.name,
        slug=slug_of(named.name) or "api",
        base_url=named.base_url,
        origin=ListingOrigin.REMOTE,
        description=named.description,
        tags=named.tags,
    )
    return named
