"""From a request line to the route it buys: offers and upstream addresses, prebuilt.

The table is immutable and replaced whole when listings change, so a request sees
one state of all prices from its first byte to its charge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from yarl import URL

from catalog.listings import ANY, REST, PricedListing, PricedRoute, split_path
from catalog.models import PriceUnit
from catalog.operations import Operation
from catalog.samples import secrets_of
from finance.errors import FinanceError
from finance.x402.extensions import bazaar_extension, payment_identifier_extension
from finance.x402.offers import Offer, Terms
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT
from node.lines.pool import Origin
from node.usage.calls import route_name

if TYPE_CHECKING:
    from node.gateway.forward import Made
    from node.gateway.request import Call

PREFIX = b"/v1/"
FAREBOX = "farebox"  # our extension of an offer: see node.gateway.discovery
# In a compressed answer a credential would not be found.
_UNCOMPRESSED = (b"accept-encoding", b"identity")


@dataclass(frozen=True, slots=True)
class Sale:
    """What all listings of a node have in common: who is paid, in what, on which terms."""

    public_url: str
    pay_to: bytes
    asset: bytes
    chain_id: int
    token_name: str
    token_version: str
    receiver_authorizer: bytes
    withdraw_delay_seconds: int = 86_400
    max_timeout_seconds: int = 60
    # What a deposit should be worth, in prices of one call: every deposit is a transaction
    # that the seller pays gas for.
    suggested_deposit_calls: int = 10
    schemes: tuple[str, ...] = (BATCH_SETTLEMENT_SCHEME, EXACT)

    def address(self, listing: PricedListing, path: str = "") -> str:
        """The public URL of a listing, or of something below it."""
        return f"{self.public_url.rstrip('/')}/v1/{listing.slug}{path}"

    def terms(
        self,
        listing: PricedListing,
        route: str,
        method: str,
        path: str,
        amount_atoms: int,
        description: str,
        schemes: tuple[str, ...],
        extensions: Mapping[str, object],
    ) -> Terms:
        """What one route is sold for; `path` is its resource's, below the listing."""
        return Terms(
            listing_id=listing.id,
            route=route,
            method=method,
            resource_url=self.address(listing, path),
            amount_atoms=amount_atoms,
            pay_to=self.pay_to,
            asset=self.asset,
            chain_id=self.chain_id,
            receiver_authorizer=self.receiver_authorizer,
            token_name=self.token_name,
            token_version=self.token_version,
            description=description,
            mime_type="application/json",
            withdraw_delay_seconds=self.withdraw_delay_seconds,
            max_timeout_seconds=self.max_timeout_seconds,
            suggested_deposit_atoms=amount_atoms * self.suggested_deposit_calls,
            schemes=schemes,
            extensions=extensions,
        )


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a listing's calls go. `secret` is the upstream's own credential, never shown."""

    origin: Origin
    base: str  # scheme://host[:port]/base-path, without a slash at the end
    path: bytes  # the base path
    host: bytes
    public_base: str  # what buyers see instead of `base`
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)
    query: bytes = field(default=b"", repr=False)
    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    def target(self, rest: bytes, query: bytes) -> bytes:
        """Path and query of one call; they stay as the caller wrote them."""
        target = (self.path + rest) or b"/"
        if query and self.query:
            return b"%b?%b&%b" % (target, query, self.query)
        if query or self.query:
            return b"%b?%b" % (target, query or self.query)
        return target


@dataclass(frozen=True, slots=True)
class Route:
    """One route for sale. `offer` is None when it is free; `own` makes the answer where that
    is not the upstream's (node.gateway.own). A stream of it costs `minute_atoms` for each
    minute; 0 where its opening is all that is paid."""

    listing: PricedListing
    method: str
    template: str
    price_atoms: int
    offer: Offer | None
    upstream: Upstream
    own: Callable[[Call], Awaitable[Made]] | None = None
    minute_atoms: int = 0

    @property
    def name(self) -> str:
        """Method and template, as payments are bound to it."""
        return f"{self.method} {self.template}"

    def name_for(self, method: str) -> str:
        """As calls of it are counted: with their own method where it takes any. What a node
        sells itself has the ids of its customers in its path."""
        if self.own is not None:
            return route_name(method, "/".join(self.template.split("/")[:3]) + REST)
        return self.name if self.method != ANY else route_name(method, self.template)


@dataclass(frozen=True, slots=True)
class Match:
    """A request's listing and route; `route` None is a preflight nobody priced."""

    listing: PricedListing
    route: Route | None
    rest: bytes


