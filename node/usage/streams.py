"""The time streams are connected, idle or not, to the second.

Opening and ending a stream is a matter of memory. A ticker writes how long every open one
has been connected, all in one batch, and those that ended soon after they did. A crash
loses what came after the last tick: at the next start such streams end there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from finance.errors import FinanceError
from finance.store import Batch, Store, Write
from node.db.presence import Presence
from node.usage.models import Side
from node.usage.quotas import Meter, Quotas, Reservation
from node.usage.stream_rows import StreamKind, StreamSession, StreamState
from node.usage.windows import window_of

TICK_SECONDS = 15.0
FLUSH_SECONDS = 1.0
NODE_STOPPED = "node_stopped"
NODE_LOST = "node_lost"  # the process that held it died
MINUTE = 60

_log = logging.getLogger("farebox.streams")

# A row that somebody has ended is not opened again by a process that was thought dead. What a
# stream that is sold is paid until is moved by its payments alone.
_PUT = text(
    "INSERT INTO stream_session (id, side, listing_id, key_id, payer, kind, started_at,"
    " last_tick_at, ended_at, seconds, state, reason, owner, minute_atoms, paid_until)"
    " VALUES (:id, :side, :listing_id, :key_id, :payer, :kind, :started_at,"
    " :last_tick_at, :ended_at, :seconds, :state, :reason, :owner, :minute_atoms, :paid_until)"
    " ON CONFLICT (id) DO UPDATE SET last_tick_at = excluded.last_tick_at,"
    " ended_at = excluded.ended_at, seconds = excluded.seconds, state = excluded.state,"
    " reason = excluded.reason, paid_until = CASE stream_session.side WHEN 'bought'"
    " THEN excluded.paid_until ELSE stream_session.paid_until END"
    " WHERE stream_session.state = 'open'"
)
_END_AT_LAST_TICK = text(
    "UPDATE stream_session SET ended_at = last_tick_at, state = 'cut', reason = :reason"
    " WHERE owner = :owner AND state = 'open'"
)


class Stream:
    """One open stream. `stop` is how its holder is asked to close it: called once, with a
    code, kept in `stopped_for`; it must not block. By the minute: `minute_atoms` is its price
    and `paid_until` as far as this process knows it."""

    __slots__ = (
        "_opened",
        "_streams",
        "counted_at",
        "ended_at",
        "id",
        "key_id",
        "kind",
        "listing_id",
        "minute_atoms",
        "paid_until",
        "payer",
        "reason",
        "seen_at",
        "side",
        "started_at",
        "state",
        "stop",
        "stopped_for",
        "stored",
        "subject",
    )

    def __init__(
        self,
        streams: Streams,
        call_id: str,
        side: Side,
        kind: StreamKind,
        listing_id: str,
        key_id: str | None,
        payer: str | None,
        stop: Callable[[str], None],
        subject: str,
        minute_atoms: int = 0,
    ) -> None:
        self._streams = streams
        self.id, self.side, self.kind, self.listing_id = call_id, side, kind, listing_id
        self.key_id, self.payer, self.stop = key_id, payer, stop
        self.subject = subject  # whose quota its time is taken from; empty for none
        now = self.started_at = self.seen_at = self.counted_at = streams.now()
        self._opened = streams.steady()
        self.ended_at: int | None = None
        self.state, self.reason, self.stopped_for = StreamState.OPEN, "", ""
        self.minute_atoms = minute_atoms
        self.paid_until = now + MINUTE if minute_atoms else None
        self.stored = False

    def end(self, reason: str, *, cut: bool = False) -> None:
        """It is over. Twice is harmless: the first reason stands."""
        if self.state is StreamState.OPEN:
            self.state = StreamState.CUT if cut else StreamState.ENDED
            self.reason = reason
            self._streams.note_end(self)

    def ask_to_stop(self, reason: str) -> None:
        """Have its holder close it; once."""
        if self.goes_on:
            self.stopped_for = reason
            self.stop(reason)

    @property
    def goes_on(self) -> bool:
        """Whether it is open and nobody has asked for its end."""
        return not self.stopped_for and self.state is StreamState.OPEN

    @property
    def unpaid(self) -> bool:
        """Whether it is this node that ended it, and not because the node stops."""
        return self.stopped_for not in ("", NODE_STOPPED)

    def now(self) -> int:
        """Unix seconds as they go by for it: whoever sets a clock neither prolongs nor ends it."""
        return self.started_at + int(self._streams.steady() - self._opened)

    def see(self) -> None:
        """It is connected by now."""
        self.seen_at = self.now()

    def write(self, owner: int) -> Write:
        """Its row as it is now."""
        return Write(
            _PUT,
            {
                "id": self.id,
                "side": self.side,
                "listing_id": self.listing_id,
                "key_id": self.key_id,
                "payer": self.payer,
                "kind": self.kind,
                "started_at": self.started_at,
                "last_tick_at": self.seen_at,
                "ended_at": self.ended_at,
                "seconds": self.seen_at - self.started_at,
                "state": self.state,
                "reason": self.reason,
                "owner": owner,
                "minute_atoms": self.minute_atoms,
                "paid_until": self.paid_until,
            },
            rows=None,
        )


class Streams:
    """All streams of this process, of both sides. `clock` gives Unix seconds, `steady` those of
    a clock that nobody sets."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        tick_seconds: float = TICK_SECONDS,
        flush_seconds: float = FLUSH_SECONDS,
        quotas: Quotas | None = None,
    ) -> None:
        self._store, self._clock, self.steady = store, clock, steady
        self._tick_seconds, self._flush_seconds = tick_seconds, flush_seconds
        self._quotas = quotas
        self._presence = Presence(store.engine)
        self._open: dict[str, Stream] = {}
        self._over: list[Stream] = []
        self._sold: list[Stream] = []  # by the minute, not written yet
        self._writing = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._empty = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None
        self.closing = ""  # once no new stream may begin: why

    async def start(self) -> None:
        """End what a crash left open, at its last tick; then tick."""
        await self._end_departed()
        self._ticker = asyncio.create_task(self._keep_ticking(), name="streams")

    async def stop(self) -> None:
        """Write the last second of everything and end what is still open."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for stream in list(self._open.values()):
            stream.end(NODE_STOPPED, cut=True)
        await self._write()
        await asyncio.to_thread(self._presence.leave)

    def open(
        self,
        call_id: str,
        side: Side,
        kind: StreamKind,
        listing_id: str,
        stop: Callable[[str], None],
        *,
        key_id: str | None = None,
        payer: str | None = None,
        subject: str = "",
        minute_atoms: int = 0,
    ) -> Stream:
        """A stream is connected from now on; whoever opens it ends it. `subject`: whose quota
        of stream seconds it uses (node.usage.quotas), if any. `minute_atoms`: its price a
        minute, the first of which is paid."""
        who = (listing_id, key_id, payer)
        stream = Stream(self, call_id, side, kind, *who, stop, subject, minute_atoms)
        self._open[call_id] = stream
        if minute_atoms:
            self._sold.append(stream)
            self._wanted.set()
        if self.closing:
            stream.ask_to_stop(self.closing)
        return stream

    async def close_all(self, reason: str = NODE_STOPPED, seconds: float = 5.0) -> None:
        """Ask every stream to close, and each that still opens; wait for them, not for long."""
        self.closing = reason
        for stream in list(self._open.values()):
            stream.ask_to_stop(reason)
        self._empty.clear()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    def live(self, side: Side) -> Counter[tuple[str, str]]:
        """Streams open in this process, by listing and by who holds them (key or payer)."""
        return Counter(
            (stream.listing_id, stream.key_id or stream.payer or "")
            for stream in self._open.values()
            if stream.side is side
        )

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    @property
    def owner(self) -> int:
        """The number of this process in the rows of what it holds."""
        return self._presence.number

    def going_on(self, side: Side) -> list[Stream]:
        """Those open in this process that nobody has asked to end."""
        return [each for each in self._open.values() if each.side is side and each.goes_on]

    def by_minute(self, side: Side) -> list[Stream]:
        """Those of them that are paid as their time runs."""
        return [stream for stream in self.going_on(side) if stream.minute_atoms]

    def find(self, stream_id: str) -> Stream | None:
        """One that is open in this process."""
        return self._open.get(stream_id)

    def is_held(self, stream_id: str, owner: int) -> bool | None:
        """Whether the process with that number still has it, and means to go on; None while it
        is not to be seen, and not gone yet. Blocking."""
        if owner == self._presence.number:
            stream = self._open.get(stream_id)
            return stream is not None and stream.goes_on
        if not self._presence.missing({owner}):
            return True
        return False if self._presence.departed({owner}) else None

    async def put(self, stream: Stream) -> None:
        """Have its row, if it can be written now."""
        if not stream.stored:
            await self._write([stream])

    def note_end(self, stream: Stream) -> None:
        """Called by a stream that ends."""
        stream.see()
        stream.ended_at = stream.seen_at
        self._open.pop(stream.id, None)
        self._over.append(stream)
        self._wanted.set()
        if not self._open:
            self._empty.set()

    async def tick(self) -> None:
        """Write how long every open stream has been connected by now."""
        for stream in self._open.values():
            stream.see()
        await self._write(self._open.values())

    async def _write(self, also: Iterable[Stream] = ()) -> None:
        over, self._over = self._over, []
        sold, self._sold = self._sold, []
        fresh = {stream.id: stream for stream in [*sold, *also] if stream.ended_at is None}
        async with self._writing:
            await self._write_rows([*over, *fresh.values()], over)

    async def _write_rows(self, streams: list[Stream], over: list[Stream]) -> None:
        writes = [stream.write(self._presence.number) for stream in streams]
        if not writes:
            return
        before = [stream.counted_at for stream in streams]
        held = [part for stream in streams for part in self._take(stream)]
        try:
            # Counted before it is written: who is cancelled while waiting has written it.
            await self._store.commit(Batch(writes, [part.commit() for part in held]))
        except FinanceError as error:
            for part in held:
                part.release()
            for stream, at in zip(streams, before, strict=True):
                stream.counted_at = at
            self._over = over + self._over  # with the next tick
            _log.warning("the time of %d streams cannot be written now: %s", len(writes), error)
            return
        for stream in streams:
            stream.stored = True

    def _take(self, stream: Stream) -> list[Reservation]:
        """Its time since it was last counted, from the quota of the month it falls into. Who has
        used up a quota goes on: open streams drain."""
        held: list[Reservation] = []
        if self._quotas is None or not stream.subject:
            return held
        at = stream.counted_at
        while at < stream.seen_at:
            edge = min(window_of(at).end, stream.seen_at)
            taken = self._quotas.reserve(stream.subject, Meter.STREAM_SECONDS, edge - at, None, at)
            held.append(taken)
            stream.counted_at = at = edge
        return held

    async def _keep_ticking(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._tick_seconds
        while True:
            # Not a time-out: one that is over as it begins takes the cancellation of whoever was
            # cancelled while it wrote for its own.
            timer = loop.call_at(due, self._wanted.set)
            try:
                await self._wanted.wait()
            finally:
                timer.cancel()
            if loop.time() >= due:
                self._wanted.clear()
                due = loop.time() + self._tick_seconds
                await self.tick()
                await self._end_departed()
            else:
                # Those that end together are written together.
                await asyncio.sleep(self._flush_seconds)
                self._wanted.clear()
                await self._write()

    async def _end_departed(self) -> None:
        """Streams of processes that are gone ended at their last tick."""
        try:
            gone = await asyncio.to_thread(self._departed)
            for owner in gone:
                params = {"owner": owner, "reason": NODE_LOST}
                await self._store.commit(Batch([Write(_END_AT_LAST_TICK, params, rows=None)]))
        except (FinanceError, SQLAlchemyError) as error:
            _log.warning("streams of other processes cannot be looked at now: %s", error)

    def _departed(self) -> Iterable[int]:
        self._presence.show()
        statement = select(col(StreamSession.owner)).where(col(StreamSession.state) == "open")
        with self._store.engine.connect() as connection:
            owners = set(connection.execute(statement.distinct()).scalars())
        return self._presence.departed(owners)
