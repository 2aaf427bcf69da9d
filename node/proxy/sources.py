"""What can be bought: the catalog's bought listings as addresses, and a look at new ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from sqlalchemy import Engine, select
from sqlmodel import col
from yarl import URL

from catalog.addresses import as_called, callable_parts
from catalog.discovered import RemoteListing
from catalog.models import Listing, ListingMode, ListingOrigin
from finance.buying.policy import BuyingPolicy
from finance.buying.terms import Terms, choose
from finance.errors import PaymentMalformed
from finance.networks import Network
from finance.x402.values import PaymentRequired
from finance.x402.wire import PAYMENT_REQUIRED_HEADER, decode_required
from node.proxy.errors import RequestRefused, SellerFailed
from node.proxy.seller import SellerClient

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A bought listing: where its calls go. `origin` is scheme://host:port; `demo`: its calls
    are answered with samples, `seller_demo`: the seller may have some."""

    listing_id: str
    slug: str
    base: str
    origin: str
    paused: bool
    demo: bool = False
    seller_demo: bool = True
    version: int = 0  # of the listing: another one after a change

    @property
    def address(self) -> str:
        """The base as requests have it, without a slash at its end."""
        return as_called(self.base).rstrip("/")

    def url(self, path: str, query: str) -> URL:
        """The seller's address for a path below the listing, both percent-encoded already."""
        target = f"{self.address}/{path}" if path else as_called(self.base)
        return URL(f"{target}?{query}" if query else target, encoded=True)


@dataclass(frozen=True, slots=True)
class Offered:
    """What an address asks for: all it offers, and the terms this node would take."""

    url: str
    status: int
    required: PaymentRequired | None
    terms: Terms | None


def load_sources(engine: Engine) -> Mapping[str, Source]:
    """Bought listings by slug (blocking: call it off the loop). Specifications are not read:
    a catalog has many, and each is long."""
    statement = (
        select(
            col(Listing.id),
            col(Listing.slug),
            col(Listing.base_url),
            col(Listing.paused),
            col(Listing.mode),
            col(RemoteListing.seller_demo),
            col(Listing.updated_at),
        )
        .outerjoin(RemoteListing, col(RemoteListing.listing_id) == col(Listing.id))
        .where(col(Listing.origin) == ListingOrigin.REMOTE)
    )
    found = {}
    with engine.connect() as connection:
        for row in connection.execute(statement):
            if callable_parts(row.base_url) is None:  # it must not take all others with it
                _log.warning("listing %s has an address that cannot be called", row.slug)
            else:
                found[row.slug] = _source(*row)
    return found


def _source(
    listing_id: str,
    slug: str,
    base: str,
    paused: bool,
    mode: str,
    seller_demo: bool | None,
    version: int,
) -> Source:
    demo = mode == ListingMode.DEMO
    origin, seller = str(URL(base).origin()), seller_demo is not False
    return Source(listing_id, slug, base, origin, paused, demo, seller, version)


def checked_path(path: str) -> str:
    """A path that cannot climb out of its listing; raise RequestRefused (400).

    Encoded slashes and dots are looked through: sellers and the servers before them
    disagree on what they mean.
    """
    try:
        plain = unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise RequestRefused("path_ambiguous", "The path is not UTF-8.") from error
    parts = plain.replace("\\", "/").split("/")
    if ".." in parts or "." in parts or any(ord(each) < 32 for each in plain):
        raise RequestRefused("path_ambiguous", "The path has dot segments in it.")
    return path


async def probe(
    url: str, network: Network, client: SellerClient, policy: BuyingPolicy | None = None
) -> Offered:
    """Ask an address for its price without paying (`farebox listing add --buy URL`).

    GET first, POST if that is not sold. Raises RequestRefused (address not allowed),
    NoAcceptableOffer (sold, but not for what this node can pay with), SellerFailed,
    SellerSilent. `terms` is None for an address that answers for free.
    """
    target = URL(url)
    client.check(target)
    status = 0
    for method in ("GET", "POST"):
        answer = await client.send(method, target, [(b"accept", b"application/json")], None)
        status = answer.status
        header = answer.header(PAYMENT_REQUIRED_HEADER)
        answer.close()
        if status != 402:
            continue
        try:
            required = decode_required(header or b"")
        except PaymentMalformed as error:
            raise SellerFailed("offer_unreadable", str(error)) from error
        prefer = (policy or BuyingPolicy()).prefer
        return Offered(url, status, required, choose(required, network, prefer))
    return Offered(url, status, None, None)
