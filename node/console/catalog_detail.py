"""One listing: how it stands, its operations, and Try it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import quote

from starlette.responses import Response

from catalog.errors import ListingUnknown, SampleInvalid
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.catalog import PATH, Badge, Pill, badges_of, price_of, tag_link
from node.console.explorer import (
    OperationLink,
    OperationView,
    ResultView,
    curl_of,
    filled,
    operation_links,
    operation_view,
    result_view,
    wanted_of,
)
from node.console.format import Moment, Short, address, moment
from node.console.forms import Form
from node.console.pages import Pages
from node.console.subscribe import OfferView, offer_view
from node.console.visit import Visit
from node.market.catalog import Detail, Recorded, read_detail
from node.market.explore import Explained
from node.market.results import Results
from node.market.shop import Shop
from node.market.try_it import TryResult, limits_left
from node.plans.buying.service import Subscriptions


@dataclass(frozen=True, slots=True)
class SampleLine:
    """A sample in the list."""

    request: str
    status: int
    declared: bool
    recorded: Moment


@dataclass(frozen=True, slots=True)
class DetailView:
    """What `catalog/detail.html` shows."""

    id: str
    name: str
    description: str
    own: bool
    demo: bool
    paused: bool
    starred: bool
    badges: tuple[Badge, ...]
    protocol: str
    price: str
    tags: tuple[Pill, ...]
    app_url: str
    seller_url: str
    network: str
    pay_to: Short | None
    from_: str
    seen: Moment | None
    curl: str
    has_spec: bool
    samples: tuple[SampleLine, ...]
    operations: tuple[OperationLink, ...]
    operation: OperationView
    form: Form
    result: ResultView | None
    may_use: bool
    may_spend: bool
    may_remove: bool
    offer: OfferView | None


class DetailPages:
    """The handlers."""

    def __init__(self, shop: Shop, subscriptions: Subscriptions) -> None:
        self._shop, self._subscriptions, self._results = shop, subscriptions, Results()

    async def show(self, visit: Visit) -> Response:
        detail = await self._detail(visit)
        call = visit.query.get("call", "")
        result = self._results.get(visit.identity.user_id, detail.found.id, call)
        operation = _operation(detail, visit.query.get("op", ""))
        return await self._page(visit, detail, operation, Form(filled(operation)), result)

    async def try_demo(self, visit: Visit) -> Response:
        return await self._attempt(visit, demo=True)

    async def buy(self, visit: Visit) -> Response:
        return await self._attempt(visit, demo=False)

    async def spec(self, visit: Visit) -> Response:
        detail = await self._detail(visit)
        if not detail.spec:
            raise ListingUnknown("Nobody has given a specification of this API.")
        name = f"{detail.found.slug}.openapi.json"
        return visit.download(name, detail.spec.encode(), "application/json")

    async def samples(self, visit: Visit) -> Response:
        detail = await self._detail(visit)
        content = json.dumps(samples_document(detail), indent=2, ensure_ascii=False)
        name = f"{detail.found.slug}.samples.json"
        return visit.download(name, content.encode(), "application/json")

    async def export_samples(self, visit: Visit) -> Response:
        detail = await self._detail(visit)
        return visit.csv("samples.csv", _SAMPLES, map(_sample_cells, detail.samples))

    async def export_operations(self, visit: Visit) -> Response:
        detail = await self._detail(visit)
        return visit.csv("operations.csv", _OPERATIONS, map(_operation_cells, detail.operations))

    async def answer(self, visit: Visit) -> Response:
        user, listing = visit.identity.user_id, visit.path["listing_id"]
        result = self._results.get(user, listing, visit.path["call_id"])
        if result is None:
            raise ListingUnknown("This answer is not kept any more. Make the call again.")
        return visit.download("answer.bin", result.body, "application/octet-stream")

    async def _attempt(self, visit: Visit, demo: bool) -> Response:
        detail = await self._detail(visit)
        form, listing_id = Form(dict(visit.form)), detail.found.id
        operation = _operation(detail, form.value("op"))
        try:
            wanted = wanted_of(operation, form)
            result = await self._shop.try_it.attempt(listing_id, wanted, demo)
        except SampleInvalid as error:
            refused = form.with_error("", str(error))
            return await self._page(visit, detail, operation, refused, None, 422)
        self._results.keep(visit.identity.user_id, listing_id, result)
        where = f"op={quote(operation.key)}&call={quote(result.call_id)}"
        return visit.redirect(f"{PATH}/{listing_id}?{where}#result")

    async def _detail(self, visit: Visit) -> Detail:
        asked = (visit.path["listing_id"], visit.identity.user_id)
        return await asyncio.to_thread(read_detail, self._shop.engine, *asked)

    async def _page(
        self,
        visit: Visit,
        detail: Detail,
        operation: Explained,
        form: Form,
        result: TryResult | None,
        status: int = 200,
    ) -> Response:
        shop, listing_id = self._shop, detail.found.id
        limits = await asyncio.to_thread(limits_left, shop.engine, listing_id, visit.now)
        opened = operation_view(operation, () if detail.own else limits)
        offer = None
        if not detail.own:
            offer = await offer_view(self._subscriptions, visit, listing_id)
        view = _view(shop, visit, detail, operation, opened, form, result, offer)
        return visit.page("catalog/detail.html", view, detail.found.name, status)


def pages(shop: Shop, subscriptions: Subscriptions) -> Pages:
    """`/catalog/{listing}`, its downloads, and the calls made from it."""
    pages, handlers = Pages("catalog"), DetailPages(shop, subscriptions)
    path, see = f"{PATH}/{{listing_id}}", Permission.SEE_CATALOG
    pages.get(path, see)(handlers.show)
    pages.post(f"{path}/try", Permission.USE_CATALOG)(handlers.try_demo)
    pages.post(f"{path}/buy", Permission.SPEND)(handlers.buy)
    pages.get(f"{path}/spec", see)(handlers.spec)
    pages.get(f"{path}/samples", see)(handlers.samples)
    pages.get(f"{path}/samples.csv", see)(handlers.export_samples)
    pages.get(f"{path}/operations.csv", see)(handlers.export_operations)
    pages.get(f"{path}/answers/{{call_id}}", Permission.USE_CATALOG)(handlers.answer)
    return pages


_SAMPLES = ("method", "target", "status", "declared_by_seller", "recorded_at")
_OPERATIONS = ("method", "path", "summary", "price_usdc", "price_unit")


def _sample_cells(row: Recorded) -> tuple[object, ...]:
    declared = "yes" if row.declared else "no"
    return row.method, row.target, row.status, declared, row.recorded_at


def _operation_cells(row: Explained) -> tuple[object, ...]:
    return row.method, row.path, row.summary, str(Usdc(row.price_atoms)), row.unit.value


def samples_document(detail: Detail) -> list[dict[str, object]]:
    """Samples as a file has them; a body that is no text is hexadecimal."""
    found: list[dict[str, object]] = []
    for each in detail.samples:
        try:
            body, encoding = each.body.decode(), "text"
        except UnicodeDecodeError:
            body, encoding = each.body.hex(), "hex"
        found.append(
            {
                "method": each.method,
                "target": each.target,
                "status": each.status,
                "content_type": each.media_type,
                "declared_by_seller": each.declared,
                "recorded_at": each.recorded_at,
                "encoding": encoding,
                "body": body,
            }
        )
    return found


def _operation(detail: Detail, key: str) -> Explained:
    """The operation asked for, else the first."""
    found = next((each for each in detail.operations if each.key == key), None)
    return found or detail.operations[0]


def _view(
    shop: Shop,
    visit: Visit,
    detail: Detail,
    operation: Explained,
    opened: OperationView,
    form: Form,
    result: TryResult | None,
    offer: OfferView | None,
) -> DetailView:
    found, may = detail.found, visit.identity.may
    base = (
        shop.settings.gateway_url + "/v1/" if detail.own else shop.settings.console_url + "/call/"
    )
    app_url = base + found.slug
    return DetailView(
        id=found.id,
        name=found.name,
        description=found.description,
        own=detail.own,
        demo=found.demo,
        paused=found.paused,
        starred=found.starred,
        badges=badges_of(found),
        protocol=", ".join(found.schemes),
        price=price_of(found),
        tags=tuple(Pill(tag, tag_link(tag.casefold())) for tag in found.tags),
        app_url=app_url,
        seller_url="" if detail.own else detail.base_url,
        network=detail.network,
        pay_to=address(detail.pay_to, shop.network) if detail.pay_to else None,
        from_="Sold by this node" if detail.own else found.peer or "Added by address",
        seen=moment(detail.seen_at, visit.now, visit.zone) if detail.seen_at else None,
        curl=curl_of(operation, form, app_url, detail.own),
        has_spec=bool(detail.spec),
        samples=tuple(_sample_line(each, visit) for each in detail.samples),
        operations=operation_links(detail.operations, operation.key),
        operation=opened,
        form=form,
        result=_result(found.id, result),
        may_use=may(Permission.USE_CATALOG),
        may_spend=may(Permission.SPEND),
        may_remove=may(Permission.MANAGE_CATALOG) and not detail.own,
        offer=offer,
    )


def _sample_line(row: Recorded, visit: Visit) -> SampleLine:
    recorded = moment(row.recorded_at, visit.now, visit.zone)
    return SampleLine(f"{row.method} {row.target}", row.status, row.declared, recorded)


def _result(listing_id: str, result: TryResult | None) -> ResultView | None:
    if result is None:
        return None
    return result_view(result, f"{PATH}/{listing_id}/answers/{result.call_id}")
