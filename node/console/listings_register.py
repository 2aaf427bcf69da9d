"""Registering an API: details, validation with samples, then prices and publishing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from starlette.responses import Response

from catalog.errors import (
    DraftIncomplete,
    ListingExists,
    ListingInvalid,
    SampleInvalid,
)
from catalog.models import ListingMode
from catalog.operations import spec_operations
from catalog.samples import Field, fields_of
from node.accounts.access import Permission
from node.console.forms import Form
from node.console.listing_forms import (
    MOST_OFFERED,
    Operation,
    credential_options,
    details_form,
    field_name,
    operation_key,
    operations_of,
    price_fields,
    priced_operations,
    read_details,
    read_prices,
    read_requests,
    read_spec,
)
from node.console.listing_views import SampleLine, sample_line
from node.console.pages import Pages
from node.console.visit import Visit
from node.market.drafts import (
    Details,
    DraftView,
    Terms,
    check_draft,
    discard_draft,
    publish_draft,
    read_draft,
    save_draft,
)
from node.market.publisher import Publisher
from node.market.samples import Recording, record_samples, remove_sample

MANAGE = Permission.MANAGE_LISTINGS
_TICKED = 2  # operations chosen from the start

Stages = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DetailsView:
    """What `listings/details.html` shows; `draft_id` is empty for a new one."""

    form: Form
    stages: Stages
    draft_id: str
    credentials: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ProblemLine:
    """One fault of the specification."""

    line: str
    pointer: str
    message: str


@dataclass(frozen=True, slots=True)
class Input:
    """A field for one example value."""

    name: str
    label: str
    value: str
    required: bool
    body: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """An operation that can be recorded."""

    key: str
    operation: str
    summary: str
    inputs: tuple[Input, ...]
    ticked: bool


@dataclass(frozen=True, slots=True)
class CheckView:
    """What `listings/draft.html` shows."""

    form: Form
    stages: Stages
    draft: DraftView
    problems: tuple[ProblemLine, ...]
    samples: tuple[SampleLine, ...]
    choices: tuple[Choice, ...]
    find: str
    left_out: int
    failures: tuple[Recording, ...]


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One operation with its price field."""

    field: str
    operation: str
    summary: str


@dataclass(frozen=True, slots=True)
class PublishView:
    """What `listings/publish.html` shows."""

    form: Form
    stages: Stages
    draft: DraftView
    prices: tuple[PriceLine, ...]
    left_out: int


def pages(publisher: Publisher) -> Pages:
    """`/listings/new` and `/listings/drafts/…`."""
    pages = Pages("listings")
    _add_details(pages, publisher)
    _add_checks(pages, publisher)
    _add_samples(pages, publisher)
    _add_publish(pages, publisher)
    return pages


