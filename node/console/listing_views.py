"""A listing as API Management shows it. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from catalog.models import PriceUnit
from finance.money import Usdc
from node.console.format import (
    NOT_KNOWN,
    Amount,
    Moment,
    cell_amount,
    count,
    latency,
    moment,
    per,
    percent,
    size,
)
from node.console.listing_forms import is_rest
from node.market.health import HealthView
from node.market.own_listings import ListingDetail, OwnListing, PricedOperation, Status
from node.market.samples import SampleView, WholeSample

_TONES = {Status.LIVE: "good", Status.DEMO: "info", Status.PAUSED: "loud", Status.DOWN: "bad"}
_SHOWN_BODY = 20_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the list."""

    id: str
    name: str
    slug: str
    status: str
    tone: str
    price: str
    samples: str
    calls: str
    success: str
    revenue: Amount
    health: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SampleLine:
    """One recorded answer in a list."""

    id: str
    request: str
    operation: str
    status: int
    kind: str
    size: str
    latency: str
    recorded: Moment


@dataclass(frozen=True, slots=True)
class OperationLine:
    """One operation with its price."""

    request: str
    summary: str
    price: Amount
    unit: str
    own: bool


@dataclass(frozen=True, slots=True)
class Curls:
    """Commands to try a listing with."""

    unpaid: str
    demo: str
    paid: str
    add: str


def line_of(row: OwnListing) -> Line:
    return Line(
        id=row.id,
        name=row.name,
        slug=row.slug,
        status=row.status.value.capitalize(),
        tone=_TONES[row.status],
        price=price_range(row),
        samples=count(row.samples),
        calls=count(row.sums.calls),
        success=percent(row.sums.succeeded, row.sums.calls),
        revenue=cell_amount(Usdc(row.sums.amount_atoms)),
        health=health_text(row.health),
        tags=row.tags,
    )


def price_range(row: OwnListing) -> str:
    """`0.001`, or `0.001 – 0.05` where routes have prices of their own. Of a minute it says so."""
    lowest, highest = Usdc(row.price_from_atoms), Usdc(row.price_to_atoms)
    prices = str(lowest) if lowest == highest else f"{lowest} – {highest}"
    return prices if row.price_unit == PriceUnit.CALL else f"{prices} {per(row.price_unit)}"


def health_text(health: HealthView | None) -> str:
    if health is None:
        return NOT_KNOWN
    return f"up, {latency(health.latency_us)}" if health.up else "no good answer"


def sample_line(row: SampleView, now: int, zone: ZoneInfo) -> SampleLine:
    return SampleLine(
        id=row.id,
        request=f"{row.method} {row.target}",
        operation=f"{row.method} {row.template}",
        status=row.status,
        kind=row.content_type.partition(";")[0] or NOT_KNOWN,
        size=size(row.size),
        latency=latency(row.latency_us),
        recorded=moment(row.recorded_at, now, zone),
    )


def operation_lines(operations: Iterable[PricedOperation]) -> tuple[OperationLine, ...]:
    return tuple(
        OperationLine(
            "everything else" if is_rest(each.method, each.path) else f"{each.method} {each.path}",
            each.summary,
            cell_amount(Usdc(each.price_atoms)),
            "" if each.price_unit is PriceUnit.CALL else per(each.price_unit),
            each.own_price,
        )
        for each in operations
    )


SAMPLES_CSV = (
    "id",
    "method",
    "target",
    "operation",
    "status",
    "content_type",
    "size_bytes",
    "latency_us",
    "recorded_at",
)
OPERATIONS_CSV = ("method", "path", "summary", "price_usdc", "price_unit", "own_price")


def sample_cells(rows: Iterable[SampleView]) -> Iterator[tuple[object, ...]]:
    """Lines of SAMPLES_CSV, without bodies; times in Unix seconds."""
    for row in rows:
        answer = (row.status, row.content_type, row.size, row.latency_us, row.recorded_at)
        yield row.id, row.method, row.target, row.template, *answer


def operation_cells(rows: Iterable[PricedOperation]) -> Iterator[tuple[object, ...]]:
    """Lines of OPERATIONS_CSV; `*` and `/*` stand for everything else."""
    for row in rows:
        price = (str(Usdc(row.price_atoms)), row.price_unit.value, "yes" if row.own_price else "no")
        yield row.method, row.path, row.summary, *price


def curls(detail: ListingDetail, gateway_url: str, console_url: str) -> Curls:
    """With a request that was recorded, else the first operation that needs no parameter."""
    method, target, body, kind = _example_request(detail)
    words = ["curl", "-i"] if method == "GET" else ["curl", "-i", "-X", method]
    data = ["-H", f"Content-Type: {kind}", "--data", body] if body else []
    address = f"{gateway_url.rstrip('/')}/v1/{detail.line.slug}"
    proxied = f"{console_url.rstrip('/')}/call/{detail.line.slug}{target}"
    secret = '-H "Authorization: Bearer $FAREBOX_KEY"'
    add = ["farebox", "listing", "add", detail.line.name, "--buy", address]
    return Curls(
        unpaid=shlex.join([*words, *data, address + target]),
        demo=shlex.join([*words, "-H", "Farebox-Demo: 1", *data, address + target]),
        paid=f"{shlex.join(words)} {secret} {shlex.join([*data, proxied])}",
        add=shlex.join(add),
    )


def body_text(sample: WholeSample) -> str:
    """The body as text, JSON in lines; what is no text is only measured."""
    try:
        text = sample.body.decode()
    except UnicodeDecodeError:
        return f"({size(len(sample.body))} that are not text)"
    if "json" in sample.view.content_type:
        try:
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (RecursionError, ValueError):
            return text[:_SHOWN_BODY]
    return text[:_SHOWN_BODY]


def _example_request(detail: ListingDetail) -> tuple[str, str, str, str]:
    """(method, target, body, content type)."""
    for sample in sorted(detail.samples, key=lambda each: each.method != "GET"):
        return sample.method, sample.target, sample.request_body, "application/json"
    for operation in detail.operations:
        if operation.method == "GET" and "{" not in operation.path:
            return "GET", operation.path, "", ""
    return "GET", "/", "", ""
