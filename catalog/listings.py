"""The compiled route table: what a request for `/v1/{slug}/{path}` costs.

Rows of Listing and RoutePrice become frozen values once, when they change; a
request is then a dictionary look-up and a walk over path segments. Paths that two
readers could understand differently are refused here, because a price that can be
dodged by spelling is no price.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, unquote_to_bytes

from catalog.models import Listing, ListingMode, PriceUnit, RoutePrice, Sample
from catalog.operations import Operation, spec_operations, written_path
from catalog.samples import NO_ANSWERS, DemoBook, make_book

ANY = "*"
REST = "/*"

_PLAIN_PATH = re.compile(rb"(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-_~!$&'()*+,=:@.]*)*/?")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# After one decoding: separators some servers know, control characters, a second escape,
# and the ends that some file systems cut off.
_DANGEROUS = re.compile(rb"[/\\;\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}|[. ]$")
_PARAMETER = re.compile(r"\{[^{}]+\}")


class PathAmbiguous(ValueError):
    """A path that the gateway and the upstream might read differently."""


@dataclass(frozen=True, slots=True)
class PricedRoute:
    """One route of a listing. `template` is e.g. `/forecast/{city}`, or `/*` for the rest."""

    method: str
    template: str
    price_atoms: int
    operation: Operation = field(default_factory=dict)
    unit: PriceUnit = PriceUnit.CALL

    @property
    def path(self) -> str:
        """As it is asked for."""
        return written_path(self.template, self.operation)


@dataclass(frozen=True, slots=True)
class Credential:
    """The upstream's own credential, sealed; `kind` is none, header or query."""

    kind: str = "none"
    name: str = ""
    sealed: str = field(default="", repr=False)


@dataclass(slots=True)
class _Node:
    """One segment of the templates. Literals are in folded case, `written` as they were written.
    Of two patterns the first is for any case; before them stands how particular they are."""

    literals: dict[str, _Node] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    patterns: list[tuple[int, re.Pattern[str], re.Pattern[str], _Node]] = field(
        default_factory=list
    )
    methods: dict[str, PricedRoute] = field(default_factory=dict)
    rest: dict[str, PricedRoute] = field(default_factory=dict)

    def plant(self, route: PricedRoute) -> None:
        """Add a route at the end of its template's segments."""
        node, template = self, route.template
        open_ended = template.endswith(REST)
        for segment in (template[: -len(REST)] if open_ended else template).split("/"):
            if segment:
                node = node._child(segment)
        routes = node.rest if open_ended else node.methods
        known = routes.get(route.method, route)  # another spelling of the same path, see `match`
        routes[route.method] = max(known, route, key=lambda each: each.price_atoms)

    def find(
        self, segments: tuple[str, ...], method: str, any_case: bool, at: int = 0
    ) -> PricedRoute | None:
        """The most particular route: literals, then parameters, then the rest."""
        if at == len(segments):
            return _of_method(self.methods, method) or _of_method(self.rest, method)
        segment = segments[at]
        if any_case or segment in self.written:
            literal = self.literals.get(segment.casefold())
            if literal and (found := literal.find(segments, method, any_case, at + 1)):
                return found
        for _, of_any_case, as_written, node in self.patterns:
            if (of_any_case if any_case else as_written).fullmatch(segment) and (
                found := node.find(segments, method, any_case, at + 1)
            ):
                return found
        return _of_method(self.rest, method)

    def _child(self, segment: str) -> _Node:
        parts = [_unescaped(part) for part in _PARAMETER.split(segment)]
        if len(parts) == 1:
            self.written.add(parts[0])
            return self.literals.setdefault(parts[0].casefold(), _Node())
        first, *between, last = (re.escape(part) for part in parts)
        # Each parameter takes as little as it can and gives nothing back: no text is tried twice.
        written = first + "".join(f"(?>.+?{part})" for part in between) + ".+" + last
        pattern = re.compile(written, re.IGNORECASE | re.DOTALL)
        for _, known, _, node in self.patterns:
            if known == pattern:
                return node
        node, particular = _Node(), len(".+".join((first, *between, last)))
        self.patterns.append((particular, pattern, re.compile(written, re.DOTALL), node))
        # `{name}.json` before `{name}`: the longer the literal part, the more particular.
        self.patterns.sort(key=lambda entry: -entry[0])
        return node


