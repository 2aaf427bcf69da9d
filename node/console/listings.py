"""API Management: the APIs this node sells, and one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.responses import Response

from catalog.models import ListingMode
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.facts import NodeFacts
from node.console.format import Amount, Moment, count, exact_amount, latency, moment, per
from node.console.listing_views import (
    OPERATIONS_CSV,
    SAMPLES_CSV,
    Curls,
    Line,
    OperationLine,
    SampleLine,
    curls,
    health_text,
    line_of,
    operation_cells,
    operation_lines,
    price_range,
    sample_cells,
    sample_line,
)
from node.console.pager import Pager, numbered, page_number
from node.console.pages import Pages
from node.console.stream_view import CSV as STREAMS_CSV
from node.console.stream_view import SHOWN as STREAMS_SHOWN
from node.console.stream_view import StreamsView, csv_lines, streams_view
from node.console.visit import Visit
from node.market.drafts import DraftView, list_drafts
from node.market.health import HealthView, look_at
from node.market.own_listings import (
    PAGE_SIZE,
    ListingDetail,
    ListingFilter,
    OwnListing,
    Status,
    every_own,
    list_own,
    read_own,
)
from node.market.publisher import Publisher
from node.market.publishing import pause, switch_mode
from node.usage.live_streams import MOST, LiveStreams, read_live
from node.usage.models import Side

SEE, MANAGE = Permission.SEE_LISTINGS, Permission.MANAGE_LISTINGS
_SHOWN_OPERATIONS = 200


@dataclass(frozen=True, slots=True)
class DraftLine:
    """A registration under way."""

    id: str
    name: str
    missing: str
    touched: Moment


@dataclass(frozen=True, slots=True)
class ListView:
    """What `listings/index.html` shows."""

    text: str
    status: str
    statuses: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    drafts: tuple[DraftLine, ...]
    total: str
    pager: Pager
    csv: str
    may_change: bool
    filtered: bool


@dataclass(frozen=True, slots=True)
class HealthLine:
    """How the upstream was found."""

    text: str
    tone: str
    note: str
    checked: Moment | None
    since: Moment | None


@dataclass(frozen=True, slots=True)
class DetailView:
    """What `listings/listing.html` shows."""

    line: Line
    address: str
    base_url: str
    description: str
    health_path: str
    credential: str
    revenue: Amount
    mean_latency: str
    price: str
    price_unit: str
    demo: bool
    paused: bool
    health: HealthLine
    operations: tuple[OperationLine, ...]
    operations_left: int
    samples: tuple[SampleLine, ...]
    streams: StreamsView
    curls: Curls
    has_spec: bool
    created: Moment
    may_change: bool


def pages(publisher: Publisher, facts: NodeFacts, console_url: str) -> Pages:
    """`/listings` and what belongs to one listing; editing and registering are beside it."""
    pages = Pages("listings")

    @pages.get("/listings", SEE)
    async def index(visit: Visit) -> Response:
        view = await asyncio.to_thread(_list, publisher, visit)
        return visit.page("listings/index.html", view, "API Management")

    @pages.get("/listings/listings.csv", SEE)
    async def export(visit: Visit) -> Response:
        rows = await asyncio.to_thread(every_own, publisher, _filter(visit))
        return visit.csv("listings.csv", _CSV, _csv_rows(rows))

    @pages.get("/listings/{listing_id}", SEE)
    async def show(visit: Visit) -> Response:
        detail = await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        live = await asyncio.to_thread(_live, publisher, visit, STREAMS_SHOWN)
        view = _detail(visit, detail, live, facts.gateway_url, console_url)
        return visit.page("listings/listing.html", view, detail.line.name)

    @pages.get("/listings/{listing_id}/streams.csv", SEE)
    async def streams(visit: Visit) -> Response:
        await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        live = await asyncio.to_thread(_live, publisher, visit)
        return visit.csv("streams.csv", STREAMS_CSV, csv_lines(live))

    @pages.get("/listings/{listing_id}/openapi.json", SEE)
    async def spec(visit: Visit) -> Response:
        detail = await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        name = f"{detail.line.slug}.openapi.json"
        return visit.download(name, detail.spec.encode(), "application/json")

    _lists(pages, publisher)
    _switches(pages, publisher)
    return pages


def _lists(pages: Pages, publisher: Publisher) -> None:
    @pages.get("/listings/{listing_id}/samples.csv", SEE)
    async def samples(visit: Visit) -> Response:
        detail = await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        return visit.csv("samples.csv", SAMPLES_CSV, sample_cells(detail.samples))

    @pages.get("/listings/{listing_id}/operations.csv", SEE)
    async def operations(visit: Visit) -> Response:
        detail = await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])
        return visit.csv("operations.csv", OPERATIONS_CSV, operation_cells(detail.operations))


def _switches(pages: Pages, publisher: Publisher) -> None:
    async def own(visit: Visit) -> str:
        """What is bought is switched in the catalog, by who may spend. Raises ListingUnknown."""
        return (await asyncio.to_thread(read_own, publisher, visit.path["listing_id"])).line.id

    @pages.post("/listings/{listing_id}/pause", MANAGE)
    async def change_pause(visit: Visit) -> Response:
        paused = visit.form.get("paused") == "yes"
        listing_id = await own(visit)
        await asyncio.to_thread(pause, publisher, listing_id, paused, visit.actor, visit.now)
        note = "Paused: calls are refused, demo requests are still answered."
        return visit.redirect(f"/listings/{listing_id}", note if paused else "Selling again.")

    @pages.post("/listings/{listing_id}/mode", MANAGE)
    async def change_mode(visit: Visit) -> Response:
        demo = visit.form.get("mode") == ListingMode.DEMO
        mode = ListingMode.DEMO if demo else ListingMode.LIVE
        listing_id = await own(visit)
        await asyncio.to_thread(switch_mode, publisher, listing_id, mode, visit.actor, visit.now)
        note = "Demo: every call gets a recorded answer, free." if demo else "Live: calls are paid."
        return visit.redirect(f"/listings/{listing_id}", note)

    @pages.post("/listings/{listing_id}/health", MANAGE)
    async def check_health(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        found = await look_at(publisher, listing_id, visit.now)
        note = f"The upstream is {health_text(found)}." if found.up else found.note
        return visit.redirect(f"/listings/{listing_id}", note, "good" if found.up else "bad")


def _list(publisher: Publisher, visit: Visit) -> ListView:
    wanted = _filter(visit)
    found = list_own(publisher, wanted, page_number(visit.query))
    asked = {"q": wanted.text, "status": wanted.status or ""}
    return ListView(
        text=wanted.text,
        status=wanted.status or "",
        statuses=(("", "Any"), *((each.value, each.value.capitalize()) for each in Status)),
        lines=tuple(line_of(row) for row in found.items),
        drafts=tuple(_draft_line(each, visit) for each in list_drafts(publisher)),
        total=count(found.total),
        pager=numbered("/listings", asked, found.page, PAGE_SIZE, found.total),
        csv=_csv_link(visit),
        may_change=visit.identity.may(MANAGE),
        filtered=bool(wanted.text or wanted.status),
    )


def _draft_line(draft: DraftView, visit: Visit) -> DraftLine:
    missing = " ".join(draft.missing) or "Ready to publish."
    return DraftLine(draft.id, draft.name, missing, moment(draft.updated_at, visit.now, visit.zone))


_CSV = (
    "id",
    "name",
    "slug",
    "status",
    "mode",
    "paused",
    "price_from_usdc",
    "price_to_usdc",
    "price_unit",
    "samples",
    "calls",
    "errors",
    "revenue_usdc",
    "tags",
)


def _csv_rows(rows: tuple[OwnListing, ...]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        yield (
            row.id,
            row.name,
            row.slug,
            row.status.value,
            row.mode.value,
            "yes" if row.paused else "no",
            str(Usdc(row.price_from_atoms)),
            str(Usdc(row.price_to_atoms)),
            row.price_unit,
            row.samples,
            row.sums.calls,
            row.sums.errors,
            str(Usdc(row.sums.amount_atoms)),
            ", ".join(row.tags),
        )


def _filter(visit: Visit) -> ListingFilter:
    status = visit.query.get("status", "")
    known = Status(status) if status in list(Status) else None
    return ListingFilter(visit.query.get("q", "").replace("\0", "").strip()[:100], known)


def _csv_link(visit: Visit) -> str:
    query = visit.request.url.query
    return "/listings/listings.csv" + (f"?{query}" if query else "")


def _live(publisher: Publisher, visit: Visit, most: int = MOST) -> LiveStreams:
    asked = (publisher.engine, Side.SERVED, visit.now)
    return read_live(*asked, listing_id=visit.path["listing_id"], most=most)


def _detail(
    visit: Visit, detail: ListingDetail, live: LiveStreams, gateway_url: str, console_url: str
) -> DetailView:
    line, mean = detail.line, detail.line.sums.mean_latency_us
    credential = "none"
    if detail.credential_kind != "none":
        credential = f"set ({detail.credential_kind} {detail.credential_name})"
    return DetailView(
        line=line_of(line),
        address=f"{gateway_url.rstrip('/')}/v1/{line.slug}",
        base_url=detail.base_url,
        description=detail.description,
        health_path=detail.health_path,
        credential=credential,
        revenue=exact_amount(Usdc(line.sums.amount_atoms)),
        mean_latency="—" if mean is None else latency(mean),
        price=price_range(line).removesuffix(f" {per(line.price_unit)}"),
        price_unit=per(line.price_unit),
        demo=line.mode is ListingMode.DEMO,
        paused=line.paused,
        health=_health(visit, line.health),
        operations=operation_lines(detail.operations[:_SHOWN_OPERATIONS]),
        operations_left=max(len(detail.operations) - _SHOWN_OPERATIONS, 0),
        samples=tuple(sample_line(each, visit.now, visit.zone) for each in detail.samples),
        streams=streams_view(visit, live, f"/listings/{line.id}/streams.csv"),
        curls=curls(detail, gateway_url, console_url),
        has_spec=bool(detail.spec),
        created=moment(detail.created_at, visit.now, visit.zone),
        may_change=visit.identity.may(MANAGE),
    )


def _health(visit: Visit, health: HealthView | None) -> HealthLine:
    if health is None:
        return HealthLine("not looked at yet", "plain", "", None, None)
    tone = "good" if health.up else ("bad" if health.down else "loud")
    checked = moment(health.checked_at, visit.now, visit.zone)
    since = moment(health.since, visit.now, visit.zone)
    return HealthLine(health_text(health), tone, health.note, checked, since)
