"""The catalog: search, one listing, adding by address, stars, modes, calls."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Annotated, Any, Literal

from fastapi import Query as Asked
from fastapi import Response
from pydantic import BaseModel, Field

from catalog.errors import ListingUnknown
from catalog.samples import Field as ValueField
from catalog.search import Found, Query, Sort, Source, search
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import FilterText, Id, Listed, PageNumber, ShortText
from node.api.routing import Caller, Endpoints
from node.market.catalog import Detail, read_detail, star, switch, take_out
from node.market.explore import Explained
from node.market.paste import Preview
from node.market.shop import Shop
from node.market.try_it import TryResult, Wanted, limits_left

Mode = Literal["demo", "production"]
TagList = Annotated[
    list[Annotated[str, Field(max_length=60, pattern=r"^[^\x00]*$")]],
    Asked(max_length=8, description="only listings with all of these tags"),
]
LongText = Annotated[str, Field(max_length=65_536, pattern=r"^[^\x00]*$")]


class ListingOut(BaseModel):
    """A listing in a result. Prices per call in USDC atoms; `added_at` in Unix seconds.

    `own`: sold by this node. `live`: callable and answering, as far as is known.
    """

    id: str
    own: bool
    slug: str
    name: str
    description: str
    tags: list[str]
    price_from_atoms: int
    price_to_atoms: int
    live: bool
    paused: bool
    mode: Mode
    starred: bool
    schemes: list[str]
    operations: int
    peer: str
    added_at: int


class TagOut(BaseModel):
    tag: str
    listings: int


class SearchOut(Listed[ListingOut]):
    """A page of thirty; `tags` are the most frequent of all that match."""

    tags: list[TagOut]


class ValueOut(BaseModel):
    """A value an operation takes. `place` is path, query, header or body."""

    place: str
    name: str
    required: bool
    example: str
    description: str


class OperationOut(BaseModel):
    """An operation; `key` names it in a call. `open`: any path and body may be sent."""

    key: str
    method: str
    path: str
    price_atoms: int
    summary: str
    description: str
    values: list[ValueOut]
    open: bool


class SampleOut(BaseModel):
    """A sample; `declared`: the seller's own example. `body` is Base64."""

    id: str
    method: str
    target: str
    status: int
    content_type: str
    declared: bool
    recorded_at: int
    body: str


class LimitOut(BaseModel):
    """What a spending limit still allows a call by the caller, in USDC atoms."""

    scope: str
    limit_atoms: int
    used_atoms: int
    left_atoms: int


class DetailOut(ListingOut):
    """Everything known of a listing. `seen_at` is null for what nobody looked at."""

    base_url: str
    network: str
    pay_to: str
    seen_at: int | None
    has_spec: bool
    operation_list: list[OperationOut]
    samples: list[SampleOut]
    limits: list[LimitOut]


class AddressIn(BaseModel):
    url: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class AddIn(AddressIn):
    """Empty texts are as the seller says; `tags` with commas between them."""

    name: ShortText = ""
    description: ShortText = ""
    tags: ShortText = ""
    mode: Mode = "demo"


class RouteOut(BaseModel):
    """`method` * is any; `path` is below the base address."""

    method: str
    path: str
    price_atoms: int


class PreviewOut(BaseModel):
    """What an address asks for. `listing_id` is set when it is in the catalog already;
    `whole_service`: its node lists the service it belongs to, so all of it is added."""

    url: str
    price_atoms: int
    network: str
    schemes: list[str]
    pay_to: str
    base_url: str
    name: str
    description: str
    tags: list[str]
    whole_service: bool
    routes: list[RouteOut]
    listing_id: str | None


class ModeIn(BaseModel):
    mode: Mode


class ValueIn(BaseModel):
    place: Literal["path", "query", "header", "body"]
    name: ShortText
    value: LongText


class CallIn(BaseModel):
    """A call: `operation` is a key of the listing; `method`, `path` and `body` are for the
    open one ("any"). `once`: sent twice with the same text, a call is paid once."""

    operation: ShortText
    values: Annotated[list[ValueIn], Field(max_length=200)] = []
    method: ShortText = "GET"
    path: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")] = "/"
    body: LongText = ""
    once: Annotated[str, Field(max_length=128, pattern=r"^([\x21-\x7e]{16,128})?$")] = ""