def _add_details(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/new", MANAGE)
    async def new(visit: Visit) -> Response:
        return _details_page(visit, Form({"credential_kind": "none"}), None)

    @pages.post("/listings/new", MANAGE)
    async def start(visit: Visit) -> Response:
        return await _save(visit, publisher, None)

    @pages.get("/listings/drafts/{draft_id}/edit", MANAGE)
    async def edit(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        return _details_page(visit, details_form(draft), draft)

    @pages.post("/listings/drafts/{draft_id}/edit", MANAGE)
    async def change(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        return await _save(visit, publisher, draft)


def _add_checks(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/drafts/{draft_id}", MANAGE)
    async def show(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        return _check_page(visit, draft, Form({"spec": draft.spec_text}))

    @pages.post("/listings/drafts/{draft_id}/check", MANAGE)
    async def check(visit: Visit) -> Response:
        draft = await check_draft(publisher, visit.path["draft_id"], visit.now)
        good = not draft.problems and draft.upstream_ok
        note = "Checked again: nothing to mend." if good else "Checked again."
        return visit.redirect(f"/listings/drafts/{draft.id}", note, "good" if good else "loud")

    @pages.post("/listings/drafts/{draft_id}/spec", MANAGE)
    async def mend(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        try:
            text = await read_spec(visit, publisher)
        except ListingInvalid as error:
            return _check_page(visit, draft, Form(visit.form).refused(error), status=422)
        details = replace(_stored(draft), spec_text=text)
        await save_draft(publisher, draft.id, details, visit.actor, visit.now)
        return visit.redirect(f"/listings/drafts/{draft.id}", "The specification was checked.")

    @pages.post("/listings/drafts/{draft_id}/discard", MANAGE)
    async def discard(visit: Visit) -> Response:
        draft_id = visit.path["draft_id"]
        await asyncio.to_thread(discard_draft, publisher, draft_id, visit.actor, visit.now)
        return visit.redirect("/listings", "The draft is gone.")


def _add_samples(pages: Pages, publisher: Publisher) -> None:
    @pages.post("/listings/drafts/{draft_id}/samples", MANAGE)
    async def record(visit: Visit) -> Response:
        draft_id, form = visit.path["draft_id"], Form(visit.form)
        draft = await asyncio.to_thread(read_draft, publisher, draft_id)
        try:
            requests = read_requests(visit.form, visit.form_list("operation"), draft.spec)
            done = await record_samples(publisher, draft_id, requests, visit.actor, visit.now)
        except SampleInvalid as error:
            return _check_page(visit, draft, form.refused(error), status=422)
        failures = tuple(each for each in done if each.problem)
        if failures:
            draft = await asyncio.to_thread(read_draft, publisher, draft_id)
            return _check_page(visit, draft, form, failures, status=422)
        return visit.redirect(f"/listings/drafts/{draft_id}", f"Recorded: {len(done)}.")

    @pages.post("/listings/drafts/{draft_id}/samples/{sample_id}/delete", MANAGE)
    async def remove(visit: Visit) -> Response:
        sample_id = visit.path["sample_id"]
        await asyncio.to_thread(remove_sample, publisher, sample_id, visit.actor, visit.now)
        return visit.redirect(f"/listings/drafts/{visit.path['draft_id']}", "The sample is gone.")


def _add_publish(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/drafts/{draft_id}/publish", MANAGE)
    async def ask(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        return _publish_page(visit, draft, Form({"mode": "live"}))

    @pages.post("/listings/drafts/{draft_id}/publish", MANAGE)
    async def publish(visit: Visit) -> Response:
        draft = await asyncio.to_thread(read_draft, publisher, visit.path["draft_id"])
        try:
            prices = read_prices(visit.form, draft.spec)
            mode = ListingMode.DEMO if visit.form.get("mode") == "demo" else ListingMode.LIVE
            terms = Terms(prices.price, prices.routes, mode, prices.unit)
            listing_id = await asyncio.to_thread(
                publish_draft, publisher, draft.id, terms, visit.actor, visit.now
            )
        except (DraftIncomplete, ListingExists, ListingInvalid) as error:
            return _publish_page(visit, draft, Form(visit.form).refused(error), 422)
        return visit.redirect(f"/listings/{listing_id}", f"{draft.name} is published.")


async def _save(visit: Visit, publisher: Publisher, draft: DraftView | None) -> Response:
    values = dict(visit.form)
    try:
        text = await read_spec(visit, publisher)
        values["spec"], values["spec_url"] = text, ""  # what was sent or fetched is not lost
        details = read_details(visit.form, text)
        known = draft.id if draft else None
        draft_id = await save_draft(publisher, known, details, visit.actor, visit.now)
    except (DraftIncomplete, ListingInvalid) as error:
        return _details_page(visit, Form(values).refused(error), draft, 422)
    return visit.redirect(f"/listings/drafts/{draft_id}")


def _details_page(visit: Visit, form: Form, draft: DraftView | None, status: int = 200) -> Response:
    kind, name = (draft.credential_kind, draft.credential_name) if draft else ("none", "")
    view = DetailsView(form, _stages(0), draft.id if draft else "", credential_options(kind, name))
    return visit.page("listings/details.html", view, "Register an API", status)


def _check_page(
    visit: Visit,
    draft: DraftView,
    form: Form,
    failures: tuple[Recording, ...] = (),
    status: int = 200,
) -> Response:
    find = visit.query.get("find", "").strip()
    found = [key for key in operations_of(draft.spec) if find.lower() in " ".join(key).lower()]
    view = CheckView(
        form=form,
        stages=_stages(1),
        draft=draft,
        problems=tuple(
            ProblemLine(str(each.line or ""), each.pointer, each.message) for each in draft.problems
        ),
        samples=tuple(sample_line(each, visit.now, visit.zone) for each in draft.samples),
        choices=_choices(draft, found[:MOST_OFFERED], form, visit.form_list("operation")),
        find=find,
        left_out=max(len(found) - MOST_OFFERED, 0),
        failures=failures,
    )
    return visit.page("listings/draft.html", view, f"Validate {draft.name}", status)


def _choices(
    draft: DraftView, shown: list[Operation], form: Form, chosen: list[str]
) -> tuple[Choice, ...]:
    described, choices, easy = spec_operations(draft.spec), [], 0
    for each in shown:
        key = operation_key(*each)
        inputs = tuple(_input(key, field, form) for field in fields_of(described[each]))
        complete = each[0] == "GET" and all(i.value or not i.required for i in inputs)
        easy += complete
        ticked = key in chosen if chosen else complete and easy <= _TICKED
        summary = str(described[each].get("summary") or "")
        choices.append(Choice(key, " ".join(each), summary, inputs, ticked and not draft.samples))
    return tuple(choices)


def _input(key: str, field: Field, form: Form) -> Input:
    name = field_name(key, field)
    body = field.place == "body"
    label = f"Body ({field.name})" if body else f"{field.name} ({field.place})"
    return Input(name, label, form.values.get(name, field.example), field.required, body)


def _publish_page(visit: Visit, draft: DraftView, form: Form, status: int = 200) -> Response:
    described, fields = spec_operations(draft.spec), price_fields(draft.spec)
    prices = tuple(
        PriceLine(name, " ".join(key), str(described[key].get("summary") or ""))
        for key, name in fields.items()
    )
    left_out = len(priced_operations(draft.spec)) - len(fields)
    view = PublishView(form, _stages(2), draft, prices, left_out)
    return visit.page("listings/publish.html", view, f"Publish {draft.name}", status)


def _stored(draft: DraftView) -> Details:
    return Details(
        draft.name,
        draft.base_url,
        draft.spec_text,
        draft.description,
        draft.tags,
        draft.health_path,
        None,
    )


def _stages(now: int) -> Stages:
    labels = ("Details", "Validate", "Price and publish")
    states = ["done" if at < now else "now" if at == now else "open" for at in range(3)]
    return tuple(zip(labels, states, strict=True))