@dataclass(frozen=True, slots=True)
class PricedListing:
    """One listing with its routes, ready to match."""

    id: str
    slug: str
    name: str
    base_url: str
    price_atoms: int
    description: str = ""
    tags: tuple[str, ...] = ()
    paused: bool = False
    demo: bool = False
    credential: Credential = field(default_factory=Credential)
    updated_at: int = 0
    routes: tuple[PricedRoute, ...] = ()
    answers: DemoBook = NO_ANSWERS
    _tree: _Node = field(default_factory=_Node, repr=False, compare=False)

    def match(self, method: str, segments: tuple[str, ...]) -> PricedRoute | None:
        """The route that prices this request; HEAD costs what GET does.

        Whether letters count in either case, only the API knows. Of the route that a request
        reaches when they do and the one when they do not, the dearer prices it: no spelling of
        an expensive path reaches the price of a cheaper one. None only for OPTIONS that no price
        names.
        """
        method = "GET" if method == "HEAD" else method
        of_any_case = self._tree.find(segments, method, True)
        as_written = self._tree.find(segments, method, False)
        if of_any_case is None or as_written is None:
            return of_any_case  # which finds whatever is found as written, or more
        return max(of_any_case, as_written, key=lambda route: route.price_atoms)


def compile_listing(
    listing: Listing, prices: Iterable[RoutePrice] = (), samples: Iterable[Sample] = ()
) -> PricedListing:
    """Make one listing matchable. Routes of the spec without a price cost the listing's."""
    dearest_last = sorted(prices, key=lambda row: row.price_atoms)
    explicit = {(row.method.upper(), _shape(row.path)): row for row in dearest_last}
    operations = spec_operations(listing.spec)
    templates = dict.fromkeys((row.method.upper(), _rooted(row.path)) for row in explicit.values())
    tree, routes = _Node(), []
    for method, template in {**templates, **dict.fromkeys(operations), (ANY, REST): None}:
        row = explicit.get(("GET" if method == "HEAD" else method, _shape(template)))
        if method == "OPTIONS" and row is None:
            continue  # a preflight costs nothing unless a price names it
        row = row or explicit.get((ANY, _shape(template)))
        priced = row or listing
        operation = operations.get((method, template), {})
        unit = PriceUnit(priced.price_unit)
        routes.append(PricedRoute(method, template, priced.price_atoms, operation, unit))
        tree.plant(routes[-1])
    return PricedListing(
        id=listing.id,
        slug=listing.slug,
        name=listing.name,
        base_url=listing.base_url,
        price_atoms=listing.price_atoms,
        description=listing.description,
        tags=tuple(json.loads(listing.tags or "[]")),
        paused=listing.paused,
        demo=listing.mode == ListingMode.DEMO,
        credential=Credential(
            listing.credential_kind, listing.credential_name, listing.credential_secret
        ),
        updated_at=listing.updated_at,
        routes=tuple(routes),
        answers=make_book(samples),
        _tree=tree,
    )


def compile_listings(
    listings: Iterable[Listing],
    prices: Iterable[RoutePrice],
    samples: Iterable[Sample] = (),
) -> tuple[PricedListing, ...]:
    """Make all listings matchable; `prices` and `samples` are the rows of all of them."""
    prices_of: dict[str, list[RoutePrice]] = {}
    samples_of: dict[str, list[Sample]] = {}
    for price in prices:
        prices_of.setdefault(price.listing_id, []).append(price)
    for sample in samples:
        samples_of.setdefault(sample.listing_id, []).append(sample)
    return tuple(
        compile_listing(row, prices_of.get(row.id, ()), samples_of.get(row.id, ()))
        for row in listings
    )


def split_path(path: bytes) -> tuple[str, ...]:
    """The decoded segments of a path as sent (`/a/b%20c`, no query).

    Raises PathAmbiguous for dot segments, empty segments, encoded slashes, matrix
    parameters, second escapes and whatever else a server behind might fold away.
    """
    if path in (b"", b"/"):
        return ()
    if _PLAIN_PATH.fullmatch(path) and b"./" not in path and not path.endswith(b"."):
        return tuple(path.decode("ascii").strip("/").split("/"))
    if not path.startswith(b"/") or _BROKEN_ESCAPE.search(path):
        raise PathAmbiguous("The path has a broken percent-escape.")
    return tuple(_decoded(segment) for segment in path[1:].removesuffix(b"/").split(b"/"))


def _decoded(segment: bytes) -> str:
    plain = unquote_to_bytes(segment)
    if not plain or _DANGEROUS.search(plain):
        raise PathAmbiguous("The path has empty, dotted or doubly escaped segments.")
    return plain.decode("utf-8", "surrogateescape")


def _of_method(routes: Mapping[str, PricedRoute], method: str) -> PricedRoute | None:
    found = routes.get(method)
    if found is None and method != "OPTIONS":
        found = routes.get(ANY)
    return found


def _rooted(path: str) -> str:
    """A template as this module writes it: leading slash, none at the end."""
    return "/" + path.strip("/")


def _shape(path: str) -> str:
    """A template without the names of its parameters: `/a/{x}` and `/a/{y}` are one route, and
    so are `/é` and `/%C3%A9`."""
    return _unescaped(_PARAMETER.sub("{}", _rooted(path)))


def _unescaped(template: str) -> str:
    """As segments of a request are read."""
    return unquote(template, errors="surrogateescape")
