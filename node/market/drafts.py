"""Registering an API, first step: a draft that is checked until nothing is missing.

A draft lives in the database, so that it survives a reload, a sign-out and a restart.
Publishing it makes a listing of the same id, and its samples go along.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlmodel import col

from catalog.drafts import Draft, DraftCredential, DraftRoute, price_text, slug_of
from catalog.editing import add_listing, credential_values, new_listing_id
from catalog.errors import DraftIncomplete, ListingInvalid, ListingUnknown, UpstreamFailed
from catalog.models import (
    Listing,
    ListingDraft,
    ListingMode,
    ListingOrigin,
    PriceUnit,
    Sample,
)
from catalog.operations import spec_operations
from catalog.samples import SampleRequest
from catalog.specs import CheckedSpec, Problem
from finance.money import Usdc
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.market.publisher import Publisher
from node.market.samples import SampleView, list_samples
from node.market.specs import check_apart
from node.market.upstream import Upstream, ask

SAMPLES_WANTED = 2  # fewer only for an API with a single operation
MOST_DRAFTS = 100


@dataclass(frozen=True, slots=True)
class Details:
    """What somebody typed in the first step. `credential` None: the stored one stays."""

    name: str
    base_url: str
    spec_text: str
    description: str = ""
    tags: tuple[str, ...] = ()
    health_path: str = ""
    credential: DraftCredential | None = None


@dataclass(frozen=True, slots=True)
class DraftView:
    """A draft as it stands. `missing` says what to mend before it can be published."""

    id: str
    name: str
    slug: str
    base_url: str
    description: str
    tags: tuple[str, ...]
    health_path: str
    credential_kind: str
    credential_name: str
    spec_text: str
    spec: str
    problems: tuple[Problem, ...]
    upstream_status: int
    upstream_note: str
    samples: tuple[SampleView, ...]
    operations: int
    started_by: str
    updated_at: int
    missing: tuple[str, ...] = field(default=())

    @property
    def upstream_ok(self) -> bool:
        return self.upstream_status > 0 and not self.upstream_note


@dataclass(frozen=True, slots=True)
class Terms:
    """The second step: what a call or a minute costs, and whether it is sold at once."""

    price: Usdc
    routes: tuple[DraftRoute, ...] = ()
    mode: ListingMode = ListingMode.LIVE
    unit: PriceUnit = PriceUnit.CALL


async def save_draft(
    publisher: Publisher, draft_id: str | None, details: Details, actor: Actor, now: int
) -> str:
    """Store and check a draft, a new one without an id; its id.

    What is wrong with the specification or the upstream is kept with it; what is wrong
    with another field raises ListingInvalid.
    """
    _as_listing(details)
    draft_id = await asyncio.to_thread(_store, publisher, draft_id, details, actor, now)
    await check_draft(publisher, draft_id, now)
    return draft_id


async def check_draft(publisher: Publisher, draft_id: str, now: int) -> DraftView:
    """Look at specification and upstream again. Raises ListingUnknown."""
    row = await asyncio.to_thread(_read_row, publisher, draft_id)
    upstream = publisher.upstream(row)
    checked, reached = await asyncio.gather(
        check_apart(row.spec_text, publisher.checks), _reach(publisher, upstream, row.health_path)
    )
    await asyncio.to_thread(_store_result, publisher, draft_id, checked, reached, now)
    return await asyncio.to_thread(read_draft, publisher, draft_id)


def read_draft(publisher: Publisher, draft_id: str) -> DraftView:
    """One draft (blocking). Raises ListingUnknown."""
    with publisher.engine.connect() as connection:
        return _view(connection, _row(connection, draft_id))


def list_drafts(publisher: Publisher) -> tuple[DraftView, ...]:
    """Registrations under way, the last touched first (blocking)."""
    newest = select(ListingDraft).order_by(col(ListingDraft.updated_at).desc()).limit(MOST_DRAFTS)
    with publisher.engine.connect() as connection:
        rows = [ListingDraft(**row) for row in connection.execute(newest).mappings()]
        return tuple(_view(connection, row) for row in rows)


def discard_draft(publisher: Publisher, draft_id: str, actor: Actor, now: int) -> None:
    """Throw a draft and its samples away (blocking). Raises ListingUnknown."""
    with writer(publisher.engine).begin() as connection:
        row = _row(connection, draft_id)
        connection.execute(delete(Sample).where(col(Sample.listing_id) == draft_id))
        _delete(connection, draft_id)
        record(connection, actor, "draft.discard", draft_id, now, {"name": row.name})


def publish_draft(publisher: Publisher, draft_id: str, terms: Terms, actor: Actor, now: int) -> str:
    """Make a listing of it (blocking); its id, which is the draft's.

    Raises DraftIncomplete, ListingExists, ListingInvalid, ListingUnknown.
    """
    with writer(publisher.engine).begin() as connection:
        row = _row(connection, draft_id)
        view = _view(connection, row)
        if view.missing:
            raise DraftIncomplete(" ".join(view.missing))
        secret = publisher.unseal(row.credential_secret) if row.credential_secret else b""
        credential = DraftCredential(row.credential_kind, row.credential_name, secret.decode())
        draft = replace(
            _as_listing(_details(row, credential)),
            price=terms.price,
            unit=terms.unit,
            routes=terms.routes,
            spec=row.spec,
        )
        add_listing(connection, draft, publisher.seal, now, draft_id)
        chosen = update(Listing).where(col(Listing.id) == draft_id).values(mode=terms.mode)
        connection.execute(chosen)
        _delete(connection, draft_id)
        after = {**summary(draft), "mode": terms.mode.value}
        record(connection, actor, "listing.publish", draft_id, now, None, after)
    return draft_id


def summary(draft: Draft) -> dict[str, Any]:
    """A listing's fields for the audit trail: the credential only by its name."""
    return {
        "name": draft.name,
        "base_url": draft.base_url,
        "description": draft.description,
        "tags": list(draft.tags),
        "price": price_text(draft.price, draft.unit),
        "routes": {
            f"{each.method} {each.path}": price_text(each.price, each.unit) for each in draft.routes
        },
        "health_path": draft.health_path,
        "spec_bytes": len(draft.spec),
    }


