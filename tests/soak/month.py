"""A month as a node lives it, with every answer known: calls, streams, restarts, moved sums.

It begins in January 2028 and ends in March, so that it has a 31st, a leap day and the first
minutes of two months inside. What is right is kept call by call and added up in Python.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Engine, insert

from catalog.models import Listing, ListingOrigin
from finance.store import Batch
from node.db.engine import writer
from node.db.journal import Journal
from node.usage.calls import CallRecord
from node.usage.key_choices import KeyChoices
from node.usage.keys import create_key
from node.usage.models import Side
from node.usage.quotas import Meter, Quotas, key_subject
from node.usage.stream_rows import StreamKind
from node.usage.streams import Stream, Streams
from node.usage.totals import move_quiet_sums
from node.usage.windows import window_of

KEYS, INTERNAL, CUSTOMERS = 50, 5, 30
LISTINGS = ("lst_weather", "lst_maps")
ROUTES = (
    "GET /forecast/{city}",
    "GET /cities",
    "POST /reports",
    "DELETE /reports/{id}",
    "GET /*",
)
STATUSES = (200, 200, 200, 200, 201, 404, 402, 504)
AT_ONCE = 500
RESTARTS = 4


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """Unix seconds, UTC."""
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


SINCE, UNTIL = at(2028, 1, 30), at(2028, 3, 2, 12)
EDGES = (
    at(2028, 1, 31),
    at(2028, 2, 1),
    at(2028, 2, 1, 0, 0, 59),
    at(2028, 2, 1, 0, 1),
    at(2028, 2, 29),
    at(2028, 3, 1),
    at(2028, 3, 1, 0, 0, 59),
    at(2028, 3, 1, 0, 1),
)

Sum = tuple[int, int, int, int]  # calls, errors, atoms, microseconds


@dataclass
class Truth:
    """What happened. A call's kind is its place in `kinds`: side, whose, listing, route, status."""

    keys: list[str] = field(default_factory=list)
    integrators: set[str] = field(default_factory=set)
    at_ms: array[int] = field(default_factory=lambda: array("q"))
    kind: array[int] = field(default_factory=lambda: array("l"))
    atoms: array[int] = field(default_factory=lambda: array("l"))
    latency: array[int] = field(default_factory=lambda: array("l"))
    kinds: dict[tuple[Side, str, str, str, int], int] = field(default_factory=dict)
    counted: Counter[tuple[str, int]] = field(default_factory=Counter)  # (key, month)
    streams: list[tuple[str, int, int]] = field(default_factory=list)  # key, begin, end

    def add(self, call: CallRecord) -> None:
        whose = call.key_id or call.payer or ""
        kind = (call.side, whose, call.listing_id, call.route, call.status)
        self.at_ms.append(call.at_ms)
        self.kind.append(self.kinds.setdefault(kind, len(self.kinds)))
        self.atoms.append(call.amount_atoms)
        self.latency.append(call.latency_us)

    def between(self, since: int, until: int) -> Usage:
        """Of every key and customer, in [since, until) Unix seconds."""
        found: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
        rows = zip(self.at_ms, self.kind, self.atoms, self.latency, strict=True)
        first, last = since * 1000, until * 1000
        for at_ms, kind, atoms, latency in rows:
            if first <= at_ms < last:
                sums = found[kind]
                sums[0] += 1
                sums[1] += atoms
                sums[2] += latency
        usage = Usage()
        for (side, whose, listing, route, status), kind in self.kinds.items():
            if kind in found:
                calls, atoms, latency = found[kind]
                errors = calls if status >= 400 else 0
                endpoint = usage.of[side, whose].setdefault((listing, route), {})
                endpoint[status] = (calls, errors, atoms, latency)
        return usage

    def streamed(self, key_id: str, since: int, until: int) -> int:
        """Seconds of a key's streams in [since, until)."""
        mine = [(begin, end) for key, begin, end in self.streams if key == key_id]
        return sum(max(min(end, until) - max(begin, since), 0) for begin, end in mine)


