"""Catalog > Add: an address is looked at first, then taken in; and taken out again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response

from catalog.discovery import FoundRoute
from catalog.errors import CatalogError
from catalog.models import PriceUnit
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.catalog import PATH
from node.console.format import Short, address, exact_text, per
from node.console.forms import Form
from node.console.pages import Pages
from node.console.visit import Visit
from node.market.catalog import Detail, read_detail, take_out
from node.market.paste import Preview
from node.market.shop import Shop

_TEMPLATE = "catalog/add.html"


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at an address."""

    url: str
    price: str
    schemes: str
    network: str
    pay_to: Short
    whole: bool
    base_url: str
    routes: tuple[tuple[str, str], ...]
    there: str


@dataclass(frozen=True, slots=True)
class AddView:
    """What `catalog/add.html` shows; `look` is None until an address was looked at."""

    form: Form
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class RemoveView:
    """What `catalog/remove.html` shows."""

    id: str
    name: str
    base_url: str
    peer: str


def pages(shop: Shop) -> Pages:
    """`/catalog/add` and the page that asks before a listing is taken out."""
    pages = Pages("catalog")

    @pages.get(f"{PATH}/add", Permission.MANAGE_CATALOG)
    async def ask(visit: Visit) -> Response:
        return visit.page(_TEMPLATE, AddView(Form(dict(visit.query))), "Add an address")

    @pages.post(f"{PATH}/add/look", Permission.MANAGE_CATALOG)
    async def look(visit: Visit) -> Response:
        form = Form(dict(visit.form))
        try:
            preview = await shop.paste.look(form.value("url"))
        except CatalogError as error:
            view = AddView(form.refused(error))
            return visit.page(_TEMPLATE, view, "Add an address", 422)
        values = {
            "url": preview.url,
            "name": preview.found.name,
            "description": preview.found.description,
            "tags": ", ".join(preview.found.tags),
        }
        view = AddView(Form(values), _look(shop, preview))
        return visit.page(_TEMPLATE, view, "Add an address")

    @pages.post(f"{PATH}/add", Permission.MANAGE_CATALOG)
    async def add(visit: Visit) -> Response:
        form = Form(dict(visit.form))
        words = (form.value("name"), form.value("description"), form.value("tags"))
        try:
            listing_id = await shop.paste.add(
                visit.actor, form.value("url"), *words, demo=True, now=visit.now
            )
        except CatalogError as error:
            view = AddView(form.refused(error))
            return visit.page(_TEMPLATE, view, "Add an address", 422)
        note = "Added, in demo mode. Switch it to production when apps may buy from it."
        return visit.redirect(f"{PATH}/{listing_id}", note)

    @pages.get(f"{PATH}/{{listing_id}}/remove", Permission.MANAGE_CATALOG)
    async def confirm(visit: Visit) -> Response:
        detail = await _detail(shop, visit)
        view = RemoveView(detail.found.id, detail.found.name, detail.base_url, detail.found.peer)
        return visit.page("catalog/remove.html", view, f"Remove {detail.found.name}")

    @pages.post(f"{PATH}/{{listing_id}}/remove", Permission.MANAGE_CATALOG)
    async def remove(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        await take_out(shop.engine, visit.actor, listing_id, visit.now, shop.reload)
        return visit.redirect(PATH, "Taken out of the catalog. Its calls stay in the books.")

    return pages


async def _detail(shop: Shop, visit: Visit) -> Detail:
    listing_id = visit.path["listing_id"]
    return await asyncio.to_thread(read_detail, shop.engine, listing_id, visit.identity.user_id)


def _look(shop: Shop, preview: Preview) -> Look:
    found = preview.found
    return Look(
        url=preview.url,
        price=f"{exact_text(Usdc(preview.price_atoms))} USDC {per(preview.unit)}",
        schemes=", ".join(found.schemes),
        network=f"{shop.network.name} ({preview.network})",
        pay_to=address(found.pay_to, shop.network),
        whole=preview.whole,
        base_url=found.base_url,
        routes=tuple((_route(each.method, each.path), _price(each)) for each in found.routes[:50]),
        there=f"{PATH}/{preview.listing_id}" if preview.listing_id else "",
    )


def _price(route: FoundRoute) -> str:
    text = f"{exact_text(Usdc(route.price_atoms))} USDC"
    return text if route.price_unit is PriceUnit.CALL else f"{text} {per(route.price_unit)}"


def _route(method: str, path: str) -> str:
    if method == "*":
        return "Any other request" if path == "/" else f"Any method {path}"
    return f"{method} {path}"