class RouteTable:
    """All listings of the node, compiled."""

    def __init__(
        self, listings: Iterable[PricedListing], sale: Sale, unseal: Callable[[str], bytes]
    ) -> None:
        self.sale = sale
        self.listings: dict[bytes, PricedListing] = {}
        self.broken: dict[str, str] = {}  # slug: why it cannot be sold
        self._routes: dict[str, dict[tuple[str, str], Route]] = {}
        for listing in listings:
            try:
                self._routes[listing.id] = _compile(listing, sale, unseal)
            except (ValueError, FinanceError) as error:
                self.broken[listing.slug] = str(error)
            else:
                self.listings[listing.slug.encode()] = listing

    def match(self, method: str, raw_path: bytes) -> Match | None:
        """The route for a path as sent. None: no such listing. Raises PathAmbiguous."""
        slug, slash, below = raw_path[len(PREFIX) :].partition(b"/")
        listing = self.listings.get(slug)
        if listing is None:
            return None
        rest = slash + below
        priced = listing.match(method, split_path(rest))
        route = None if priced is None else self._route(listing, priced)
        return Match(listing, route, rest)

    def routes(self) -> Iterable[Route]:
        """Every route, listing by listing."""
        for routes in self._routes.values():
            yield from routes.values()

    def _route(self, listing: PricedListing, priced: PricedRoute) -> Route:
        return self._routes[listing.id][priced.method, priced.template]


def _compile(
    listing: PricedListing, sale: Sale, unseal: Callable[[str], bytes]
) -> dict[tuple[str, str], Route]:
    upstream = _upstream(listing, sale, unseal)
    return {
        (priced.method, priced.template): Route(
            listing,
            priced.method,
            priced.template,
            priced.price_atoms,
            Offer.build(_terms(listing, priced, sale)) if priced.price_atoms else None,
            upstream,
            minute_atoms=priced.price_atoms if priced.unit is PriceUnit.MINUTE else 0,
        )
        for priced in listing.routes
    }


def _upstream(listing: PricedListing, sale: Sale, unseal: Callable[[str], bytes]) -> Upstream:
    url = URL(listing.base_url)
    if url.scheme not in ("http", "https") or not url.raw_host or not url.port:
        raise ValueError("only http and https addresses can be called")
    # As IDNA 2008 writes it: resolvers and TLS here know the older one, for which ß is ss, and
    # that may be somebody else's.
    origin = Origin(url.scheme == "https", url.raw_host, url.port)
    path = url.raw_path.rstrip("/")
    base, path_bytes = str(url.origin()) + path, path.encode()
    public = sale.address(listing)
    host = url.raw_authority.rpartition("@")[2].encode()
    credential = listing.credential
    if credential.kind == "none" or not credential.sealed:
        return Upstream(origin, base, path_bytes, host, public)
    secret = unseal(credential.sealed)
    secrets = secrets_of(credential.kind, secret)
    if credential.kind == "header":
        header = (credential.name.lower().encode(), secret)
        sent = (header, _UNCOMPRESSED)
        return Upstream(origin, base, path_bytes, host, public, sent, b"", secrets)
    query = f"{quote(credential.name, safe='')}={quote(secret, safe='')}".encode()
    return Upstream(origin, base, path_bytes, host, public, (_UNCOMPRESSED,), query, secrets)


def _terms(listing: PricedListing, priced: PricedRoute, sale: Sale) -> Terms:
    path = "" if priced.template == REST else priced.path
    extensions = {**payment_identifier_extension(), **_discovery(listing, priced, sale)}
    if priced.unit is PriceUnit.MINUTE:
        extensions |= {FAREBOX: {"unit": priced.unit.value, "base": sale.address(listing)}}
    return sale.terms(
        listing,
        priced.template,
        priced.method,
        path,
        priced.price_atoms,
        listing.description or listing.name,
        sale.schemes,
        extensions,
    )


def _discovery(listing: PricedListing, priced: PricedRoute, sale: Sale) -> Mapping[str, object]:
    if not priced.operation or priced.method == ANY:
        return {}
    # From the host's root on: catalogs put it behind the resource's origin.
    template = URL(sale.address(listing)).raw_path
    template += priced.path.replace("{", ":").replace("}", "")
    parameters = template if "{" in priced.template else None
    return bazaar_extension(priced.method, _asked_of_buyers(listing, priced), parameters)


def _asked_of_buyers(listing: PricedListing, priced: PricedRoute) -> Operation:
    """Without the credential, which is ours to send."""
    given, own = priced.operation.get("parameters"), listing.credential
    parameters = [
        each
        for each in (given if isinstance(given, list) else ())
        if isinstance(each, dict)
        and (each.get("in"), str(each.get("name")).lower()) != (own.kind, own.name.lower())
    ]
    return {**priced.operation, "parameters": parameters}
