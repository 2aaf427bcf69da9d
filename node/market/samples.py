"""Recording the answers of demo mode: ask the upstream, keep what may be kept."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select
from sqlmodel import col

from catalog.editing import hold_listing, touch_listing
from catalog.errors import ListingUnknown, SampleInvalid, UpstreamFailed
from catalog.listings import REST, PathAmbiguous, compile_listing, split_path
from catalog.models import Listing, ListingDraft, ListingOrigin, Sample
from catalog.samples import MAX_SAMPLES, SampleRequest, check_request
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.market.publisher import Publisher
from node.market.upstream import Fetched, ask, require_success

MOST_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class SampleView:
    """One recorded answer. `recorded_at` in Unix seconds, sizes in bytes."""

    id: str
    listing_id: str
    method: str
    template: str
    target: str
    status: int
    content_type: str
    size: int
    latency_us: int
    recorded_at: int
    request_body: str


@dataclass(frozen=True, slots=True)
class WholeSample:
    """A recorded answer with its body and headers."""

    view: SampleView
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """What became of one request; `problem` says what to mend, empty when it was recorded."""

    method: str
    target: str
    status: int
    problem: str


async def record_samples(
    publisher: Publisher, owner_id: str, requests: Sequence[SampleRequest], actor: Actor, now: int
) -> tuple[Recording, ...]:
    """Ask for each and keep the answers that succeeded, for a listing or a draft.

    Raises SampleInvalid, ListingUnknown.
    """
    if not 1 <= len(requests) <= MOST_AT_ONCE:
        raise SampleInvalid(f"Choose one to {MOST_AT_ONCE} operations at a time.")
    row = await asyncio.to_thread(_read_owner, publisher, owner_id)
    upstream, done = publisher.upstream(row), []
    for request in [_checked(request, row.spec) for request in requests]:
        try:
            fetched = await ask(publisher.egress(), upstream, request, whole=True)
            require_success(fetched, request)
        except UpstreamFailed as error:
            done.append(Recording(request.method, request.target, 0, str(error)))
        else:
            await asyncio.to_thread(_keep, publisher, owner_id, request, fetched, actor, now)
            done.append(Recording(request.method, request.target, fetched.status, ""))
    return tuple(done)


async def record_again(publisher: Publisher, sample_id: str, actor: Actor, now: int) -> Recording:
    """The same request once more; the old answer stays when it fails."""
    owner_id, request = await asyncio.to_thread(_request_of, publisher, sample_id)
    [recording] = await record_samples(publisher, owner_id, [request], actor, now)
    return recording


def remove_sample(publisher: Publisher, sample_id: str, actor: Actor, now: int) -> None:
    """Forget one answer (blocking). Raises ListingUnknown."""
    with writer(publisher.engine).begin() as connection:
        row = _row(connection, sample_id)
        _owner(connection, row["listing_id"])
        connection.execute(delete(Sample).where(col(Sample.id) == sample_id))
        touch_listing(connection, row["listing_id"], now)
        gone = {"method": row["method"], "target": row["target"]}
        record(connection, actor, "sample.remove", row["listing_id"], now, gone)


def list_samples(connection: Connection, owner_id: str) -> tuple[SampleView, ...]:
    """The recorded answers of a listing or draft, by operation."""
    statement = (
        _VIEW.where(col(Sample.listing_id) == owner_id)
        .order_by(col(Sample.template), col(Sample.method), col(Sample.target))
        .limit(MAX_SAMPLES)
    )
    return tuple(_view(row) for row in connection.execute(statement).mappings())


def read_sample(publisher: Publisher, sample_id: str) -> WholeSample:
    """One recorded answer as it is given (blocking). Raises ListingUnknown."""
    with publisher.engine.connect() as connection:
        row = _row(connection, sample_id)
    view = _view({**row, "size": len(row["body"])})
    return WholeSample(view, tuple((n, v) for n, v in json.loads(row["headers"])), row["body"])


def _checked(request: SampleRequest, spec: str) -> SampleRequest:
    """With the operation of the specification that it belongs to. Raises SampleInvalid."""
    check_request(request)
    blank = Listing(id="", slug="", name="", base_url="", spec=spec)
    try:
        segments = split_path(request.target.partition("?")[0].encode())
    except PathAmbiguous as error:
        raise SampleInvalid(f"{request.method} {request.template}: {error}") from None
    route = compile_listing(blank).match(request.method, segments)
    if route is None or route.template == REST:
        return replace(request, template=request.target.partition("?")[0])
    return replace(request, template=route.template)


def _read_owner(publisher: Publisher, owner_id: str) -> Listing | ListingDraft:
    with publisher.engine.connect() as connection:
        return _owner(connection, owner_id)


def _owner(connection: Connection, owner_id: str) -> Listing | ListingDraft:
    """A draft, or what is sold here: samples of bought listings are the catalog's."""
    own = select(Listing).where(col(Listing.origin) == ListingOrigin.OWN)
    for table, statement in ((Listing, own), (ListingDraft, select(ListingDraft))):
        row = connection.execute(statement.where(col(table.id) == owner_id)).mappings().first()
        if row is not None:
            return table(**row)
    raise ListingUnknown("There is no such listing any more.")


