"""Catalog: everything that can be called, to be searched, marked and opened."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from catalog.models import PriceUnit
from catalog.search import PAGE, Found, Query, Result, Sort, Source, find_all, search
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.format import Moment, count, exact_text, moment, per
from node.console.forms import Form
from node.console.pager import Pager, link, numbered, page_number
from node.console.pages import Pages
from node.console.visit import Visit
from node.market.catalog import star, switch
from node.market.shop import Shop

PATH = "/catalog"
_SORTS = (
    (Sort.RELEVANCE, "Relevance"),
    (Sort.NAME, "Name"),
    (Sort.NEWEST, "Newest"),
    (Sort.PRICE_UP, "Price, low first"),
    (Sort.PRICE_DOWN, "Price, high first"),
)
_SOURCES = ((Source.ALL, "All"), (Source.OWN, "Sold here"), (Source.SYNCED, "Bought"))
_CSV: tuple[str, ...] = (
    "id",
    "name",
    "slug",
    "origin",
    "mode",
    "live",
    "price_from_usdc",
    "price_to_usdc",
    "price_unit",
)
_CSV += ("schemes", "tags", "peer", "added_at", "description")
MAX_TAGS = 8


@dataclass(frozen=True, slots=True)
class Badge:
    """A word in colour."""

    text: str
    tone: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One listing as a list shows it. `price` is a range when its routes differ."""

    id: str
    name: str
    path: str
    description: str
    tags: tuple[Pill, ...]
    price: str
    badges: tuple[Badge, ...]
    protocol: tuple[str, ...]
    starred: bool
    from_: str
    operations: str
    added: Moment


@dataclass(frozen=True, slots=True)
class Pill:
    """A tag that can be switched on and off."""

    text: str
    path: str
    on: bool = False
    number: str = ""


@dataclass(frozen=True, slots=True)
class CatalogView:
    """What `catalog/index.html` shows."""

    form: Form
    sorts: tuple[tuple[str, str], ...]
    sources: tuple[tuple[str, str], ...]
    chosen: tuple[Pill, ...]
    cloud: tuple[Pill, ...]
    entries: tuple[Entry, ...]
    total: str
    filtered: bool
    pager: Pager
    csv: str
    may_add: bool
    may_mark: bool
    may_sync: bool


def pages(shop: Shop) -> Pages:
    """`/catalog`, the same as a file, stars and switches."""
    pages = Pages("catalog")

    @pages.get(PATH, Permission.SEE_CATALOG)
    async def show(visit: Visit) -> Response:
        query = read_query(visit)
        result = await asyncio.to_thread(search, shop.engine, query)
        return visit.page("catalog/index.html", _view(visit, query, result), "Catalog")

    @pages.get(f"{PATH}.csv", Permission.SEE_CATALOG)
    async def export(visit: Visit) -> Response:
        found = await asyncio.to_thread(find_all, shop.engine, read_query(visit))
        return visit.csv("catalog.csv", _CSV, _csv_lines(found))

    @pages.post(f"{PATH}/{{listing_id}}/star", Permission.USE_CATALOG)
    async def mark(visit: Visit) -> Response:
        starred = visit.form.get("starred") == "on"
        listing_id = visit.path["listing_id"]
        await asyncio.to_thread(star, shop.engine, visit.actor, listing_id, starred, visit.now)
        note = "Added to My APIs." if starred else "Taken from My APIs."
        return visit.redirect(visit.local(visit.form.get("here", PATH)), note)

    @pages.post(f"{PATH}/{{listing_id}}/mode", Permission.SPEND)
    async def change_mode(visit: Visit) -> Response:
        demo, listing_id = visit.form.get("mode") != "production", visit.path["listing_id"]
        await switch(shop.engine, visit.actor, listing_id, demo, visit.now, shop.reload)
        note = (
            "Demo: calls are answered with samples, free."
            if demo
            else "Production: calls are bought, within the spending limits."
        )
        return visit.redirect(f"{PATH}/{listing_id}", note)

    return pages


def read_query(visit: Visit) -> Query:
    """What the address asks for; what cannot be read is not asked."""
    asked = visit.query
    source, sort = asked.get("source", ""), asked.get("sort", "")
    return Query(
        words=asked.get("q", "")[:400],
        tags=_tags(asked.get("tags", "")),
        source=Source(source) if source in Source.__members__.values() else Source.ALL,
        starred=asked.get("mine") == "on",
        live=asked.get("live") == "on",
        sort=Sort(sort) if sort in Sort.__members__.values() else Sort.RELEVANCE,
        page=page_number(asked),
        user_id=visit.identity.user_id,
        peer_id=asked.get("peer", "")[:64],
    )