@dataclass
class Usage:
    """By side and whose: endpoint (listing, route) to status to sums."""

    of: defaultdict[tuple[Side, str], dict[tuple[str, str], dict[int, Sum]]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def total(self, side: Side, whose: str) -> Sum:
        parts = [sums for each in self.of[side, whose].values() for sums in each.values()]
        return tuple(sum(part[n] for part in parts) for n in range(4))  # type: ignore[return-value]


async def live_through(engine: Engine, calls: int, streams: int) -> Truth:
    """Fill a database at the newest schema."""
    truth, chance = Truth(), random.Random(2028)
    _make_keys(engine, truth)
    journal, quotas = Journal(engine), Quotas(engine)
    await quotas.load(SINCE)
    size = max(calls // RESTARTS, 1)
    batches: list[Batch] = []
    for booked, record in enumerate(_calls(truth, chance, calls), 1):
        truth.add(record)
        batches.append(_batch(truth, quotas, record))
        if len(batches) == AT_ONCE:
            await asyncio.gather(*(journal.commit(batch) for batch in batches))
            batches = []
        if booked % size == 0:
            # A restart: what is in memory is gone, and is read again.
            await asyncio.gather(*(journal.commit(batch) for batch in batches))
            batches = []
            journal.close()
            await asyncio.to_thread(move_quiet_sums, engine, record.at_ms // 1000, gap_seconds=0)
            journal, quotas = Journal(engine), Quotas(engine)
            await quotas.load(record.at_ms // 1000)
    await asyncio.gather(*(journal.commit(batch) for batch in batches))
    await _stream(journal, engine, truth, chance, streams)
    journal.close()
    return truth


def _make_keys(engine: Engine, truth: Truth) -> None:
    for number in range(KEYS):
        integrator = number >= INTERNAL
        choices = KeyChoices(f"Robot {number:02}", f"dev{number}@example.org", integrator)
        key_id = create_key(engine, choices, SINCE).id
        truth.keys.append(key_id)
        if integrator:
            truth.integrators.add(key_id)
    rows = [
        {
            "id": each,
            "slug": each,
            "name": each.title(),
            "base_url": f"http://{each}.invalid",
            "origin": ListingOrigin.REMOTE,
        }
        for each in LISTINGS
    ]
    with writer(engine).begin() as connection:
        connection.execute(insert(Listing), rows)


def _calls(truth: Truth, chance: random.Random, calls: int) -> Iterator[CallRecord]:
    """In the order in which they came, with some on every edge, a millisecond before and after."""
    edges = sorted(edge * 1000 + ms for edge in EDGES for ms in (-1, 0, 1, 500))
    span = (UNTIL - SINCE) * 1000
    moments = (SINCE * 1000 + number * span // calls for number in range(calls))
    for number, at_ms in enumerate(heapq.merge(moments, edges)):
        yield _call(truth, chance, number, at_ms)


def _call(truth: Truth, chance: random.Random, number: int, at_ms: int) -> CallRecord:
    served = chance.random() < 0.3
    status = chance.choice(STATUSES)
    paid = status < 400 and chance.random() < 0.9
    route = chance.choice(ROUTES)
    return CallRecord(
        id=f"{number:032x}",
        side=Side.SERVED if served else Side.BOUGHT,
        at_ms=at_ms,
        listing_id=chance.choice(LISTINGS),
        method=route.partition(" ")[0],
        path=f"/{number}",
        status=status,
        latency_us=chance.randrange(900, 90_000),
        key_id=None if served else truth.keys[min(int(chance.expovariate(0.1)), KEYS - 1)],
        payer=f"0x{chance.randrange(CUSTOMERS):040x}" if served and paid else None,
        scheme="exact" if paid else None,
        amount_atoms=chance.randrange(1, 5_000) if paid else 0,
        route=route,
    )


def _batch(truth: Truth, quotas: Quotas, record: CallRecord) -> Batch:
    """As the proxy and the gateway book it."""
    increments, now = [record.increment()], record.at_ms // 1000
    if record.key_id in truth.integrators:
        assert record.key_id is not None
        subject = key_subject(record.key_id)
        held = quotas.reserve(subject, Meter.CALLS, 1, None, now, shared=True)
        if record.status >= 500:
            held.release()
        else:
            increments.append(held.commit())
            truth.counted[record.key_id, window_of(now).start] += 1
    return Batch([record.write()], increments)


class _Clock:
    def __init__(self) -> None:
        self.now = SINCE

    def __call__(self) -> float:
        return self.now


async def _stream(
    journal: Journal, engine: Engine, truth: Truth, chance: random.Random, streams: int
) -> None:
    """Streams that open, are idle, and end; three times the process dies with those open."""
    clock = _Clock()
    starts = sorted(chance.randrange(SINCE, UNTIL - 10_000) for _ in range(streams - 1))
    starts.append(EDGES[-1] - 500)  # over the end of a month
    starts.sort()
    every, crashes = max(streams // 200, 1), {len(starts) * n // 4 for n in (1, 2, 3)}
    running = await _start(journal, engine, clock)
    ends: list[tuple[int, int, Stream]] = []
    for number, start in enumerate(starts):
        while ends and ends[0][0] <= start:
            _end(truth, clock, *heapq.heappop(ends))
        clock.now = start
        if number % every == 0:
            await running.tick()
        if number in crashes:
            await running.tick()
            truth.streams += [
                (each.key_id or "", each.started_at, clock.now) for _, _, each in ends
            ]
            ends = []
            running = await _start(journal, engine, clock)
        key_id = chance.choice(truth.keys)
        subject = key_subject(key_id) if key_id in truth.integrators else ""
        stream = running.open(
            f"s{number:031x}", Side.BOUGHT, StreamKind.SSE, LISTINGS[0], lambda _: None,
            key_id=key_id, subject=subject,
        )  # fmt: skip
        heapq.heappush(ends, (start + chance.randrange(1, 9_000), number, stream))
    while ends:
        _end(truth, clock, *heapq.heappop(ends))
    await running.stop()


async def _start(journal: Journal, engine: Engine, clock: _Clock) -> Streams:
    quotas = Quotas(engine)
    await quotas.load(clock.now)
    running = Streams(journal, clock, clock, tick_seconds=1e6, quotas=quotas)
    await running.start()
    return running


def _end(truth: Truth, clock: _Clock, end: int, _number: int, stream: Stream) -> None:
    clock.now = end
    stream.end("caller_closed")
    truth.streams.append((stream.key_id or "", stream.started_at, end))
