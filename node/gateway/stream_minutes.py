"""Streams sold by the minute: further minutes for sale, and the end of what nobody pays for.

      opened: its first minute is paid
        │
        ▼              what is paid is used up
      paid ──────────────────────────────────────▶ due
        ▲ │ ▲                                     │   │
        │ └─┘ a minute is paid ahead              │   │ GRACE_SECONDS
        └─────────────────────────────────────────┘   ▼
                     a minute is paid               unpaid: closed, 4402 `payment_due`

A minute is a call like any other: `POST /v1/{slug}/.farebox/streams/{id}`, at the price at
which the stream was opened. What it is paid until is moved by the commit that charges it, so
any process may sell it; whoever holds the stream looks there before it closes one. A part of
a minute that is not used stays charged (node/decisions/0007-minutes-of-a-stream.md).

A stream by a plan goes on beyond its quota, but not beyond what is paid, and its grace.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from catalog.listings import PricedListing
from finance.store import Store, Write
from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT
from node.gateway.desk import RETRY_SOON, Refused
from node.gateway.forward import Made
from node.gateway.own import Resource, made_json
from node.gateway.request import Call
from node.plans.gate import SubscriberGate
from node.usage.models import Side
from node.usage.stream_rows import StreamSession, StreamState
from node.usage.streams import MINUTE, Stream, Streams

SHELF = "streams"
PAYMENT_DUE = "payment_due"
GRACE_SECONDS = 10
AHEAD_MINUTES = 5  # what may be paid for at most
LOOK_SECONDS = 1.0
# A payment that comes at the last moment is waited for, once for each minute.
HOLD_SECONDS = 5

_PATH = f"/.farebox/{SHELF}/"
_log = logging.getLogger("farebox.gateway")

# Money on its way may never come, and a wallet signs for as much as it likes.
_ON_ITS_WAY = (
    "EXISTS (SELECT 1 FROM onchain_payment WHERE state IN ('owed', 'sent') AND route = :route"
    " AND id <> :call_id)"
)
_IS_ON_ITS_WAY = text("SELECT 1 WHERE " + _ON_ITS_WAY)
_PAY = text(
    "UPDATE stream_session SET paid_until = paid_until + :seconds"
    " WHERE id = :id AND state = 'open' AND paid_until <= :most AND NOT " + _ON_ITS_WAY
)
# An authorization that moved no money after all.
_TAKE_BACK = text("UPDATE stream_session SET paid_until = paid_until - :seconds WHERE id = :id")


@dataclass(frozen=True, slots=True)
class Sold:
    """A stream that is sold by the minute, as its row says."""

    id: str
    listing_id: str
    minute_atoms: int
    paid_until: int
    state: str
    owner: int


class Minutes:
    """Those of one gateway. `look` closes what is unpaid; the shelf sells more minutes. `gate`
    knows until when the streams of subscribers are paid."""

    def __init__(self, streams: Streams, store: Store, gate: SubscriberGate | None = None) -> None:
        self._streams, self._store, self._gate = streams, store, gate
        self._held: dict[str, tuple[int, int]] = {}  # id: (paid until, waited for until)
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._looking = asyncio.create_task(self._keep_looking(), name="minutes")

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # Closing

    async def look(self) -> None:
        """Close every stream that nobody has paid for, beyond the grace. All are read, not only
        those that seem to be over: a minute may have been taken back."""
        for stream in self._streams.going_on(Side.SERVED):
            if stream.subject and not self._is_served(stream.subject):
                stream.ask_to_stop(PAYMENT_DUE)
        for gone in [each for each in self._held if self._streams.find(each) is None]:
            del self._held[gone]
        if not self._streams.by_minute(Side.SERVED):
            return
        paid = await asyncio.to_thread(_read_paid, self._store.engine, self._streams.owner)
        for stream in self._streams.by_minute(Side.SERVED):
            stream.paid_until = paid.get(stream.id, stream.paid_until)
            if self._is_over(stream) and not self._waits_for(stream):
                stream.ask_to_stop(PAYMENT_DUE)

    def _is_served(self, subject: str) -> bool:
        return self._gate is None or self._gate.serves(subject, self._streams.now())

    def _is_over(self, stream: Stream) -> bool:
        return (stream.paid_until or 0) + GRACE_SECONDS <= stream.now()

    def _waits_for(self, stream: Stream) -> bool:
        until = self._held.get(stream.id, (0, 0))[1]
        return stream.now() < until

    def _hold(self, sold: Sold) -> None:
        # Of one that another process holds, that process knows nothing: its grace is all it has.
        stream = self._streams.find(sold.id)
        if stream is None:
            return
        if self._held.get(sold.id, (0, 0))[0] != sold.paid_until:
            self._held[sold.id] = sold.paid_until, stream.now() + HOLD_SECONDS

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except SQLAlchemyError as error:
                # Nobody could pay either.
                _log.warning("what streams are paid until cannot be read now: %s", error)
            except Exception:
                _log.exception("looking at what streams are paid until failed")

    # Selling

    async def find(self, call: Call, listing: PricedListing, segments: tuple[str, ...]) -> Resource:
        """One minute more (POST), or how a stream stands (GET). Raises Refused."""
        if len(segments) != 1 or call.method not in ("GET", "POST"):
            raise Refused("no_such_resource")
        sold = await self._find(segments[0])
        if sold is None or sold.listing_id != listing.id:
            raise Refused("stream_unknown")
        path = _PATH + sold.id
        if not call.raw_path.endswith(path.encode()):
            raise Refused("no_such_resource")  # by its path its minute may have to be found again
        if call.method == "GET":
            return Resource(path, partial(self._shown, sold.id))
        # One that shows a payment may have bought its minute while the stream was open.
        if call.payment is None and not await self._goes_on(sold):
            raise Refused("stream_over")
        return Resource(
            path,
            partial(self._sell, sold.id),
            sold.minute_atoms,
            (BATCH_SETTLEMENT_SCHEME, EXACT),
            f"One minute more of a stream of {listing.name}",
        )

    async def _sell(self, stream_id: str, call: Call) -> Made:
        """What it costs is reserved, not charged. Raises Refused: then it will not be."""
        sold = await self._find(stream_id)
        if sold is None or not await self._goes_on(sold):
            raise Refused("stream_over")
        most = (self._streams.find(sold.id) or self._streams).now() + (AHEAD_MINUTES - 1) * MINUTE
        if sold.paid_until > most:
            wait = sold.paid_until - most
            raise Refused("paid_ahead", [(b"retry-after", b"%d" % wait)])
        other = {"route": f"POST {_PATH}{sold.id}", "call_id": call.id}
        if await self._store.first(_IS_ON_ITS_WAY, other) is not None:
            raise Refused("paid_ahead", RETRY_SOON, "The money of another minute is on its way.")
        self._hold(sold)
        paid = Write(_PAY, {"id": sold.id, "seconds": MINUTE, "most": most, **other})
        return made_json(_document(sold, sold.paid_until + MINUTE), writes=[paid])

    async def _shown(self, stream_id: str, _: Call) -> Made:
        sold = await self._find(stream_id)
        if sold is None:
            raise Refused("stream_unknown")
        state = "open" if await self._goes_on(sold) else "over"
        return made_json({**_document(sold, sold.paid_until), "state": state})

    async def _find(self, stream_id: str) -> Sold | None:
        stream = self._streams.find(stream_id)
        if stream is not None:
            await self._streams.put(stream)
        return await asyncio.to_thread(_read, self._store.engine, stream_id)

    async def _goes_on(self, sold: Sold) -> bool:
        """Raises Refused while that cannot be told: a database that restarts hides who lives."""
        if sold.state != StreamState.OPEN:
            return False
        held = await asyncio.to_thread(self._streams.is_held, sold.id, sold.owner)
        if held is None:
            raise Refused("store_unavailable", RETRY_SOON)
        return held


def minute_back(path: str) -> list[Write]:
    """Takes a minute back whose authorization moved no money; nothing for another call's path."""
    if not path.startswith(_PATH):
        return []
    stream_id = path.removeprefix(_PATH)
    return [Write(_TAKE_BACK, {"id": stream_id, "seconds": MINUTE}, rows=None)]


