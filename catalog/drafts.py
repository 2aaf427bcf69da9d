"""Checking what an operator typed about a listing, before anything is stored. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from catalog.addresses import callable_parts
from catalog.characters import is_readable
from catalog.errors import ListingInvalid
from catalog.models import ListingOrigin, PriceUnit
from finance.errors import AmountInvalid
from finance.money import Usdc

NAME_CHARACTERS = range(3, 81)
DESCRIPTION_CHARACTERS = 500
TAGS = 20
TAG_CHARACTERS = 40
URL_CHARACTERS = 2000
ROUTES = 500
SECRET_CHARACTERS = 4000
PATH_CHARACTERS = 500
MAX_PRICE = Usdc(1_000_000_000_000)  # a million USDC: beyond, somebody mistyped
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "*"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 field name
# Letters of any script, and what else stands in the paths of specifications.
_TEMPLATE = re.compile(
    r"(/(([\w.~!$&'()+,;=:@%|\[\]-]|\{[^{}/\x00-\x1f\x7f]{1,100}\})+|\*(?=$)))+|/"
)

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
    unit: PriceUnit = PriceUnit.CALL

    def __str__(self) -> str:
        """As `parse_route` reads it."""
        return f"{self.method} {self.path}={price_text(self.price, self.unit)}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A listing as it is to be stored, every field checked."""

    name: str
    slug: str
    base_url: str
    origin: ListingOrigin = ListingOrigin.OWN
    price: Usdc = _FREE
    unit: PriceUnit = PriceUnit.CALL
    routes: tuple[DraftRoute, ...] = ()
    description: str = ""
    tags: tuple[str, ...] = ()
    credential: DraftCredential = field(default_factory=DraftCredential)
    spec: str = ""
    health_path: str = ""

    def __post_init__(self) -> None:
        """Raises ListingInvalid for the first field that cannot be accepted."""
        if len(self.name) not in NAME_CHARACTERS or not is_readable(self.name):
            raise ListingInvalid("name", "A name has 3 to 80 characters, all on one line.")
        if not self.slug:
            raise ListingInvalid("name", "A name needs letters or digits (a-z, 0-9) in it.")
        if len(self.description) > DESCRIPTION_CHARACTERS:
            raise ListingInvalid("description", "A description has at most 500 characters.")
        if not is_readable(self.description, "\r\n\t"):
            sentence = "A description is text, without hidden or control signs."
            raise ListingInvalid("description", sentence)
        _check_tags(self.tags)
        _check_url(self.base_url)
        _check_health_path(self.health_path)
        _check_credential(self.credential)
        if max((self.price, *(route.price for route in self.routes))) > MAX_PRICE:
            raise ListingInvalid("price", "A price is at most 1,000,000 USDC.")
        if len(self.routes) > ROUTES:
            raise ListingInvalid("routes", f"At most {ROUTES} routes with a price of their own.")
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


def parse_priced(text: str, unit: PriceUnit = PriceUnit.CALL) -> tuple[Usdc, PriceUnit]:
    """Read a price with its unit: `0.02/minute`, `0.001/call`; without one it is `unit`."""
    amount, slash, named = text.partition("/")
    if not slash:
        return parse_price(text), unit
    try:
        return parse_price(amount), PriceUnit(named.strip().lower())
    except ValueError:
        raise ListingInvalid(
            "price", f"{text[:200]!r} is no price; it is per call or per minute, e.g. 0.02/minute."
        ) from None


def price_text(price: Usdc, unit: PriceUnit) -> str:
    """As `parse_priced` reads it; per call goes without saying."""
    return str(price) if unit is PriceUnit.CALL else f"{price}/{unit.value}"


def parse_route(text: str) -> DraftRoute:
    """Read `GET /forecast/{city}=0.01`, or `GET /live=0.02/minute`; `* /path=…` prices every
    method."""
    target, equals, price = text.rpartition("=")
    method, _, path = target.strip().partition(" ")
    if not equals:
        raise _no_route(text)
    return checked_route(method, path.strip(), *parse_priced(price))


def checked_route(
    method: str, path: str, price: Usdc, unit: PriceUnit = PriceUnit.CALL
) -> DraftRoute:
    """Raises ListingInvalid for what is no method or no template, and for HEAD. A slash at its end
    counts for nothing, as where requests are matched."""
    if method.upper() == "HEAD":
        raise ListingInvalid("routes", f"HEAD costs what GET does: price GET {path[:200]}.")
    path = path.removesuffix("/") or path
    fits = len(path) <= PATH_CHARACTERS and _TEMPLATE.fullmatch(path)
    if method.upper() not in _METHODS or not fits:
        raise _no_route(f"{method} {path}")
    return DraftRoute(method.upper(), path, price, unit)


def _no_route(text: str) -> ListingInvalid:
    hint = 'e.g. "GET /forecast/{city}=0.01"'
    return ListingInvalid("routes", f"{text[:200]!r} is no route with a price, {hint}.")


def parse_tags(text: str) -> tuple[str, ...]:
    """Tags as people type them: separated by commas, each once, in their order."""
    return tuple(dict.fromkeys(tag for part in text.split(",") if (tag := " ".join(part.split()))))


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > TAGS:
        raise ListingInvalid("tags", "At most 20 tags.")
    for tag in tags:
        if not 0 < len(tag) <= TAG_CHARACTERS or not is_readable(tag) or "," in tag:
            raise ListingInvalid("tags", f"A tag has 1 to {TAG_CHARACTERS} characters, no comma.")


def _check_health_path(path: str) -> None:
    if path and (not re.fullmatch(r"/[!-~]{0,500}", path) or "#" in path or "//" in path):
        raise ListingInvalid("health_path", f"{path!r} is no path, e.g. /health.")


def _check_url(url: str) -> None:
    parts = callable_parts(url)
    printable = url.isprintable() and len(url) <= URL_CHARACTERS
    if parts is None or not printable or any(character.isspace() for character in url):
        raise ListingInvalid("base_url", f"{url!r} is no http or https address.")
    if parts.username or parts.password:
        raise ListingInvalid("base_url", "Give credentials as header or query, not in the address.")
    if "?" in url or "#" in url:
        raise ListingInvalid("base_url", "The address may not have a query or fragment.")


def _check_credential(credential: DraftCredential) -> None:
    if credential.kind == "none":
        return
    if credential.kind not in ("header", "query") or not _TOKEN.fullmatch(credential.name):
        raise ListingInvalid("credential", f"{credential.name!r} is no name for a credential.")
    printable = credential.secret.isascii() and credential.secret.isprintable()
    if len(credential.secret) > SECRET_CHARACTERS:
        raise ListingInvalid("credential", "The credential is too long to be sent.")
    if not credential.secret or not printable:
        raise ListingInvalid("credential", "The credential is empty or has unusual characters.")
