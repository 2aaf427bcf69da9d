"""What a peer says it lists, read as if it meant harm. Pure.

A peer's page is JSON of the shape of the `x402` package's
`extensions/bazaar/facilitator_client.py`. Each item is one resource; whatever in it
cannot be bought with this node's USDC, or is out of proportion, is left out with a
reason. Resources of one service become one listing.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from catalog.addresses import callable_parts
from catalog.characters import cut, readable
from catalog.models import PriceUnit
from catalog.schemas import Declaration, read_declaration

# A call dearer than this is a mistake or a trap: 10,000 USDC.
MAX_PRICE_ATOMS: Final = 10_000 * 10**6
MAX_ROUTES: Final = 200
_URL_BYTES = 1_000  # PostgreSQL has no index over more than 2,704
_NAME_CHARACTERS = 80
_DESCRIPTION_CHARACTERS = 500
_TAGS, _TAG_CHARACTERS = 20, 40
_ACCEPTS = 16
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_OUR_SHAPE = re.compile(r"(/v1/[a-z0-9-]{1,63})(/.*)?")
_SCHEMES = ("batch-settlement", "exact")


class Unusable(ValueError):
    """A resource that is left out; the text is the reason, the same for all of its kind."""


@dataclass(frozen=True, slots=True)
class Payable:
    """What this node pays with: its chain (CAIP-2), its USDC, the schemes it speaks."""

    network: str
    asset: str
    schemes: tuple[str, ...] = _SCHEMES


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource for sale. `path` is below the origin, `{name}` for parameters."""

    origin: str
    path: str
    method: str
    price_atoms: int
    schemes: tuple[str, ...]
    pay_to: str
    service: str
    description: str
    tags: tuple[str, ...]
    declaration: Declaration | None
    base: str = ""  # path of the service it belongs to, when it is a Farebox node's
    seller_demo: bool = False
    unit: PriceUnit = PriceUnit.CALL


@dataclass(frozen=True, slots=True)
class FoundRoute:
    """One priced route of a found listing; `path` is below its base address."""

    method: str
    path: str
    price_atoms: int
    description: str
    declaration: Declaration | None = None
    price_unit: PriceUnit = PriceUnit.CALL


@dataclass(frozen=True, slots=True)
class FoundListing:
    """A service as somebody lists it, ready to be stored."""

    base_url: str
    name: str
    description: str
    tags: tuple[str, ...]
    schemes: tuple[str, ...]
    pay_to: str
    routes: tuple[FoundRoute, ...]
    seller_demo: bool = False  # the seller answers demo requests itself

    @property
    def price_atoms(self) -> int:
        """What a call costs that no route names: the dearest, so that nobody is surprised."""
        return self._dearest.price_atoms

    @property
    def unit(self) -> PriceUnit:
        """What that price buys."""
        return self._dearest.price_unit

    @property
    def _dearest(self) -> FoundRoute:
        return max(self.routes, key=lambda route: route.price_atoms)

    def digest(self) -> str:
        """Equal for equal content."""
        return hashlib.blake2b(repr(self).encode(), digest_size=16).hexdigest()


@dataclass(slots=True)
class Reading:
    """What came of all pages of one peer."""

    resources: list[Resource] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    whole: bool = True  # False: the list went on beyond what is read

    def take(self, items: Sequence[object], payable: Payable) -> int:
        """Add a page; how many of its items were not on a page before."""
        fresh = 0
        for item in items:
            try:
                resource = read_resource(item, payable)
            except Unusable as error:
                mark = (str(error), _mark(item))
                if mark not in self.seen:
                    self.seen.add(mark)
                    self.skipped[str(error)] += 1
                    fresh += 1
                continue
            mark = (resource.method, resource.origin + resource.path)
            if mark not in self.seen:
                self.seen.add(mark)
                self.resources.append(resource)
                fresh += 1
        return fresh