def badges_of(found: Found) -> tuple[Badge, ...]:
    """How a listing stands: live, and whether its calls cost money."""
    own = found.origin == "own"
    state = Badge("Live", "good") if found.live else Badge("Offline", "bad")
    if found.paused:
        state = Badge("Paused", "loud")
    mode = Badge("Demo", "info") if found.demo else Badge("Production", "plain")
    return (state, *(() if own and not found.demo else (mode,)))


def price_of(found: Found) -> str:
    """`0.001 USDC`, or `0.001 – 0.02 USDC per minute`; of a call without saying so, and of some
    bought ones nobody has said a price."""
    low, high = Usdc(found.price_from_atoms), Usdc(found.price_to_atoms)
    if not high:
        return "Free" if found.origin == "own" else "Told with each call"
    unit = "" if found.price_unit == PriceUnit.CALL else f" {per(found.price_unit)}"
    if low == high:
        return f"{exact_text(low)} USDC{unit}"
    return f"{exact_text(low)} – {exact_text(high)} USDC{unit}"


def tag_link(tag: str) -> str:
    """The catalog with this tag alone."""
    return link(PATH, {}, tags=tag)


def _view(visit: Visit, query: Query, result: Result) -> CatalogView:
    asked = {name: value for name, value in visit.query.items() if name != "page"}
    may = visit.identity.may
    return CatalogView(
        form=Form(dict(visit.query)),
        sorts=tuple((each.value, label) for each, label in _SORTS),
        sources=tuple((each.value, label) for each, label in _SOURCES),
        chosen=tuple(Pill(tag, _without(asked, query.tags, tag), on=True) for tag in query.tags),
        cloud=tuple(
            Pill(each.tag, _with(asked, query.tags, each.tag), number=count(each.listings))
            for each in result.cloud
            if each.tag not in query.tags
        ),
        entries=tuple(_entry(visit, asked, query, found) for found in result.items),
        total=count(result.total),
        filtered=_is_filtered(query),
        pager=numbered(PATH, asked, result.page, PAGE, result.total),
        csv=link(f"{PATH}.csv", asked),
        may_add=may(Permission.MANAGE_CATALOG),
        may_mark=may(Permission.USE_CATALOG),
        may_sync=may(Permission.CONFIGURE),
    )


def _is_filtered(query: Query) -> bool:
    asked = (query.words, query.tags, query.starred, query.live, query.peer_id)
    return any(asked) or query.source is not Source.ALL


def _entry(visit: Visit, asked: Mapping[str, str], query: Query, found: Found) -> Entry:
    own = found.origin == "own"
    return Entry(
        id=found.id,
        name=found.name,
        path=f"{PATH}/{found.id}",
        description=found.description,
        tags=tuple(
            Pill(tag, _with(asked, query.tags, tag.casefold()), on=tag.casefold() in query.tags)
            for tag in found.tags[:6]
        ),
        price=price_of(found),
        badges=badges_of(found),
        protocol=found.schemes,
        starred=found.starred,
        from_="Sold here" if own else found.peer or "Added by address",
        operations=_operations(found.operations),
        added=moment(found.added_at, visit.now, visit.zone),
    )


def _tags(text: str) -> tuple[str, ...]:
    found = (tag.strip().casefold()[:60] for tag in text.split(","))
    return tuple(dict.fromkeys(tag for tag in found if tag))[:MAX_TAGS]


def _with(asked: Mapping[str, str], tags: Iterable[str], tag: str) -> str:
    return link(PATH, asked, tags=",".join(dict.fromkeys((*tags, tag))))


def _without(asked: Mapping[str, str], tags: Iterable[str], tag: str) -> str:
    return link(PATH, asked, tags=",".join(each for each in tags if each != tag))


def _csv_lines(found: Iterable[Found]) -> Iterator[tuple[object, ...]]:
    for each in found:
        low, high = str(Usdc(each.price_from_atoms)), str(Usdc(each.price_to_atoms))
        mode = "demo" if each.demo else "production"
        yield (
            *(each.id, each.name, each.slug, each.origin.value, mode, each.live, low, high),
            each.price_unit,
            *(" ".join(each.schemes), ", ".join(each.tags), each.peer, each.added_at),
            each.description,
        )


def _operations(number: int) -> str:
    """Nothing where none is described: such a listing can be called all the same."""
    return f"{number:,} operation{'' if number == 1 else 's'}" if number else ""