class HeaderOut(BaseModel):
    name: str
    value: str


class CallOut(BaseModel):
    """What came of a call. `status` is what an app would have got, `error` the code of a
    problem of this node; `body` is Base64, cut at 512 KiB unless `whole`."""

    call_id: str
    status: int
    demo: bool
    source: str
    charged_atoms: int
    scheme: str
    latency_us: int
    error: str
    detail: str
    recorded: bool
    headers: list[HeaderOut]
    whole: bool
    body: str


class CatalogApi:
    """The handlers that need the market."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop

    async def search(
        self,
        identity: Caller,
        q: FilterText = "",
        tag: TagList = [],  # noqa: B006 - FastAPI copies it
        source: Source = Source.ALL,
        starred: bool = False,
        live: bool = False,
        peer: FilterText = "",
        sort: Sort = Sort.RELEVANCE,
        page: PageNumber = 1,
    ) -> SearchOut:
        query = Query(q, tuple(tag), source, starred, live, sort, page, identity.user_id, peer)
        found = await asyncio.to_thread(search, self.shop.engine, query)
        items = [ListingOut(**_listing(each)) for each in found.items] if page == found.page else []
        tags = [TagOut(tag=each.tag, listings=each.listings) for each in found.cloud]
        return SearchOut(items=items, total=found.total, page=page, pages=found.pages, tags=tags)

    async def detail(self, listing_id: Id, identity: Caller) -> DetailOut:
        found = await self._detail(listing_id, identity)
        limits = await asyncio.to_thread(limits_left, self.shop.engine, listing_id, _now())
        return DetailOut(
            **_listing(found.found),
            base_url="" if found.own else found.base_url,
            network=found.network,
            pay_to=found.pay_to,
            seen_at=found.seen_at,
            has_spec=bool(found.spec),
            operation_list=[_operation(each) for each in found.operations],
            samples=_samples(found),
            limits=[
                LimitOut(
                    scope=each.scope,
                    limit_atoms=each.limit_atoms,
                    used_atoms=each.used_atoms,
                    left_atoms=each.left_atoms,
                )
                for each in limits
            ],
        )

    async def spec(self, listing_id: Id, identity: Caller) -> Response:
        found = await self._detail(listing_id, identity)
        if not found.spec:
            raise ListingUnknown("Nobody has given a specification of this API.")
        return Response(found.spec, media_type="application/json")

    async def look(self, body: AddressIn) -> PreviewOut:
        return _preview(await self.shop.paste.look(body.url))

    async def add(self, body: AddIn, identity: Caller) -> DetailOut:
        words = (body.name, body.description, body.tags)
        demo = body.mode == "demo"
        listing_id = await self.shop.paste.add(
            Actor.of(identity), body.url, *words, demo=demo, now=_now()
        )
        return await self.detail(listing_id, identity)

    async def remove(self, listing_id: Id, identity: Caller) -> None:
        engine, reload = self.shop.engine, self.shop.reload
        await take_out(engine, Actor.of(identity), listing_id, _now(), reload)

    async def star(self, listing_id: Id, identity: Caller) -> None:
        await self._star(identity, listing_id, True)

    async def unstar(self, listing_id: Id, identity: Caller) -> None:
        await self._star(identity, listing_id, False)

    async def change_mode(self, listing_id: Id, body: ModeIn, identity: Caller) -> DetailOut:
        actor, demo = Actor.of(identity), body.mode == "demo"
        await switch(self.shop.engine, actor, listing_id, demo, _now(), self.shop.reload)
        return await self.detail(listing_id, identity)

    async def try_demo(self, listing_id: Id, body: CallIn) -> CallOut:
        return _called(await self.shop.try_it.attempt(listing_id, _wanted(body), demo=True))

    async def buy(self, listing_id: Id, body: CallIn) -> CallOut:
        return _called(await self.shop.try_it.attempt(listing_id, _wanted(body), demo=False))

    async def _star(self, identity: Caller, listing_id: str, starred: bool) -> None:
        actor = Actor.of(identity)
        await asyncio.to_thread(star, self.shop.engine, actor, listing_id, starred, _now())

    async def _detail(self, listing_id: str, identity: Caller) -> Detail:
        user_id = identity.user_id
        return await asyncio.to_thread(read_detail, self.shop.engine, listing_id, user_id)


def endpoints(shop: Shop) -> Endpoints:
    """`/api/catalog`."""
    api, routes = CatalogApi(shop), Endpoints(prefix="/catalog", tags=["catalog"])
    see, use, manage = Permission.SEE_CATALOG, Permission.USE_CATALOG, Permission.MANAGE_CATALOG
    spend = Permission.SPEND
    routes.get("", see, summary="Search the catalog")(api.search)
    routes.post("/look", manage, summary="Ask an address for its price")(api.look)
    routes.post("", manage, status_code=201, summary="Add an address")(api.add)
    routes.get("/{listing_id}", see, summary="One listing")(api.detail)
    routes.get("/{listing_id}/spec", see, summary="Its specification", **_JSON)(api.spec)
    routes.delete("/{listing_id}", manage, summary="Take a bought listing out")(api.remove)
    routes.put("/{listing_id}/star", use, status_code=204, summary="Add to My APIs")(api.star)
    routes.delete("/{listing_id}/star", use, summary="Take from My APIs")(api.unstar)
    routes.put("/{listing_id}/mode", spend, summary="Demo or production")(api.change_mode)
    routes.post("/{listing_id}/try", use, summary="A sample, free")(api.try_demo)
    routes.post("/{listing_id}/buy", spend, summary="Buy a call")(api.buy)
    return routes


_JSON: dict[str, Any] = {"response_class": Response}


def _now() -> int:
    return int(time.time())


def _listing(found: Found) -> dict[str, Any]:
    return {
        "id": found.id,
        "own": found.origin == "own",
        "slug": found.slug,
        "name": found.name,
        "description": found.description,
        "tags": list(found.tags),
        "price_from_atoms": found.price_from_atoms,
        "price_to_atoms": found.price_to_atoms,
        "live": found.live,
        "paused": found.paused,
        "mode": "demo" if found.demo else "production",
        "starred": found.starred,
        "schemes": list(found.schemes),
        "operations": found.operations,
        "peer": found.peer,
        "added_at": found.added_at,
    }


def _operation(each: Explained) -> OperationOut:
    return OperationOut(
        key=each.key,
        method=each.method,
        path=each.path,
        price_atoms=each.price_atoms,
        summary=each.summary,
        description=each.description,
        values=[_value(field) for field in each.fields],
        open=each.open_,
    )


def _value(field: ValueField) -> ValueOut:
    return ValueOut(
        place=field.place,
        name=field.name,
        required=field.required,
        example=field.example,
        description=field.description,
    )


def _samples(detail: Detail) -> list[SampleOut]:
    return [
        SampleOut(
            id=each.id,
            method=each.method,
            target=each.target,
            status=each.status,
            content_type=each.media_type,
            declared=each.declared,
            recorded_at=each.recorded_at,
            body=base64.b64encode(each.body).decode(),
        )
        for each in detail.samples
    ]


def _preview(preview: Preview) -> PreviewOut:
    found = preview.found
    return PreviewOut(
        url=preview.url,
        price_atoms=preview.price_atoms,
        network=preview.network,
        schemes=list(found.schemes),
        pay_to=found.pay_to,
        base_url=found.base_url,
        name=found.name,
        description=found.description,
        tags=list(found.tags),
        whole_service=preview.whole,
        routes=[
            RouteOut(method=each.method, path=each.path, price_atoms=each.price_atoms)
            for each in found.routes
        ],
        listing_id=preview.listing_id or None,
    )


def _wanted(body: CallIn) -> Wanted:
    values: dict[tuple[str, str], str] = {}
    for each in body.values:
        values[each.place, each.name] = each.value
    return Wanted(body.operation, values, body.method, body.path, body.body, body.once)


def _called(result: TryResult) -> CallOut:
    return CallOut(
        call_id=result.call_id,
        status=result.status,
        demo=result.demo,
        source=result.source,
        charged_atoms=result.charged_atoms,
        scheme=result.scheme,
        latency_us=result.latency_us,
        error=result.error,
        detail=result.detail,
        recorded=result.recorded,
        headers=[HeaderOut(name=name, value=value) for name, value in result.headers],
        whole=result.whole,
        body=base64.b64encode(result.body).decode(),
    )
