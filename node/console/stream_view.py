"""Open streams, as a listing's and a key's page show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finance.money import Usdc
from node.console.format import Amount, Moment, Short, cell_amount, count, duration, moment, short
from node.console.visit import Visit
from node.usage.live_streams import LiveStream, LiveStreams

SHOWN = 50
CSV = (
    "stream_id",
    "kind",
    "api",
    "payer",
    "started_at",
    "seconds",
    "usdc_per_minute",
    "paid_until",
    "paid_usdc",
)
_KINDS = {"websocket": "WebSocket", "sse": "Events (SSE)"}


@dataclass(frozen=True, slots=True)
class StreamLine:
    """One open stream. `until` is None where no further minute is to be paid."""

    kind: str
    api: str
    payer: Short | None
    since: Moment
    connected: str
    until: Moment | None
    paid: Amount


@dataclass(frozen=True, slots=True)
class StreamsView:
    """Those that are shown, and how many there are beside them."""

    lines: tuple[StreamLine, ...]
    left_out: str
    csv: str


def streams_view(visit: Visit, live: LiveStreams, csv: str) -> StreamsView:
    """`csv` is where all of them are."""
    left = live.total - len(live.streams)
    lines = tuple(_line(visit, each) for each in live.streams)
    return StreamsView(lines, count(left) if left else "", csv)


def csv_lines(live: LiveStreams) -> Iterator[tuple[object, ...]]:
    for each in live.streams:
        price = str(Usdc(each.minute_atoms)) if each.minute_atoms else ""
        yield (
            *(each.id, each.kind, each.listing, each.payer, each.started_at, each.seconds),
            *(price, each.paid_until or "", str(Usdc(each.paid_atoms))),
        )


def _line(visit: Visit, each: LiveStream) -> StreamLine:
    until = each.paid_until
    return StreamLine(
        kind=_KINDS.get(each.kind, each.kind),
        api=each.listing or each.listing_id,
        payer=short(each.payer) if each.payer else None,
        since=moment(each.started_at, visit.now, visit.zone),
        connected=duration(each.seconds),
        until=None if until is None else moment(until, visit.now, visit.zone),
        paid=cell_amount(Usdc(each.paid_atoms)),
    )
