"""What this node itself gives or sells below a listing: `/v1/{slug}/.farebox/{shelf}/…`.

Such a request is matched, offered, paid, charged and answered like every other; only its
answer is made here and not upstream, and what it changes becomes durable with its charge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from catalog.listings import PricedListing, split_path
from finance.store import Write
from finance.x402.extensions import payment_identifier_extension
from finance.x402.offers import Offer, Terms
from finance.x402.values import EXACT
from node.gateway.desk import Refused
from node.gateway.forward import After, Made
from node.gateway.match import Match, Route, Sale, Upstream
from node.gateway.request import Call
from node.gateway.stream_socket import SocketCall
from node.lines.pool import Origin

OWN_PATH = b"/.farebox/"
_NOWHERE = Origin(False, "", 0)
_JSON = (b"content-type", b"application/json")

Make = Callable[[Call], Awaitable[Made]]


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing of ours. `path` is below the listing and names it to who pays, `amount_atoms`
    0 gives it for free; `make` makes the answer, once what it costs is reserved. It must
    change nothing by itself: what it changes is in the answer's writes."""

    path: str
    make: Make
    amount_atoms: int = 0
    schemes: tuple[str, ...] = (EXACT,)
    description: str = ""


class Shelf(Protocol):
    """Resources that begin with the same segment; `find` raises Refused where there is none.

    `segments` are below `/.farebox/{shelf}`. Whoever only asks the price is answered before
    its body is read, so the price follows from method, path, query and headers alone.
    """

    async def find(
        self, call: Call, listing: PricedListing, segments: tuple[str, ...]
    ) -> Resource: ...


class Shelves:
    """All of them, by their first segment."""

    def __init__(self, sale: Sale, shelves: Mapping[str, Shelf]) -> None:
        self._sale, self._shelves = sale, dict(shelves)

    async def find(self, call: Call, match: Match) -> Match:
        """The same listing with what is asked of us. Raises Refused, PathAmbiguous."""
        segments = split_path(match.rest)
        shelf = self._shelves.get(segments[1]) if len(segments) > 1 else None
        # Our ids are ASCII; what is no text at all cannot even be looked up.
        if shelf is None or isinstance(call, SocketCall) or not "".join(segments).isascii():
            raise Refused("no_such_resource")
        resource = await shelf.find(call, match.listing, segments[2:])
        return Match(match.listing, self._route(call, match.listing, resource), match.rest)

    def _route(self, call: Call, listing: PricedListing, resource: Resource) -> Route:
        offer = None
        if resource.amount_atoms:
            offer = Offer.build(_terms(self._sale, call, listing, resource))
        return Route(
            listing,
            call.method,
            resource.path,
            resource.amount_atoms,
            offer,
            Upstream(_NOWHERE, "", b"", b"", self._sale.address(listing)),
            own=resource.make,
        )


def _terms(sale: Sale, call: Call, listing: PricedListing, of: Resource) -> Terms:
    return sale.terms(
        listing,
        of.path,
        call.method,
        of.path,
        of.amount_atoms,
        of.description or listing.name,
        of.schemes,
        payment_identifier_extension(),
    )


def made_json(
    document: Any, status: int = 200, writes: Sequence[Write] = (), after: After | None = None
) -> Made:
    """An answer of ours; `writes` become durable with the charge."""
    return Made(status, [_JSON], msgspec.json.encode(document), writes, after)