def _request_of(publisher: Publisher, sample_id: str) -> tuple[str, SampleRequest]:
    with publisher.engine.connect() as connection:
        row = _row(connection, sample_id)
    headers = tuple((name, value) for name, value in json.loads(row["request_headers"]))
    request = SampleRequest(
        row["method"],
        row["template"],
        row["target"],
        headers,
        row["request_body"],
        row["request_type"],
    )
    return row["listing_id"], request


def _keep(
    publisher: Publisher,
    owner_id: str,
    request: SampleRequest,
    fetched: Fetched,
    actor: Actor,
    now: int,
) -> None:
    """In the place of an older answer to the same request. Raises SampleInvalid, ListingUnknown."""
    same = (
        (col(Sample.listing_id) == owner_id)
        & (col(Sample.method) == request.method)
        & (col(Sample.target) == request.target)
    )
    with writer(publisher.engine).begin() as connection:
        if not hold_listing(connection, owner_id):
            raise ListingUnknown("There is no such listing any more.")
        connection.execute(delete(Sample).where(same))
        count = select(func.count()).where(col(Sample.listing_id) == owner_id)
        if (connection.scalar(count) or 0) >= MAX_SAMPLES:
            raise SampleInvalid(f"A listing has at most {MAX_SAMPLES} samples; delete one first.")
        row = _values(owner_id, request, fetched, now)
        connection.execute(insert(Sample), row)
        touch_listing(connection, owner_id, now)
        kept = {"method": request.method, "target": request.target, "status": fetched.status}
        record(connection, actor, "sample.record", owner_id, now, None, kept)


def _values(owner_id: str, request: SampleRequest, fetched: Fetched, now: int) -> dict[str, Any]:
    return {
        "id": f"smp_{secrets.token_hex(6)}",
        "listing_id": owner_id,
        "method": request.method,
        "template": request.template,
        "target": request.target,
        "request_headers": json.dumps(request.headers),
        "request_type": request.content_type,
        "request_body": request.body,
        "status": fetched.status,
        "headers": json.dumps(fetched.headers),
        "body": fetched.body,
        "latency_us": fetched.latency_us,
        "recorded_at": now,
    }


_COLUMNS = ("id", "listing_id", "method", "template", "target", "status")
_VIEW = select(
    *(col(getattr(Sample, name)) for name in _COLUMNS),
    col(Sample.headers),
    func.length(col(Sample.body)).label("size"),
    col(Sample.latency_us),
    col(Sample.recorded_at),
    col(Sample.request_body),
)


def _view(row: Any) -> SampleView:
    types = [value for name, value in json.loads(row["headers"]) if name == "content-type"]
    return SampleView(
        id=row["id"],
        listing_id=row["listing_id"],
        method=row["method"],
        template=row["template"],
        target=row["target"],
        status=row["status"],
        content_type=types[0] if types else "",
        size=row["size"],
        latency_us=row["latency_us"],
        recorded_at=row["recorded_at"],
        request_body=row["request_body"],
    )


def _row(connection: Connection, sample_id: str) -> RowMapping:
    statement = select(Sample).where(col(Sample.id) == sample_id)
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise ListingUnknown("There is no such sample any more.")
    return row