def same_server(one: str, other: str) -> bool:
    """Whether a credential for one base URL may go to the other."""
    first, second = urlsplit(one), urlsplit(other)
    return (first.scheme, first.netloc.lower()) == (second.scheme, second.netloc.lower())


def keep_credential_here(stored_kind: str, stored_url: str, new_url: str) -> None:
    """A stored credential, which nobody is shown, is not sent to a server of somebody's
    choice. Raises ListingInvalid."""
    if stored_kind != "none" and not same_server(stored_url, new_url):
        raise ListingInvalid(
            "credential",
            "The address now leads to another server: give the credential again, or remove it.",
        )


def _as_listing(details: Details) -> Draft:
    """Raises ListingInvalid for a field that cannot be accepted."""
    return Draft(
        name=details.name,
        slug=slug_of(details.name),
        base_url=details.base_url,
        description=details.description,
        tags=details.tags,
        health_path=details.health_path,
        credential=details.credential or DraftCredential(),
    )


def _details(row: ListingDraft, credential: DraftCredential) -> Details:
    tags = tuple(json.loads(row.tags))
    return Details(
        row.name,
        row.base_url,
        row.spec_text,
        row.description,
        tags,
        row.health_path,
        credential,
    )


def _store(
    publisher: Publisher, draft_id: str | None, details: Details, actor: Actor, now: int
) -> str:
    values: dict[str, Any] = {
        "name": details.name,
        "base_url": details.base_url.rstrip("/"),
        "description": details.description,
        "tags": json.dumps(details.tags),
        "health_path": details.health_path,
        "spec_text": details.spec_text.replace("\0", "\ufffd"),
        "updated_at": now,
    }
    given = details.credential
    with writer(publisher.engine).begin() as connection:
        _require_free(connection, slug_of(details.name))
        if draft_id is None:
            fresh = credential_values(given or DraftCredential(), publisher.seal)
            return _insert(connection, {**values, **fresh}, actor, now)
        row = _row(connection, draft_id)
        if given is None:
            keep_credential_here(row.credential_kind, row.base_url, details.base_url)
        else:
            values |= credential_values(given, publisher.seal)
        connection.execute(
            update(ListingDraft).where(col(ListingDraft.id) == draft_id).values(**values)
        )
        record(connection, actor, "draft.change", draft_id, now, None, _shown(values))
    return draft_id


