"""Listings, drafts and samples as the JSON API takes and gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from catalog.drafts import MAX_PRICE, DraftCredential, DraftRoute, checked_route
from catalog.models import ListingMode, PriceUnit
from catalog.samples import SampleRequest
from catalog.specs import Problem
from finance.money import Usdc
from node.api.paging import Sent
from node.market.health import HealthView
from node.market.own_listings import ListingDetail, OwnListing, Status
from node.market.samples import Recording, SampleView

Name = Annotated[str, Field(min_length=3, max_length=80)]
Address = Annotated[str, Field(min_length=1, max_length=2000)]
Tag = Annotated[str, Field(min_length=1, max_length=40)]
Tags = Annotated[list[Tag], Field(max_length=20)]
Atoms = Annotated[int, Field(ge=0, le=int(MAX_PRICE), description="USDC atoms per unit")]
Unit = Annotated[
    PriceUnit, Field(description="what the price buys: a call, or a minute of a stream")
]
SpecText = Annotated[
    str, Field(max_length=2_000_000, description="OpenAPI 3.0 or 3.1, JSON or YAML")
]


class RoutePriceIO(Sent):
    """A price of its own for one route; `method` may be `*`, `path` may end in `/*`."""

    method: Annotated[str, Field(min_length=1, max_length=7)]
    path: Annotated[str, Field(min_length=1, max_length=500)]
    price_atoms: Atoms
    price_unit: Unit = PriceUnit.CALL


class CredentialIn(Sent):
    """What the upstream wants from this node; never shown again. `none` takes it away."""

    kind: Literal["none", "header", "query"]
    name: Annotated[str, Field(max_length=100)] = ""
    value: Annotated[str, Field(max_length=4000)] = ""


class ListingIn(Sent):
    """An API to sell at once, without draft and samples."""

    name: Name
    base_url: Address
    price_atoms: Atoms
    price_unit: Unit = PriceUnit.CALL
    routes: Annotated[list[RoutePriceIO], Field(max_length=500)] = Field(default_factory=list)
    description: Annotated[str, Field(max_length=500)] = ""
    tags: Tags = Field(default_factory=list)
    health_path: Annotated[str, Field(max_length=500)] = ""
    credential: CredentialIn | None = None
    spec: SpecText = ""
    mode: ListingMode = ListingMode.LIVE


class ListingChange(Sent):
    """Fields to change; what is left out stays. A new price never alters an admitted call."""

    name: Name | None = None
    base_url: Address | None = None
    price_atoms: Atoms | None = None
    price_unit: Unit | None = None
    routes: Annotated[list[RoutePriceIO], Field(max_length=500)] | None = None
    description: Annotated[str, Field(max_length=500)] | None = None
    tags: Tags | None = None
    health_path: Annotated[str, Field(max_length=500)] | None = None
    credential: CredentialIn | None = None
    spec: SpecText | None = None


class PauseIn(Sent):
    paused: bool


class ModeIn(Sent):
    mode: ListingMode


class SpecIn(Sent):
    """A specification to check: its text, or an address it is fetched from."""

    spec: SpecText = ""
    spec_url: Annotated[str, Field(max_length=2000)] = ""


class SampleIn(Sent):
    """A request below the listing that is sent to its upstream once."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    target: Annotated[str, Field(min_length=1, max_length=2000, description="path and query")]
    body: Annotated[str, Field(max_length=65536)] = ""
    content_type: Annotated[str, Field(max_length=200)] = "application/json"


class HealthOut(BaseModel):
    """How the upstream was found last. `failures` in a row; three are told."""

    up: bool
    status: int
    latency_us: int
    failures: int
    note: str
    checked_at: int
    since: int


class ListingLine(BaseModel):
    """One listing in a list. Figures since the first call."""

    id: str
    name: str
    slug: str
    tags: list[str]
    status: Status
    mode: ListingMode
    paused: bool
    price_from_atoms: int
    price_to_atoms: int
    price_unit: Literal["call", "minute", "mixed"]
    samples: int
    calls: int
    errors: int
    revenue_atoms: int
    health: HealthOut | None
    updated_at: int


class SampleOut(BaseModel):
    """A recorded answer; its body is at `…/samples/{id}/body`."""

    id: str
    method: str
    template: str
    target: str
    status: int
    content_type: str
    size: int
    latency_us: int
    recorded_at: int


class OperationOut(BaseModel):
    """One operation as it is sold."""

    method: str
    path: str
    price_atoms: int
    price_unit: PriceUnit
    own_price: bool
    summary: str


class ListingOut(ListingLine):
    """One listing whole; of its credential only whether there is one."""

    base_url: str
    description: str
    health_path: str
    price_atoms: int
    own_price_unit: PriceUnit
    credential_kind: str
    credential_name: str
    operations: list[OperationOut]
    recorded: list[SampleOut]
    created_at: int


class ProblemOut(BaseModel):
    """One fault of a specification: JSON pointer and, where known, line."""

    message: str
    pointer: str
    line: int | None


class SpecReport(BaseModel):
    """`operations` are empty while there are problems."""

    problems: list[ProblemOut]
    operations: list[str]


class RecordingOut(BaseModel):
    """What became of a request; `problem` says what to mend, empty when it was recorded."""

    method: str
    target: str
    status: int
    problem: str


def routes_of(given: list[RoutePriceIO]) -> tuple[DraftRoute, ...]:
    return tuple(
        checked_route(each.method, each.path, Usdc(each.price_atoms), each.price_unit)
        for each in given
    )


def credential_of(given: CredentialIn | None) -> DraftCredential | None:
    return None if given is None else DraftCredential(given.kind, given.name, given.value)


def request_of(given: SampleIn) -> SampleRequest:
    path = given.target.partition("?")[0]
    kind = given.content_type if given.body else ""
    return SampleRequest(given.method, path, given.target, (), given.body, kind)


def line_values(row: OwnListing) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "slug": row.slug,
        "tags": list(row.tags),
        "status": row.status,
        "mode": row.mode,
        "paused": row.paused,
        "price_from_atoms": row.price_from_atoms,
        "price_to_atoms": row.price_to_atoms,
        "price_unit": row.price_unit,
        "samples": row.samples,
        "calls": row.sums.calls,
        "errors": row.sums.errors,
        "revenue_atoms": row.sums.amount_atoms,
        "health": None if row.health is None else health_out(row.health),
        "updated_at": row.updated_at,
    }


def health_out(view: HealthView) -> HealthOut:
    return HealthOut(**{name: getattr(view, name) for name in HealthOut.model_fields})


def sample_out(view: SampleView) -> SampleOut:
    return SampleOut(**{name: getattr(view, name) for name in SampleOut.model_fields})


def listing_out(detail: ListingDetail) -> ListingOut:
    operations = [
        OperationOut(**{name: getattr(each, name) for name in OperationOut.model_fields})
        for each in detail.operations
    ]
    return ListingOut(
        **line_values(detail.line),
        base_url=detail.base_url,
        description=detail.description,
        health_path=detail.health_path,
        price_atoms=detail.price_atoms,
        own_price_unit=detail.price_unit,
        credential_kind=detail.credential_kind,
        credential_name=detail.credential_name,
        operations=operations,
        recorded=[sample_out(each) for each in detail.samples],
        created_at=detail.created_at,
    )


def problems_out(problems: Iterable[Problem]) -> list[ProblemOut]:
    return [
        ProblemOut(message=each.message, pointer=each.pointer, line=each.line) for each in problems
    ]


def recording_out(done: Recording) -> RecordingOut:
    return RecordingOut(
        method=done.method, target=done.target, status=done.status, problem=done.problem
    )
