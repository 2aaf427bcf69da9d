"""API Management: editing a listing, its samples, and taking it out of the catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.responses import Response

from catalog.drafts import parse_tags
from catalog.errors import ListingInvalid, SampleInvalid
from catalog.operations import spec_operations
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.format import Amount, count, exact_amount
from node.console.forms import FieldError, Form, read_seen
from node.console.listing_forms import (
    KEEP,
    credential_options,
    price_fields,
    priced_operations,
    prices_form,
    read_credential,
    read_free_request,
    read_prices,
    read_spec,
)
from node.console.listing_views import SampleLine, body_text, sample_line
from node.console.listings_register import PriceLine
from node.console.pages import Pages
from node.console.visit import Visit
from node.market.own_listings import ListingDetail, read_own
from node.market.publisher import Publisher
from node.market.publishing import Change, Farewell, change, farewell, read_draft_of, remove
from node.market.samples import (
    WholeSample,
    read_sample,
    record_again,
    record_samples,
    remove_sample,
)
from node.market.specs import check_apart
from node.plans.customers import plan_holders

SEE, MANAGE = Permission.SEE_LISTINGS, Permission.MANAGE_LISTINGS
_METHODS = tuple((method, method) for method in ("GET", "POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True)
class EditView:
    """What `listings/edit.html` shows."""

    id: str
    name: str
    slug: str
    version: int
    form: Form
    credentials: tuple[tuple[str, str], ...]
    prices: tuple[PriceLine, ...]
    left_out: int
    has_spec: bool


@dataclass(frozen=True, slots=True)
class SampleView:
    """What `listings/sample.html` shows."""

    listing_id: str
    name: str
    line: SampleLine
    headers: tuple[tuple[str, str], ...]
    body: str
    request_body: str
    may_change: bool


@dataclass(frozen=True, slots=True)
class SampleForm:
    """What `listings/record.html` shows: a request of one's own."""

    listing_id: str
    name: str
    form: Form
    methods: tuple[tuple[str, str], ...]
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteView:
    """What `listings/delete.html` shows."""

    id: str
    name: str
    slug: str
    calls: str
    revenue: Amount
    channels: int
    held: Amount
    unclaimed: Amount
    others: int
    customers: int
    form: Form


def pages(publisher: Publisher) -> Pages:
    """`/listings/{id}/edit`, `…/delete` and `…/samples/…`."""
    pages = Pages("listings")
    _add_edit(pages, publisher)
    _add_delete(pages, publisher)
    _add_samples(pages, publisher)
    _add_recording(pages, publisher)
    return pages


