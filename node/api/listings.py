"""What this node sells: the same as API Management in the console."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query, Response
from pydantic import Field

from catalog.drafts import Draft, DraftCredential, slug_of
from catalog.errors import ListingInvalid
from catalog.operations import spec_operations
from finance.money import Usdc
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.listing_shapes import (
    HealthOut,
    ListingChange,
    ListingIn,
    ListingLine,
    ListingOut,
    ModeIn,
    PauseIn,
    RecordingOut,
    SampleIn,
    SpecIn,
    SpecReport,
    credential_of,
    health_out,
    line_values,
    listing_out,
    problems_out,
    recording_out,
    request_of,
    routes_of,
)
from node.api.paging import FilterText, Id, Listed, PageNumber, listed
from node.api.routing import Caller, Endpoints
from node.api.stream_shapes import StreamOut
from node.market.health import look_at
from node.market.own_listings import ListingFilter, Status, list_own
from node.market.own_listings import read_own as read_detail
from node.market.publisher import Publisher
from node.market.publishing import Change, change, pause, remove, sell, switch_mode
from node.market.samples import read_sample, record_again, record_samples, remove_sample
from node.market.specs import check_apart, fetch_spec
from node.usage.live_streams import read_live
from node.usage.models import Side

SEE, MANAGE = Permission.SEE_LISTINGS, Permission.MANAGE_LISTINGS


class Octets(Response):
    """Bytes of strangers: to be kept, never to be shown as a page."""

    media_type = "application/octet-stream"


def endpoints(publisher: Publisher) -> Endpoints:
    """`/api/listings`; drafts are in node.api.drafts."""
    api = Endpoints(prefix="/listings", tags=["listings"])
    _add_reading(api, publisher)
    _add_changing(api, publisher)
    _add_switches(api, publisher)
    _add_samples(api, publisher)
    return api


def _add_reading(api: Endpoints, publisher: Publisher) -> None:
    @api.get("", SEE)
    async def listings(
        q: FilterText = "", status: Annotated[Status | None, Query()] = None, page: PageNumber = 1
    ) -> Listed[ListingLine]:
        """By name. `q` occurs in name, slug or tags."""
        found = await asyncio.to_thread(list_own, publisher, ListingFilter(q, status), page)
        items = [ListingLine(**line_values(row)) for row in found.items]
        return Listed(items=items, total=found.total, page=found.page, pages=found.pages)

    @api.post("/validate", MANAGE)
    async def validate(given: SpecIn) -> SpecReport:
        """Check a specification; nothing is stored."""
        text = given.spec
        if given.spec_url:
            text = await fetch_spec(publisher.egress(), given.spec_url)
        checked = await check_apart(text, publisher.checks)
        operations = [" ".join(key) for key in spec_operations(checked.spec)]
        return SpecReport(problems=problems_out(checked.problems), operations=operations)

    @api.get("/{listing_id}", SEE)
    async def listing(listing_id: Id) -> ListingOut:
        return listing_out(await asyncio.to_thread(read_detail, publisher, listing_id))

    @api.get("/{listing_id}/streams", SEE)
    async def streams(listing_id: Id, page: PageNumber = 1) -> Listed[StreamOut]:
        """Those that are open now, the longest open first."""
        await asyncio.to_thread(read_detail, publisher, listing_id)
        asked = (publisher.engine, Side.SERVED, int(time.time()))
        found = await asyncio.to_thread(read_live, *asked, listing_id=listing_id)
        return listed([StreamOut.model_validate(each) for each in found.streams], page)

    @api.get("/{listing_id}/openapi", SEE, response_model=dict[str, Any])
    async def specification(listing_id: Id) -> Response:
        """The listing's OpenAPI document; an empty object when it has none."""
        detail = await asyncio.to_thread(read_detail, publisher, listing_id)
        return Response(detail.spec or "{}", media_type="application/json")