def _document(sold: Sold, paid_until: int) -> dict[str, object]:
    return {"stream": sold.id, "paid_until": paid_until, "minute_atoms": sold.minute_atoms}


_COLUMNS = (
    col(StreamSession.id),
    col(StreamSession.listing_id),
    col(StreamSession.minute_atoms),
    col(StreamSession.paid_until),
    col(StreamSession.state),
    col(StreamSession.owner),
)


def _read(engine: Engine, stream_id: str) -> Sold | None:
    sold = (
        select(*_COLUMNS)
        .where(col(StreamSession.id) == stream_id)
        .where(col(StreamSession.side) == Side.SERVED, col(StreamSession.minute_atoms) > 0)
    )
    with engine.connect() as connection:
        row = connection.execute(sold).first()
    if row is None:
        return None
    return Sold(row[0], row[1], row[2], row[3] or 0, row[4], row[5])


def _read_paid(engine: Engine, owner: int) -> dict[str, int]:
    statement = (
        select(col(StreamSession.id), col(StreamSession.paid_until))
        .where(col(StreamSession.owner) == owner, col(StreamSession.state) == StreamState.OPEN)
        .where(col(StreamSession.side) == Side.SERVED, col(StreamSession.minute_atoms) > 0)
    )
    with engine.connect() as connection:
        return {row[0]: row[1] or 0 for row in connection.execute(statement)}
