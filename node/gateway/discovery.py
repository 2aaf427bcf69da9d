"""What is sold here, for those who look: x402 Bazaar list and `/.well-known/x402`.

Shapes are those of the `x402` package's `extensions/bazaar/facilitator_client.py`.

Each item has an extension of ours, `farebox`, which other nodes read (others ignore it)::

    {"listing": "weather",                     name in URLs
     "base": "https://…/v1/weather",           every route of the listing is below it
     "demo": ["GET /forecast/{city}"],         operations with a recorded answer; a request
                                               with `Farebox-Demo: 1` gets it for free, marked
                                               by `Farebox-Demo: true`, also while paused
     "unit": "minute"}                         where a stream costs its price for each minute
                                               (node.gateway.stream_minutes); also in the 402
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from catalog.models import PriceUnit
from catalog.schemas import MAX_BYTES
from finance.x402.extensions import BAZAAR
from finance.x402.offers import Offer
from finance.x402.values import X402_VERSION
from node.gateway.match import FAREBOX, Route, RouteTable

DEFAULT_PAGE = 100
MAX_PAGE = 1000
# A page ends before it is longer: who reads lists of strangers reads no endless page of one.
_PAGE_BYTES = 2 * 1024 * 1024


class Directory:
    """All routes for sale, encoded once per reload."""

    def __init__(self, table: RouteTable) -> None:
        items = [
            _item(route, route.offer)
            for route in table.routes()
            if route.offer is not None and not route.listing.paused and not route.listing.demo
        ]
        self._items = [(item, msgspec.json.encode(item)) for item in items]
        self.well_known = msgspec.json.encode(
            {"version": 1, "resources": [item["resource"] for item in items]}
        )

    def page(self, query: bytes) -> bytes:
        """The list as asked for: `type`, `payTo`, `scheme`, `network`, `extensions`,
        `limit`, `offset`. What cannot be read is taken as not asked. A page of long items has
        fewer than asked for, and says so in its own `limit`."""
        asked = _parameters(query)
        limit = min(_number(asked.get("limit"), DEFAULT_PAGE), MAX_PAGE)
        offset = _number(asked.get("offset"), 0)
        found = [encoded for item, encoded in self._items if _fits(item, asked)]
        page = found[offset : offset + limit]
        held = max(1, sum(end <= _PAGE_BYTES for end in accumulate(map(len, page))))
        if held < len(page):
            page, limit = page[:held], held
        pagination = {"limit": limit, "offset": offset, "total": len(found)}
        items = [msgspec.Raw(each) for each in page]
        return msgspec.json.encode(
            {"x402Version": X402_VERSION, "items": items, "pagination": pagination}
        )


def _item(route: Route, offer: Offer) -> dict[str, Any]:
    listing, terms = route.listing, offer.terms
    updated = datetime.fromtimestamp(listing.updated_at, UTC).isoformat().replace("+00:00", "Z")
    return {
        "resource": terms.resource_url,
        "type": "http",
        "x402Version": X402_VERSION,
        "accepts": list(offer.expected.values()),
        "lastUpdated": updated,
        "description": terms.description or "",
        "mimeType": terms.mime_type or "",
        "serviceName": listing.name,
        "tags": list(listing.tags),
        "extensions": {**_kept(terms.extensions), FAREBOX: _own_extension(route)},
    }


def _kept(extensions: Mapping[str, object]) -> dict[str, object]:
    """Without a description that is longer than other nodes read."""
    too_long = len(msgspec.json.encode(extensions.get(BAZAAR))) > MAX_BYTES
    return {name: each for name, each in extensions.items() if not (too_long and name == BAZAAR)}


def _own_extension(route: Route) -> dict[str, Any]:
    listing = route.listing
    own = {
        "listing": listing.slug,
        "base": route.upstream.public_base,
        "demo": listing.answers.operations,
    }
    return {**own, "unit": PriceUnit.MINUTE.value} if route.minute_atoms else own


def _fits(item: dict[str, Any], asked: dict[str, str]) -> bool:
    accepts = item["accepts"]
    pay_to = asked.get("payTo", "").lower()
    return (
        asked.get("type", "http") == "http"
        and (not pay_to or any(entry.pay_to.lower() == pay_to for entry in accepts))
        and ("scheme" not in asked or any(e.scheme == asked["scheme"] for e in accepts))
        and ("network" not in asked or any(e.network == asked["network"] for e in accepts))
        and ("extensions" not in asked or asked["extensions"] in item["extensions"])
    )


def _parameters(query: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(query.decode("latin-1"), max_num_fields=20))
    except ValueError:
        return {}


def _number(value: str | None, default: int) -> int:
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 9:
        return default
    return int(value)