def _add_changing(api: Endpoints, publisher: Publisher) -> None:
    @api.post("", MANAGE, status_code=201)
    async def add(given: ListingIn, identity: Caller) -> ListingOut:
        """Sell an API at once. To validate and record samples first, make a draft."""
        draft = Draft(
            name=given.name,
            slug=slug_of(given.name),
            base_url=given.base_url,
            price=Usdc(given.price_atoms),
            unit=given.price_unit,
            routes=routes_of(given.routes),
            description=given.description,
            tags=tuple(given.tags),
            credential=credential_of(given.credential) or DraftCredential(),
            spec=await _checked(publisher, given.spec),
            health_path=given.health_path,
        )
        listing_id = await asyncio.to_thread(
            sell, publisher, draft, given.mode, Actor.of(identity), int(time.time())
        )
        return listing_out(await asyncio.to_thread(read_detail, publisher, listing_id))

    @api.patch("/{listing_id}", MANAGE)
    async def edit(listing_id: Id, given: ListingChange, identity: Caller) -> ListingOut:
        wanted = Change(
            name=given.name,
            base_url=given.base_url,
            description=given.description,
            tags=None if given.tags is None else tuple(given.tags),
            health_path=given.health_path,
            price=None if given.price_atoms is None else Usdc(given.price_atoms),
            unit=given.price_unit,
            routes=None if given.routes is None else routes_of(given.routes),
            spec=None if given.spec is None else await _checked(publisher, given.spec),
            credential=credential_of(given.credential),
        )
        who, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(change, publisher, listing_id, wanted, who, now)
        return listing_out(await asyncio.to_thread(read_detail, publisher, listing_id))

    @api.delete("/{listing_id}", MANAGE)
    async def delete(listing_id: Id, identity: Caller) -> None:
        """Stop selling it. What was earned stays in the books and is claimed as before."""
        await asyncio.to_thread(read_detail, publisher, listing_id)
        who, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(remove, publisher, listing_id, who, now)


def _add_switches(api: Endpoints, publisher: Publisher) -> None:
    async def switched(
        listing_id: Id, identity: Caller, work: Callable[..., int], value: object
    ) -> ListingOut:
        await asyncio.to_thread(read_detail, publisher, listing_id)
        who, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(work, publisher, listing_id, value, who, now)
        return listing_out(await asyncio.to_thread(read_detail, publisher, listing_id))

    @api.put("/{listing_id}/pause", MANAGE)
    async def set_pause(listing_id: Id, given: PauseIn, identity: Caller) -> ListingOut:
        """Pause or resume; demo requests are answered throughout."""
        return await switched(listing_id, identity, pause, given.paused)

    @api.put("/{listing_id}/mode", MANAGE)
    async def set_mode(listing_id: Id, given: ModeIn, identity: Caller) -> ListingOut:
        """`live`: calls are paid. `demo`: every call gets a recorded answer, free."""
        return await switched(listing_id, identity, switch_mode, given.mode)

    @api.post("/{listing_id}/health", MANAGE)
    async def check_health(listing_id: Id) -> HealthOut:
        """Ask the upstream now."""
        return health_out(await look_at(publisher, listing_id, int(time.time())))


def _add_samples(api: Endpoints, publisher: Publisher) -> None:
    @api.post("/{listing_id}/samples", MANAGE)
    async def record(
        listing_id: Id,
        given: Annotated[list[SampleIn], Field(min_length=1, max_length=3)],
        identity: Caller,
    ) -> list[RecordingOut]:
        """Record answers of the upstream for demo mode, at most three at a time; for a
        listing or a draft."""
        requests = [request_of(each) for each in given]
        done = await record_samples(
            publisher, listing_id, requests, Actor.of(identity), int(time.time())
        )
        return [recording_out(each) for each in done]

    @api.get("/{listing_id}/samples/{sample_id}/body", SEE, response_class=Octets)
    async def body(listing_id: Id, sample_id: Id) -> Response:
        """The recorded body, always as a download of bytes."""
        sample = await asyncio.to_thread(read_sample, publisher, sample_id)
        return Octets(sample.body)

    @api.post("/{listing_id}/samples/{sample_id}/record", MANAGE)
    async def again(listing_id: Id, sample_id: Id, identity: Caller) -> RecordingOut:
        """The same request once more; the old answer stays when it fails."""
        done = await record_again(publisher, sample_id, Actor.of(identity), int(time.time()))
        return recording_out(done)

    @api.delete("/{listing_id}/samples/{sample_id}", MANAGE)
    async def forget(listing_id: Id, sample_id: Id, identity: Caller) -> None:
        who, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(remove_sample, publisher, sample_id, who, now)


async def _checked(publisher: Publisher, text: str) -> str:
    """Raises ListingInvalid with the first problems."""
    if not text:
        return ""
    checked = await check_apart(text, publisher.checks)
    if checked.problems:
        shown = " ".join(f"({each})" for each in checked.problems[:5])
        raise ListingInvalid("spec", f"The specification has problems: {shown}")
    return checked.spec