def read_resource(item: object, payable: Payable) -> Resource:
    """One item of a list. Raises Unusable."""
    if not isinstance(item, dict) or item.get("type", "http") != "http":
        raise Unusable("not an HTTP resource")
    parts = _address(item.get("resource"))
    offers = [entry for entry in _offers(item) if _fits(entry, payable)]
    if not offers:
        raise Unusable("not payable in USDC on this node's network")
    prices = {_price(entry) for entry in offers}
    service = clean(item.get("serviceName"), _NAME_CHARACTERS)
    extensions = item.get("extensions")
    extensions = extensions if isinstance(extensions, dict) else {}
    declaration = read_declaration(extensions.get("bazaar"))
    extension = extensions.get("farebox")
    base, seller_demo = _farebox(extension, parts)
    return Resource(
        origin=f"{parts.scheme}://{parts.netloc.lower()}",
        path=_template(parts.path),
        method=declaration.method if declaration else "*",
        price_atoms=max(prices),
        schemes=tuple(s for s in payable.schemes if any(e["scheme"] == s for e in offers)),
        pay_to=offers[0]["payTo"],
        service=service,
        description=clean(item.get("description"), _DESCRIPTION_CHARACTERS),
        tags=clean_tags(item.get("tags")),
        declaration=declaration,
        base=base,
        seller_demo=seller_demo,
        unit=unit_in(extension),
    )


def unit_in(extension: object) -> PriceUnit:
    """What a price buys by the `farebox` extension of its offer; a call where none says more."""
    named = extension.get("unit") if isinstance(extension, dict) else None
    return PriceUnit.MINUTE if named == PriceUnit.MINUTE else PriceUnit.CALL


def group(resources: Iterable[Resource]) -> tuple[list[FoundListing], Counter[str]]:
    """One listing per service: the same origin and `/v1/{slug}`, or the same origin and
    service name; else every resource is its own. Second: what was left out, by reason."""
    services: dict[tuple[str, str], list[Resource]] = {}
    for resource in resources:
        services.setdefault((resource.origin, _group_key(resource)), []).append(resource)
    skipped: Counter[str] = Counter()
    found: dict[str, FoundListing] = {}
    for (origin, _), members in services.items():
        if len(members) > MAX_ROUTES:
            skipped[f"more than {MAX_ROUTES} routes of one service"] += len(members) - MAX_ROUTES
        listing = _listing(origin, members[:MAX_ROUTES])
        if listing.base_url in found:
            skipped["listed twice"] += len(members)
        else:
            found[listing.base_url] = listing
    return list(found.values()), skipped


def clean(value: object, most: int) -> str:
    """Text of strangers: one line of what can be seen, at most `most` characters."""
    if not isinstance(value, str):
        return ""
    return cut(readable(value[: most * 4]), most)


def clean_tags(value: object) -> tuple[str, ...]:
    """At most 20 different tags, in lower case; one with commas in it is several."""
    tags = value[: _TAGS * 4] if isinstance(value, list) else ()
    texts = (tag[:_URL_BYTES].casefold() for tag in tags if isinstance(tag, str))
    cleaned = (clean(tag, _TAG_CHARACTERS) for text in texts for tag in text.split(","))
    return tuple(dict.fromkeys(tag for tag in cleaned if tag))[:_TAGS]


def _address(value: object) -> SplitResult:
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > _URL_BYTES:
        raise Unusable("no usable address")
    parts = callable_parts(value)
    if parts is None or parts.username or parts.password or " " in value:
        raise Unusable("no usable address")
    if parts.query or parts.fragment:
        raise Unusable("its address has a query")
    if any(part in ("..", ".") for part in parts.path.split("/")):
        raise Unusable("no usable address")
    return parts


