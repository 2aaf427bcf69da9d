"""What the catalog's endpoints take and give. Prices in USDC atoms per unit."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import Query as Asked
from pydantic import BaseModel, ConfigDict, Field

from catalog.models import PriceUnit
from catalog.search import Found
from node.api.paging import Listed, Sent, ShortText
from node.market.catalog import Detail
from node.market.explore import Explained
from node.market.paste import Preview
from node.market.try_it import TryResult, Wanted

Mode = Literal["demo", "production"]
TagList = Annotated[
    list[Annotated[str, Field(max_length=60, pattern=r"^[^\x00]*$")]],
    Asked(max_length=8, description="only listings with all of these tags"),
]
LongText = Annotated[str, Field(max_length=65_536, pattern=r"^[^\x00]*$")]


class CatalogEntryOut(BaseModel):
    """A listing in a result. Prices in USDC atoms per unit; `added_at` in Unix seconds.

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
    price_unit: Literal["call", "minute", "mixed"]
    live: bool
    paused: bool
    mode: Mode
    starred: bool
    schemes: list[str]
    operations: int
    peer: str
    added_at: int


class TagOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    tag: str
    listings: int


class SearchOut(Listed[CatalogEntryOut]):
    """A page of thirty; `tags` are the most frequent of all that match."""

    tags: list[TagOut]


class ValueOut(BaseModel):
    """A value an operation takes. `place` is path, query, header or body."""

    model_config = ConfigDict(from_attributes=True)

    place: str
    name: str
    required: bool
    example: str
    description: str


class ExplainedOut(BaseModel):
    """An operation; `key` names it in a call. `open`: any path and body may be sent."""

    key: str
    method: str
    path: str
    price_atoms: int
    price_unit: PriceUnit
    summary: str
    description: str
    values: list[ValueOut]
    open: bool

    @classmethod
    def of(cls, each: Explained) -> ExplainedOut:
        return cls(
            key=each.key,
            method=each.method,
            path=each.path,
            price_atoms=each.price_atoms,
            price_unit=each.unit,
            summary=each.summary,
            description=each.description,
            values=[ValueOut.model_validate(field) for field in each.fields],
            open=each.open_,
        )


class CatalogSampleOut(BaseModel):
    """A sample; `declared`: the seller's own example. `body` is Base64."""

    id: str
    method: str
    target: str
    status: int
    content_type: str
    declared: bool
    recorded_at: int
    body: str

    @classmethod
    def all_of(cls, detail: Detail) -> list[CatalogSampleOut]:
        return [
            cls(
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


class LimitLeftOut(BaseModel):
    """What a spending limit still allows a call by the caller, in USDC atoms."""

    model_config = ConfigDict(from_attributes=True)

    scope: str
    limit_atoms: int
    used_atoms: int
    left_atoms: int


class DetailOut(CatalogEntryOut):
    """Everything known of a listing. `seen_at` is null for what nobody looked at."""

    base_url: str
    network: str
    pay_to: str
    seen_at: int | None
    has_spec: bool
    operation_list: list[ExplainedOut]
    samples: list[CatalogSampleOut]
    limits: list[LimitLeftOut]


class AddressIn(Sent):
    url: Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]


class AddIn(AddressIn):
    """Empty texts are as the seller says; `tags` with commas between them."""

    name: ShortText = ""
    description: ShortText = ""
    tags: ShortText = ""
    mode: Mode = "demo"


class RouteOut(BaseModel):
    """`method` * is any; `path` is below the base address."""

    model_config = ConfigDict(from_attributes=True)

    method: str
    path: str
    price_atoms: int
    price_unit: PriceUnit


class PreviewOut(BaseModel):
    """What an address asks for. `listing_id` is set when it is in the catalog already;
    `whole_service`: its node lists the service it belongs to, so all of it is added."""

    url: str
    price_atoms: int
    price_unit: PriceUnit
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

    @classmethod
    def of(cls, preview: Preview) -> PreviewOut:
        found = preview.found
        return cls(
            url=preview.url,
            price_atoms=preview.price_atoms,
            price_unit=preview.unit,
            network=preview.network,
            schemes=list(found.schemes),
            pay_to=found.pay_to,
            base_url=found.base_url,
            name=found.name,
            description=found.description,
            tags=list(found.tags),
            whole_service=preview.whole,
            routes=[RouteOut.model_validate(each) for each in found.routes],
            listing_id=preview.listing_id or None,
        )


class BuyingModeIn(Sent):
    mode: Mode


class ValueIn(Sent):
    place: Literal["path", "query", "header", "body"]
    name: ShortText
    value: LongText


class CallIn(Sent):
    """A call: `operation` is a key of the listing; `method`, `path` and `body` are for the
    open one ("any"). `once`: sent twice with the same text, a call is paid once."""

    operation: ShortText
    values: Annotated[list[ValueIn], Field(max_length=200)] = Field(default_factory=list)
    method: ShortText = "GET"
    path: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")] = "/"
    body: LongText = ""
    once: Annotated[str, Field(max_length=128, pattern=r"^([\x21-\x7e]{16,128})?$")] = ""

    def wanted(self) -> Wanted:
        """The same in the words of the explorer; of a value sent twice the last counts."""
        values: dict[tuple[str, str], str] = {
            (each.place, each.name): each.value for each in self.values
        }
        return Wanted(self.operation, values, self.method, self.path, self.body, self.once)


class HeaderOut(BaseModel):
    name: str
    value: str


class TriedCallOut(BaseModel):
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

    @classmethod
    def of(cls, result: TryResult) -> TriedCallOut:
        return cls(
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


def listing_fields(found: Found) -> dict[str, Any]:
    """The fields of a CatalogEntryOut."""
    return {
        "id": found.id,
        "own": found.origin == "own",
        "slug": found.slug,
        "name": found.name,
        "description": found.description,
        "tags": list(found.tags),
        "price_from_atoms": found.price_from_atoms,
        "price_to_atoms": found.price_to_atoms,
        "price_unit": found.price_unit,
        "live": found.live,
        "paused": found.paused,
        "mode": "demo" if found.demo else "production",
        "starred": found.starred,
        "schemes": list(found.schemes),
        "operations": found.operations,
        "peer": found.peer,
        "added_at": found.added_at,
    }
