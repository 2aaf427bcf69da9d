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
from node.market.catalog import read_detail, take_out
from node.market.paste import Preview
from node.market.shop import Shop


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


class AddPages:
    """The handlers."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    async def ask(self, visit: Visit) -> Response:
        return _ask(visit, AddView(Form(dict(visit.query))))

    async def look(self, visit: Visit) -> Response:
        form = Form(dict(visit.form))
        try:
            preview = await self._shop.paste.look(form.value("url"))
        except CatalogError as error:
            return _ask(visit, AddView(form.refused(error)), 422)
        values = {
            "url": preview.url,
            "name": preview.found.name,
            "description": preview.found.description,
            "tags": ", ".join(preview.found.tags),
        }
        return _ask(visit, AddView(Form(values), _look(self._shop, preview)))

    async def add(self, visit: Visit) -> Response:
        form = Form(dict(visit.form))
        words = (form.value("name"), form.value("description"), form.value("tags"))
        try:
            listing_id = await self._shop.paste.add(
                visit.actor, form.value("url"), *words, demo=True, now=visit.now
            )
        except CatalogError as error:
            return _ask(visit, AddView(form.refused(error)), 422)
        note = "Added, in demo mode. Switch it to production when apps may buy from it."
        return visit.redirect(f"{PATH}/{listing_id}", note)

    async def confirm(self, visit: Visit) -> Response:
        asked = (visit.path["listing_id"], visit.identity.user_id)
        detail = await asyncio.to_thread(read_detail, self._shop.engine, *asked)
        view = RemoveView(detail.found.id, detail.found.name, detail.base_url, detail.found.peer)
        return visit.page("catalog/remove.html", view, f"Remove {detail.found.name}")

    async def remove(self, visit: Visit) -> Response:
        shop, listing_id = self._shop, visit.path["listing_id"]
        await take_out(shop.engine, visit.actor, listing_id, visit.now, shop.reload)
        return visit.redirect(PATH, "Taken out of the catalog. Its calls stay in the books.")


def pages(shop: Shop) -> Pages:
    """`/catalog/add` and the page that asks before a listing is taken out."""
    pages, handlers, may = Pages("catalog"), AddPages(shop), Permission.MANAGE_CATALOG
    pages.get(f"{PATH}/add", may)(handlers.ask)
    pages.post(f"{PATH}/add/look", may)(handlers.look)
    pages.post(f"{PATH}/add", may)(handlers.add)
    pages.get(f"{PATH}/{{listing_id}}/remove", may)(handlers.confirm)
    pages.post(f"{PATH}/{{listing_id}}/remove", may)(handlers.remove)
    return pages


def _ask(visit: Visit, view: AddView, status: int = 200) -> Response:
    return visit.page("catalog/add.html", view, "Add an address", status)


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