def _offers(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    accepts = item.get("accepts")
    entries = accepts[:_ACCEPTS] if isinstance(accepts, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def _fits(entry: Mapping[str, Any], payable: Payable) -> bool:
    asset, pay_to = entry.get("asset"), entry.get("payTo")
    return (
        entry.get("scheme") in payable.schemes
        and entry.get("network") == payable.network
        and isinstance(asset, str)
        and asset.lower() == payable.asset.lower()
        and isinstance(pay_to, str)
        and _ADDRESS.fullmatch(pay_to) is not None
    )


def _price(entry: Mapping[str, Any]) -> int:
    amount = entry.get("amount")
    digits = isinstance(amount, str) and amount.isascii() and amount.isdigit() and len(amount) < 20
    if not digits or not 0 < int(str(amount)) <= MAX_PRICE_ATOMS:
        raise Unusable("its price is out of all proportion")
    return int(str(amount))


def _template(path: str) -> str:
    """The path with `{name}` for parameters, whichever way they were written."""
    segments = [re.sub(r"^:([A-Za-z0-9_]+)$", r"{\1}", part) for part in path.split("/")]
    return "/" + "/".join(segments).lstrip("/")


def _farebox(extension: object, parts: SplitResult) -> tuple[str, bool]:
    """(base path, whether demo answers are recorded) of another node's resource; a base that
    is not above the resource itself is not believed."""
    if not isinstance(extension, dict):
        return "", False
    demo, base = extension.get("demo"), extension.get("base")
    above = _path_of(base)
    if not above or not (parts.path.rstrip("/") + "/").startswith(above + "/"):
        return "", bool(demo)
    return above, bool(demo)


def _path_of(address: object) -> str:
    try:
        usable = isinstance(address, str) and len(address.encode()) <= _URL_BYTES
        return urlsplit(str(address)).path.rstrip("/") if usable else ""
    except ValueError:
        return ""


def _base(resource: Resource) -> str:
    ours = _OUR_SHAPE.fullmatch(resource.path)
    return resource.base or (ours.group(1) if ours else "")


def _group_key(resource: Resource) -> str:
    if base := _base(resource):
        return base
    return f"named {resource.service.casefold()}" if resource.service else resource.path


def _listing(origin: str, members: Sequence[Resource]) -> FoundListing:
    base = _base(members[0]) or _common_path([each.path for each in members])
    first = members[0]
    routes = tuple(
        FoundRoute(
            each.method,
            "/" + each.path[len(base) :].lstrip("/"),
            each.price_atoms,
            each.description,
            each.declaration,
            each.unit,
        )
        for each in members
    )
    name = first.service or (urlsplit(origin).netloc + (base if base != "/" else ""))
    return FoundListing(
        base_url=origin + base.rstrip("/"),
        name=_long_enough(clean(name, _NAME_CHARACTERS), urlsplit(origin).netloc),
        description=next((each.description for each in members if each.description), ""),
        tags=tuple(dict.fromkeys(tag for each in members for tag in each.tags))[:_TAGS],
        schemes=tuple(s for s in _SCHEMES if any(s in each.schemes for each in members)),
        pay_to=first.pay_to,
        routes=_unique(routes),
        seller_demo=any(each.seller_demo for each in members),
    )


def _unique(routes: Iterable[FoundRoute]) -> tuple[FoundRoute, ...]:
    found: dict[tuple[str, str], FoundRoute] = {}
    for route in routes:
        shape = re.sub(r"\{[^{}]*\}", "{}", route.path.rstrip("/"))
        found.setdefault((route.method, shape), route)
    return tuple(sorted(found.values(), key=lambda each: (each.path, each.method)))


def _common_path(paths: Sequence[str]) -> str:
    """The longest path that all lie below; parameters are never part of it."""
    split = [path.strip("/").split("/") for path in paths]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1 or "{" in parts[0]:
            break
        common.append(parts[0])
    return "/" + "/".join(common)


def _long_enough(name: str, host: str) -> str:
    return name if len(name) >= 3 else f"{name} ({host})"[:_NAME_CHARACTERS].strip()


def _mark(item: object) -> str:
    address = item.get("resource") if isinstance(item, dict) else item
    return repr(address)[:200]
