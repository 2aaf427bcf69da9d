"""The catalog: search, one listing, adding by address, stars, modes, calls."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import Response

from catalog.errors import ListingUnknown
from catalog.search import Query, Sort, Source, search
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.catalog_shapes import (
    AddIn,
    AddressIn,
    BuyingModeIn,
    CallIn,
    CatalogEntryOut,
    CatalogSampleOut,
    DetailOut,
    ExplainedOut,
    LimitLeftOut,
    PreviewOut,
    SearchOut,
    TagList,
    TagOut,
    TriedCallOut,
    listing_fields,
)
from node.api.paging import FilterText, Id, PageNumber
from node.api.routing import Caller, Endpoints
from node.market.catalog import Detail, read_detail, star, switch, take_out
from node.market.shop import Shop
from node.market.try_it import limits_left


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
        items = (
            [CatalogEntryOut(**listing_fields(each)) for each in found.items]
            if page == found.page
            else []
        )
        tags = [TagOut.model_validate(each) for each in found.cloud]
        return SearchOut(items=items, total=found.total, page=page, pages=found.pages, tags=tags)

    async def detail(self, listing_id: Id, identity: Caller) -> DetailOut:
        found = await self._detail(listing_id, identity)
        limits = await asyncio.to_thread(limits_left, self.shop.engine, listing_id, _now())
        return DetailOut(
            **listing_fields(found.found),
            base_url="" if found.own else found.base_url,
            network=found.network,
            pay_to=found.pay_to,
            seen_at=found.seen_at,
            has_spec=bool(found.spec),
            operation_list=[ExplainedOut.of(each) for each in found.operations],
            samples=CatalogSampleOut.all_of(found),
            limits=[LimitLeftOut.model_validate(each) for each in limits],
        )

    async def spec(self, listing_id: Id, identity: Caller) -> Response:
        found = await self._detail(listing_id, identity)
        if not found.spec:
            raise ListingUnknown("Nobody has given a specification of this API.")
        return Response(found.spec, media_type="application/json")

    async def look(self, body: AddressIn) -> PreviewOut:
        return PreviewOut.of(await self.shop.paste.look(body.url))

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

    async def change_mode(self, listing_id: Id, body: BuyingModeIn, identity: Caller) -> DetailOut:
        actor, demo = Actor.of(identity), body.mode == "demo"
        await switch(self.shop.engine, actor, listing_id, demo, _now(), self.shop.reload)
        return await self.detail(listing_id, identity)

    async def try_demo(self, listing_id: Id, body: CallIn) -> TriedCallOut:
        return await self._attempt(listing_id, body, demo=True)

    async def buy(self, listing_id: Id, body: CallIn) -> TriedCallOut:
        return await self._attempt(listing_id, body, demo=False)

    async def _attempt(self, listing_id: str, body: CallIn, demo: bool) -> TriedCallOut:
        result = await self.shop.try_it.attempt(listing_id, body.wanted(), demo=demo)
        return TriedCallOut.of(result)

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