def _add_edit(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/{listing_id}/edit", MANAGE)
    async def edit(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        detail = await asyncio.to_thread(read_own, publisher, listing_id)
        draft = await asyncio.to_thread(read_draft_of, publisher, listing_id)
        values = {
            "name": draft.name,
            "base_url": draft.base_url,
            "description": draft.description,
            "tags": ", ".join(draft.tags),
            "health_path": draft.health_path,
            "credential_kind": KEEP if detail.credential_kind != "none" else "none",
            **prices_form(draft),
        }
        return _edit_page(visit, detail, Form(values))

    @pages.post("/listings/{listing_id}/edit", MANAGE)
    async def save(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        detail = await asyncio.to_thread(read_own, publisher, listing_id)
        try:
            wanted = await _read_change(visit, publisher, detail)
            who, now, seen = visit.actor, visit.now, read_seen(visit.form)
            await asyncio.to_thread(change, publisher, listing_id, wanted, who, now, seen)
        except ListingInvalid as error:
            return _edit_page(visit, detail, Form(visit.form).refused(error), 422)
        note = "Saved. Calls that were admitted before keep their price."
        return visit.redirect(f"/listings/{listing_id}", note)


async def _read_change(visit: Visit, publisher: Publisher, detail: ListingDetail) -> Change:
    form, spec = visit.form, detail.spec
    given = await visit.upload("spec_file") is not None
    if given or form.get("spec_url", "").strip() or form.get("spec", "").strip():
        spec = await _read_checked_spec(visit, publisher)
    # The prices were typed beside the operations of the specification that was there.
    prices = read_prices(form, detail.spec)
    return Change(
        name=" ".join(form.get("name", "").split()),
        base_url=form.get("base_url", "").strip(),
        description=form.get("description", "").strip(),
        tags=parse_tags(form.get("tags", "")),
        health_path=form.get("health_path", "").strip(),
        price=prices.price,
        unit=prices.unit,
        routes=prices.routes,
        spec=spec,
        credential=read_credential(form) if _credential_changed(form, detail) else None,
    )


def _credential_changed(form: Mapping[str, str], detail: ListingDetail) -> bool:
    """Nothing stored and nothing given is no change."""
    return not (detail.credential_kind == "none" and form.get("credential_kind") == "none")


async def _read_checked_spec(visit: Visit, publisher: Publisher) -> str:
    checked = await check_apart(await read_spec(visit, publisher), publisher.checks)
    if checked.problems:
        shown = " ".join(f"({each})" for each in checked.problems[:5])
        raise ListingInvalid("spec", f"The specification has problems: {shown}")
    return checked.spec


def _add_delete(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/{listing_id}/delete", MANAGE)
    async def ask(visit: Visit) -> Response:
        facts = await asyncio.to_thread(farewell, publisher, visit.path["listing_id"])
        return await _delete_page(publisher, visit, facts, Form())

    @pages.post("/listings/{listing_id}/delete", MANAGE)
    async def delete(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        facts = await asyncio.to_thread(farewell, publisher, listing_id)
        try:
            await visit.confirm_password()
        except FieldError as error:
            return await _delete_page(publisher, visit, facts, Form().refused(error), 422)
        await asyncio.to_thread(remove, publisher, listing_id, visit.actor, visit.now)
        return visit.redirect("/listings", f"{facts.name} is no longer sold.")


def _add_samples(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/{listing_id}/samples/{sample_id}", SEE)
    async def show(visit: Visit) -> Response:
        sample = await asyncio.to_thread(read_sample, publisher, visit.path["sample_id"])
        detail = await asyncio.to_thread(read_own, publisher, sample.view.listing_id)
        view = _sample(visit, detail, sample)
        return visit.page("listings/sample.html", view, f"Sample of {detail.line.name}")

    @pages.post("/listings/{listing_id}/samples/{sample_id}/record", MANAGE)
    async def again(visit: Visit) -> Response:
        listing_id, sample_id = visit.path["listing_id"], visit.path["sample_id"]
        done = await record_again(publisher, sample_id, visit.actor, visit.now)
        note = done.problem or "Recorded anew."
        tone = "bad" if done.problem else "good"
        return visit.redirect(f"/listings/{listing_id}", note, tone)

    @pages.post("/listings/{listing_id}/samples/{sample_id}/delete", MANAGE)
    async def forget(visit: Visit) -> Response:
        sample_id = visit.path["sample_id"]
        await asyncio.to_thread(remove_sample, publisher, sample_id, visit.actor, visit.now)
        return visit.redirect(f"/listings/{visit.path['listing_id']}", "The sample is gone.")


def _add_recording(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/{listing_id}/record", MANAGE)
    async def ask(visit: Visit) -> Response:
        detail = await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        return _record_page(visit, detail, Form({"method": "GET", "target": "/"}))

    @pages.post("/listings/{listing_id}/record", MANAGE)
    async def record(visit: Visit) -> Response:
        listing_id, form = visit.path["listing_id"], Form(visit.form)
        detail = await asyncio.to_thread(read_own, publisher, listing_id)
        try:
            requests = [read_free_request(visit.form)]
            [done] = await record_samples(publisher, listing_id, requests, visit.actor, visit.now)
        except SampleInvalid as error:
            return _record_page(visit, detail, form.with_error("target", str(error)), 422)
        if done.problem:
            return _record_page(visit, detail, form.with_error("", done.problem), 422)
        return visit.redirect(f"/listings/{listing_id}", "Recorded.")


def _edit_page(visit: Visit, detail: ListingDetail, form: Form, status: int = 200) -> Response:
    described, fields = spec_operations(detail.spec), price_fields(detail.spec)
    view = EditView(
        id=detail.line.id,
        name=detail.line.name,
        slug=detail.line.slug,
        version=detail.line.updated_at,
        form=form,
        credentials=credential_options(detail.credential_kind, detail.credential_name),
        prices=tuple(
            PriceLine(name, " ".join(key), str(described[key].get("summary") or ""))
            for key, name in fields.items()
        ),
        left_out=len(priced_operations(detail.spec)) - len(fields),
        has_spec=bool(detail.spec),
    )
    return visit.page("listings/edit.html", view, f"Edit {detail.line.name}", status)


async def _delete_page(
    publisher: Publisher, visit: Visit, facts: Farewell, form: Form, status: int = 200
) -> Response:
    listing_id = visit.path["listing_id"]
    holders = await asyncio.to_thread(plan_holders, publisher.engine, listing_id, visit.now)
    view = DeleteView(
        id=listing_id,
        name=facts.name,
        slug=facts.slug,
        calls=count(facts.calls),
        revenue=exact_amount(Usdc(facts.revenue_atoms)),
        channels=facts.open_channels,
        held=exact_amount(Usdc(facts.channel_atoms)),
        unclaimed=exact_amount(Usdc(facts.unclaimed_atoms)),
        others=facts.other_listings,
        customers=sum(holders.values()),
        form=form,
    )
    return visit.page("listings/delete.html", view, f"Delete {facts.name}", status)


def _sample(visit: Visit, detail: ListingDetail, sample: WholeSample) -> SampleView:
    return SampleView(
        listing_id=detail.line.id,
        name=detail.line.name,
        line=sample_line(sample.view, visit.now, visit.zone),
        headers=sample.headers,
        body=body_text(sample),
        request_body=sample.view.request_body,
        may_change=visit.identity.may(MANAGE),
    )


def _record_page(visit: Visit, detail: ListingDetail, form: Form, status: int = 200) -> Response:
    operations = tuple(f"{each.method} {each.path}" for each in detail.operations if each.described)
    view = SampleForm(detail.line.id, detail.line.name, form, _METHODS, operations[:50])
    return visit.page("listings/record.html", view, "Record a sample", status)
