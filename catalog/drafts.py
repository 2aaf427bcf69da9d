"""Checking what an operator typed about a listing, before anything is stored. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from catalog.errors import ListingInvalid
from catalog.models import ListingOrigin
from finance.errors import AmountInvalid
from finance.money import Usdc

NAME_CHARACTERS = range(3, 81)
DESCRIPTION_CHARACTERS = 500
TAGS = 20
SPEC_BYTES = 2_000_000
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 field name
_TEMPLATE = re.compile(r"(/([A-Za-z0-9._~!$&'()+,;=:@%-]+|\{[A-Za-z0-9_.-]+\}|\*(?=$)))+|/")

_FREE = Usdc(0)


@dataclass(frozen=True, slots=True)
class DraftCredential:
    """What the upstream wants from us; `kind` is none, header or query."""

    kind: str = "none"
    name: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DraftRoute:
    """A price of its own for one route; `method` in upper case, or * for all."""

    method: str
    path: str
    price: Usdc


@dataclass(frozen=True, slots=True)
class Draft:
    """A listing as it is to be stored, every field checked."""

    name: str
    slug: str
    base_url: str
    origin: ListingOrigin = ListingOrigin.OWN
    price: Usdc = _FREE
    routes: tuple[DraftRoute, ...] = ()
    description: str = ""
    tags: tuple[str, ...] = ()
    credential: DraftCredential = field(default_factory=DraftCredential)
    spec: str = ""

    def __post_init__(self) -> None:
        """Raises ListingInvalid for the first field that cannot be accepted."""
        if len(self.name) not in NAME_CHARACTERS:
            raise ListingInvalid("name", "A name has 3 to 80 characters.")
        if not self.slug:
            raise ListingInvalid("name", "A name needs letters or digits for its address.")
        if len(self.description) > DESCRIPTION_CHARACTERS:
            raise ListingInvalid("description", "A description has at most 500 characters.")
        if len(self.tags) > TAGS:
            raise ListingInvalid("tags", "At most 20 tags.")
        _check_url(self.base_url)
        _check_credential(self.credential)
        if len({(route.method, route.path) for route in self.routes}) != len(self.routes):
            raise ListingInvalid("routes", "A route has two prices; give it one.")


def slug_of(name: str) -> str:
    """The name in URLs: lower-case letters, digits and single hyphens, at most 63."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")


def parse_price(text: str) -> Usdc:
    """Read a price in USDC, e.g. `0.001`."""
    try:
        return Usdc.parse(text)
    except AmountInvalid as error:
        raise ListingInvalid("price", f"{text!r} is no price in USDC, e.g. 0.001.") from error


def parse_route(text: str) -> DraftRoute:
    """Read `GET /forecast/{city}=0.01`; `* /path=…` prices every method."""
    target, equals, price = text.rpartition("=")
    method, _, path = target.strip().partition(" ")
    path = path.strip()
    if not equals or method.upper() not in _METHODS or not _TEMPLATE.fullmatch(path):
        raise ListingInvalid(
            "routes", f'{text!r} is no route with a price, e.g. "GET /forecast/{{city}}=0.01".'
        )
    return DraftRoute(method.upper(), path, parse_price(price))


def parse_spec(text: str) -> str:
    """Check an OpenAPI 3.x document in JSON and return it compact."""
    if len(text.encode()) > SPEC_BYTES:
        raise ListingInvalid("spec", "The specification is larger than 2 MB.")
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise ListingInvalid("spec", f"The specification is not JSON: {error}.") from error
    version = document.get("openapi") if isinstance(document, dict) else None
    if not isinstance(version, str) or not version.startswith("3."):
        raise ListingInvalid("spec", 'The specification is not OpenAPI 3.x ("openapi": "3...").')
    if not isinstance(document.get("paths"), dict):
        raise ListingInvalid("spec", 'The specification has no "paths".')
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in url):
        raise ListingInvalid("base_url", f"{url!r} is no http or https address.")
    if parts.username or parts.password:
        raise ListingInvalid("base_url", "Give credentials as header or query, not in the address.")
    if parts.query or parts.fragment:
        raise ListingInvalid("base_url", "The address may not have a query or fragment.")


def _check_credential(credential: DraftCredential) -> None:
    if credential.kind == "none":
        return
    if credential.kind not in ("header", "query") or not _TOKEN.fullmatch(credential.name):
        raise ListingInvalid("credential", f"{credential.name!r} is no name for a credential.")
    printable = credential.secret.isascii() and credential.secret.isprintable()
    if not credential.secret or not printable:
        raise ListingInvalid("credential", "The credential is empty or has unusual characters.")
