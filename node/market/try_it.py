"""Try it: one real call from the catalog, with what it costs before and after.

A bought listing is called through this node's own proxy, with its limits, books and
journal; a listing of this node's own is asked for a recorded answer at its gateway.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import quote

from sqlalchemy import Engine, delete, func, insert, select
from sqlmodel import col

from catalog.editing import hold_listing
from catalog.errors import ListingUnknown, SampleInvalid
from catalog.models import ListingOrigin, Sample
from catalog.samples import (
    JSON_TYPE,
    MAX_BODY_BYTES,
    MAX_SAMPLES,
    PLAIN_SIGNS,
    SampleRequest,
    check_request,
    kept_headers,
    make_request,
)
from finance.buying.limits import EVERY, Limits, utc_day
from finance.buying.models import SpendCounter, SpendLimit
from finance.errors import AmountInvalid
from finance.money import Usdc
from node.db.engine import writer
from node.market.catalog import compiled
from node.market.explore import METHODS, Explained, explain
from node.problems import read_problem

CONSOLE_KEY = "console"
_SCOPES = (("call", EVERY), ("listing", ""), ("key", CONSOLE_KEY), ("day", EVERY))


class Outcome(Protocol):
    """A call's answer as it came (node.proxy.tryout.Tried); header names in lower case."""

    @property
    def call_id(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def whole(self) -> bool: ...
    @property
    def latency_us(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody filled in. `values` by (place, name); `path` and `body` for a request
    that nobody describes."""

    operation: str
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)
    method: str = "GET"
    path: str = "/"
    body: str = ""
    once: str = ""  # 16 to 128 characters: sent twice, a call is paid once


@dataclass(frozen=True, slots=True)
class Left:
    """What a limit still allows; `used` is counted today. Atoms."""

    scope: str
    limit_atoms: int
    used_atoms: int

    @property
    def left_atoms(self) -> int:
        return max(0, self.limit_atoms - self.used_atoms)


@dataclass(frozen=True, slots=True)
class TryResult:
    """What came of a call. `charged_atoms` is what the answer says it cost; `demo`: it was a
    sample; `source`: whose; `error` is the problem's code when there is no answer."""

    call_id: str
    status: int
    demo: bool
    source: str
    charged_atoms: int
    scheme: str
    latency_us: int
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    whole: bool
    error: str = ""
    detail: str = ""
    recorded: bool = False


Call = Callable[[str, SampleRequest, bool], Awaitable[Outcome]]


class TryIt:
    """One per node. `buy(slug, request, demo)` calls a bought listing through the proxy,
    `show(slug, request, demo)` a listing of ours at the gateway."""

    def __init__(self, engine: Engine, buy: Call, show: Call) -> None:
        self._engine = engine
        self._buy = buy
        self._show = show

    async def attempt(self, listing_id: str, wanted: Wanted, demo: bool) -> TryResult:
        """Make the call. Raises ListingUnknown, SampleInvalid (a value is missing)."""
        listing, priced = await asyncio.to_thread(compiled, self._engine, listing_id)
        own = listing.origin == ListingOrigin.OWN
        if own and not demo:
            raise ListingUnknown("This API is sold here; a node does not buy from itself.")
        request = make_wanted(explain(priced), wanted)
        sent = request
        if wanted.once and not demo:
            sent = replace(request, headers=(*request.headers, ("idempotency-key", wanted.once)))
        outcome = await (self._show if own else self._buy)(listing.slug, sent, demo)
        result = _read(outcome, request, demo)
        if not own and _worth_keeping(result):
            kept = await asyncio.to_thread(self._record, listing_id, request, result)
            return replace(result, recorded=kept)
        return result

    def _record(self, listing_id: str, request: SampleRequest, result: TryResult) -> bool:
        """Keep a bought answer as a sample, instead of an older one to the same request."""
        with writer(self._engine).begin() as connection:
            if not hold_listing(connection, listing_id):
                return False
            same = (
                col(Sample.listing_id) == listing_id,
                col(Sample.method) == request.method,
                col(Sample.target) == request.target,
            )
            connection.execute(delete(Sample).where(*same))
            ours = col(Sample.listing_id) == listing_id
            if (connection.scalar(select(func.count()).where(ours)) or 0) >= MAX_SAMPLES:
                return False
            connection.execute(insert(Sample), _sample(listing_id, request, result))
        return True


def limits_left(engine: Engine, listing_id: str, now: int) -> tuple[Left, ...]:
    """What the limits allow a call from the console, the tightest first."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(col(SpendLimit.scope), col(SpendLimit.subject), col(SpendLimit.limit_atoms))
        )
        limits = Limits({(row[0], row[1]): row[2] for row in rows})
        today = col(SpendCounter.window) == utc_day(now)
        counted = connection.execute(
            select(
                col(SpendCounter.scope), col(SpendCounter.subject), col(SpendCounter.spent_atoms)
            ).where(today)
        )
        used = {(row[0], row[1]): row[2] for row in counted}
    found = []
    for scope, subject in _SCOPES:
        subject = subject or listing_id
        subjects = (listing_id, CONSOLE_KEY) if scope == "call" else (subject,)
        spent = 0 if scope == "call" else used.get((scope, subject), 0)
        found.append(Left(scope, limits.of(scope, *subjects), spent))
    return tuple(sorted(found, key=lambda each: each.left_atoms))


def make_wanted(operations: tuple[Explained, ...], wanted: Wanted) -> SampleRequest:
    """The request behind a filled-in form. Raises SampleInvalid."""
    operation = next((each for each in operations if each.key == wanted.operation), None)
    if operation is None:
        raise SampleInvalid("There is no such operation. Reload the page.")
    if not operation.open_:
        return make_request(operation.method, operation.path, operation.fields, wanted.values)
    if wanted.method not in METHODS:
        raise SampleInvalid(f"The method is one of {', '.join(METHODS)}.")
    path = quote(wanted.path.strip(), safe=PLAIN_SIGNS)
    path = path if path.startswith("/") else f"/{path}"
    kind = JSON_TYPE if wanted.body else ""
    request = SampleRequest(wanted.method, path.partition("?")[0], path, (), wanted.body, kind)
    check_request(request)
    return request


def _read(outcome: Outcome, request: SampleRequest, asked_demo: bool) -> TryResult:
    headers = dict(outcome.headers)
    code, detail = _problem(outcome, headers)
    return TryResult(
        call_id=headers.get("farebox-call-id", outcome.call_id),
        status=outcome.status,
        demo=asked_demo or headers.get("farebox-demo") == "true",
        source=headers.get("farebox-demo-source", ""),
        charged_atoms=_cost(headers.get("farebox-cost", "0")),
        scheme=headers.get("farebox-scheme", ""),
        latency_us=outcome.latency_us,
        method=request.method,
        target=request.target,
        headers=outcome.headers,
        body=outcome.body,
        whole=outcome.whole,
        error=code,
        detail=detail,
    )


def _problem(outcome: Outcome, headers: Mapping[str, str]) -> tuple[str, str]:
    """(code, sentence) of a problem document of this node's own."""
    if outcome.status < 400 or headers.get("content-type") != "application/problem+json":
        return "", ""
    return read_problem(outcome.body)


def _cost(text: str) -> int:
    try:
        return int(Usdc.parse(text))
    except AmountInvalid:
        return 0


def _worth_keeping(result: TryResult) -> bool:
    whole = result.whole and len(result.body) <= MAX_BODY_BYTES
    return whole and not result.demo and 200 <= result.status < 300 and bool(result.scheme)


def _sample(listing_id: str, request: SampleRequest, result: TryResult) -> dict[str, object]:
    return {
        "id": f"smp_{secrets.token_hex(8)}",
        "listing_id": listing_id,
        "method": request.method,
        "template": request.template,
        "target": request.target,
        "request_headers": json.dumps(request.headers),
        "request_type": request.content_type,
        "request_body": request.body,
        "status": result.status,
        "headers": json.dumps(kept_headers(result.headers, ())),
        "body": result.body,
        "latency_us": result.latency_us,
        "recorded_at": int(time.time()),
    }
