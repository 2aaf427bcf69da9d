"""`farebox listing add --buy`: the address is asked for its price before it is added."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sqlalchemy import Connection, Engine

from catalog.discovery import FoundListing, Payable
from catalog.drafts import Draft
from catalog.errors import AddressInvalid, ListingExists
from catalog.models import ListingMode
from catalog.remote import add_found, slugs
from finance.errors import FinanceError
from node.egress import EgressPolicy
from node.market.network import NetworkChoices
from node.market.paste import Asked, Paste
from node.market.peer_reader import PeerReader
from node.preferences import read_preference
from node.proxy.errors import ProxyError
from node.proxy.seller import SellerClient
from node.proxy.sources import probe
from node.settings import Settings

_ANSWER_SECONDS = 10.0


def look_at(engine: Engine, settings: Settings, draft: Draft) -> FoundListing:
    """What is sold at the draft's address, called what the operator called it.

    Raises AddressInvalid when nothing can be bought there, or nothing answers.
    """
    found = asyncio.run(_look(engine, settings, draft.base_url))
    return replace(
        found,
        name=draft.name,
        description=draft.description or found.description,
        tags=draft.tags or found.tags,
    )


def add_bought(
    connection: Connection, found: FoundListing, draft: Draft, settings: Settings, now: int
) -> str:
    """Store it, bought in production: who adds it by command means to call it. Its id.

    Raises ListingExists.
    """
    if draft.slug in slugs(connection):
        raise ListingExists(
            f"There is a listing {draft.slug!r} already; remove it or choose another name."
        )
    network = settings.chain.caip2
    return add_found(connection, found, network, None, draft.slug, ListingMode.LIVE, now)


async def _look(engine: Engine, settings: Settings, url: str) -> FoundListing:
    hosts = read_preference(engine, NetworkChoices).extra_hosts
    egress = EgressPolicy((*settings.allowed_hosts, *hosts))
    client = SellerClient(egress, answer_seconds=_ANSWER_SECONDS)
    await client.start()
    try:
        payable = Payable(settings.chain.caip2, settings.chain.usdc)
        asker = _Asker(client, settings)
        paste = Paste(engine, asker, PeerReader(lambda: egress), payable, _nobody_runs)
        preview = await paste.look(url, alone=True)
    finally:
        await client.stop()
    if preview.listing_id:
        raise ListingExists("This address is in the catalog already.")
    return preview.found


class _Asker:
    """Asks an address, as the proxy does."""

    def __init__(self, client: SellerClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    async def __call__(self, url: str) -> Asked:
        try:
            return await probe(url, self._settings.chain, self._client)
        except ProxyError as error:
            raise AddressInvalid(error.detail or str(error)) from error
        except FinanceError as error:
            raise AddressInvalid(str(error)) from error


async def _nobody_runs() -> None:
    """A running node notices by itself."""