def _insert(connection: Connection, values: Mapping[str, Any], actor: Actor, now: int) -> str:
    count = connection.scalar(select(func.count()).select_from(ListingDraft)) or 0
    if count >= MOST_DRAFTS:
        raise DraftIncomplete(f"There are {MOST_DRAFTS} drafts; publish or discard some first.")
    draft_id = new_listing_id()
    blank = {"spec": "", "problems": "[]", "upstream_status": 0, "upstream_note": ""}
    row = {**values, **blank, "id": draft_id, "started_by": actor.id, "created_at": now}
    connection.execute(insert(ListingDraft), row)
    record(connection, actor, "draft.start", draft_id, now, None, _shown(values))
    return draft_id


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    shown = ("name", "base_url", "description", "health_path", "credential_kind")
    return {name: values[name] for name in shown if name in values}


def _require_free(connection: Connection, slug: str) -> None:
    taken = select(col(Listing.name)).where(
        (col(Listing.slug) == slug) & (col(Listing.origin) == ListingOrigin.OWN)
    )
    name = connection.scalar(taken)
    if name is not None:
        raise ListingInvalid("name", f"You sell {name!r} under the same address part {slug!r}.")


async def _reach(publisher: Publisher, upstream: Upstream, health_path: str) -> tuple[int, str]:
    """Status, and what is wrong with it, if anything."""
    request = SampleRequest("GET", health_path, health_path)
    try:
        fetched = await ask(publisher.egress(), upstream, request, whole=False)
    except UpstreamFailed as error:
        return 0, str(error)
    return fetched.status, health_fault(fetched.status, health_path)


def health_fault(status: int, health_path: str) -> str:
    """Why an answer means that the API is not well; empty when it is.

    A path that was chosen must succeed. At the base address many answer 404 and are well.
    """
    if status in (401, 403):
        return f"It answers {status}: the credential is missing or wrong."
    if health_path and status >= 300:
        return f"{health_path} answers {status} instead of 200."
    if status >= 500:
        return f"It answers {status}: it is not well."
    return ""


def _store_result(
    publisher: Publisher, draft_id: str, checked: CheckedSpec, reached: tuple[int, str], now: int
) -> None:
    status, note = reached
    values = {
        "spec": checked.spec,
        "problems": json.dumps([asdict(problem) for problem in checked.problems]),
        "upstream_status": status,
        "upstream_note": note,
        "updated_at": now,
    }
    with writer(publisher.engine).begin() as connection:
        connection.execute(
            update(ListingDraft).where(col(ListingDraft.id) == draft_id).values(**values)
        )


def _view(connection: Connection, row: ListingDraft) -> DraftView:
    problems = msgspec.json.decode(row.problems, type=tuple[Problem, ...])
    operations = len(spec_operations(row.spec))
    view = DraftView(
        id=row.id,
        name=row.name,
        slug=slug_of(row.name),
        base_url=row.base_url,
        description=row.description,
        tags=tuple(json.loads(row.tags)),
        health_path=row.health_path,
        credential_kind=row.credential_kind,
        credential_name=row.credential_name,
        spec_text=row.spec_text,
        spec=row.spec,
        problems=problems,
        upstream_status=row.upstream_status,
        upstream_note=row.upstream_note,
        samples=list_samples(connection, row.id),
        operations=operations,
        started_by=row.started_by,
        updated_at=row.updated_at,
    )
    return replace(view, missing=tuple(_missing(view)))


def _missing(view: DraftView) -> list[str]:
    found = []
    if view.problems:
        found.append("Mend the specification.")
    elif not view.spec:
        found.append("Check the specification.")
    if not view.upstream_ok:
        found.append("Make the upstream reachable.")
    wanted = min(SAMPLES_WANTED, view.operations) if view.spec else SAMPLES_WANTED
    if len(view.samples) < wanted:
        left = wanted - len(view.samples)
        found.append(f"Record {left} more sample{'s' if left > 1 else ''}.")
    return found


def _read_row(publisher: Publisher, draft_id: str) -> ListingDraft:
    with publisher.engine.connect() as connection:
        return _row(connection, draft_id)


def _row(connection: Connection, draft_id: str) -> ListingDraft:
    statement = select(ListingDraft).where(col(ListingDraft.id) == draft_id)
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise ListingUnknown("There is no such draft; it was published or discarded.")
    return ListingDraft(**row)


def _delete(connection: Connection, draft_id: str) -> None:
    connection.execute(delete(ListingDraft).where(col(ListingDraft.id) == draft_id))
