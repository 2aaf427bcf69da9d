"""Registering an API in two steps: a draft that is checked, then published."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from pydantic import BaseModel, Field

from catalog.errors import ListingInvalid
from catalog.models import ListingMode, PriceUnit
from finance.money import Usdc
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.listing_shapes import (
    Address,
    Atoms,
    CredentialIn,
    Name,
    ProblemOut,
    RoutePriceIO,
    SampleOut,
    SpecText,
    Tags,
    Unit,
    credential_of,
    problems_out,
    routes_of,
    sample_out,
)
from node.api.paging import Id, Sent
from node.api.routing import Caller, Endpoints
from node.market.drafts import (
    Details,
    DraftView,
    Terms,
    check_draft,
    discard_draft,
    list_drafts,
    publish_draft,
    read_draft,
    save_draft,
)
from node.market.publisher import Publisher
from node.market.specs import fetch_spec

MANAGE = Permission.MANAGE_LISTINGS


class DraftIn(Sent):
    """The first step. `spec_url` is fetched when `spec` is empty; without `credential` the
    stored one stays."""

    name: Name
    base_url: Address
    description: Annotated[str, Field(max_length=500)] = ""
    tags: Tags = Field(default_factory=list)
    health_path: Annotated[str, Field(max_length=500)] = ""
    credential: CredentialIn | None = None
    spec: SpecText = ""
    spec_url: Annotated[str, Field(max_length=2000)] = ""


class DraftOut(BaseModel):
    """A draft as it stands; `missing` says what to mend before it can be published."""

    id: str
    name: str
    slug: str
    base_url: str
    description: str
    tags: list[str]
    health_path: str
    credential_kind: str
    credential_name: str
    problems: list[ProblemOut]
    upstream_status: int
    upstream_note: str
    operations: int
    recorded: list[SampleOut]
    missing: list[str]
    updated_at: int


class TermsIn(Sent):
    """The second step."""

    price_atoms: Atoms
    price_unit: Unit = PriceUnit.CALL
    routes: Annotated[list[RoutePriceIO], Field(max_length=500)] = Field(default_factory=list)
    mode: ListingMode = ListingMode.LIVE


class Published(BaseModel):
    listing_id: str


def endpoints(publisher: Publisher) -> Endpoints:
    """`/api/listings/drafts`; record their samples at `/api/listings/{id}/samples`."""
    api = Endpoints(prefix="/listings/drafts", tags=["listings"])
    _add_saving(api, publisher)
    _add_ends(api, publisher)
    return api


def _add_saving(api: Endpoints, publisher: Publisher) -> None:
    @api.get("", MANAGE)
    async def drafts() -> list[DraftOut]:
        """Registrations under way, the last touched first."""
        return [_out(view) for view in await asyncio.to_thread(list_drafts, publisher)]

    @api.post("", MANAGE, status_code=201)
    async def start(given: DraftIn, identity: Caller) -> DraftOut:
        """Store and check a draft: specification and upstream."""
        return await _save(publisher, None, given, identity)

    @api.get("/{draft_id}", MANAGE)
    async def draft(draft_id: Id) -> DraftOut:
        return _out(await asyncio.to_thread(read_draft, publisher, draft_id))

    @api.put("/{draft_id}", MANAGE)
    async def edit(draft_id: Id, given: DraftIn, identity: Caller) -> DraftOut:
        """Replace the first step's fields, and check again."""
        return await _save(publisher, draft_id, given, identity)


def _add_ends(api: Endpoints, publisher: Publisher) -> None:
    @api.post("/{draft_id}/check", MANAGE)
    async def check(draft_id: Id) -> DraftOut:
        """Look at specification and upstream again."""
        return _out(await check_draft(publisher, draft_id, int(time.time())))

    @api.post("/{draft_id}/publish", MANAGE, status_code=201)
    async def publish(draft_id: Id, given: TermsIn, identity: Caller) -> Published:
        """Sell it; 409 says what is missing."""
        price, routes = Usdc(given.price_atoms), routes_of(given.routes)
        terms = Terms(price, routes, given.mode, given.price_unit)
        who, now = Actor.of(identity), int(time.time())
        listing_id = await asyncio.to_thread(publish_draft, publisher, draft_id, terms, who, now)
        return Published(listing_id=listing_id)

    @api.delete("/{draft_id}", MANAGE)
    async def discard(draft_id: Id, identity: Caller) -> None:
        who, now = Actor.of(identity), int(time.time())
        await asyncio.to_thread(discard_draft, publisher, draft_id, who, now)


async def _save(
    publisher: Publisher, draft_id: str | None, given: DraftIn, identity: Caller
) -> DraftOut:
    text = given.spec
    if not text and given.spec_url:
        text = await fetch_spec(publisher.egress(), given.spec_url)
    if not text:
        raise ListingInvalid("spec", "Give a specification, as text or by its address.")
    details = Details(
        name=given.name,
        base_url=given.base_url,
        spec_text=text,
        description=given.description,
        tags=tuple(given.tags),
        health_path=given.health_path,
        credential=credential_of(given.credential),
    )
    who, now = Actor.of(identity), int(time.time())
    saved = await save_draft(publisher, draft_id, details, who, now)
    return _out(await asyncio.to_thread(read_draft, publisher, saved))


def _out(view: DraftView) -> DraftOut:
    problems = problems_out(view.problems)
    return DraftOut(
        id=view.id,
        name=view.name,
        slug=view.slug,
        base_url=view.base_url,
        description=view.description,
        tags=list(view.tags),
        health_path=view.health_path,
        credential_kind=view.credential_kind,
        credential_name=view.credential_name,
        problems=problems,
        upstream_status=view.upstream_status,
        upstream_note=view.upstream_note,
        operations=view.operations,
        recorded=[sample_out(each) for each in view.samples],
        missing=list(view.missing),
        updated_at=view.updated_at,
    )
