"""What is left of a month's quota, decided in memory, and counted in the call's own transaction.

A call reserves before it begins; `commit` turns that into the increment which becomes
durable together with the call, and `release` gives it back when nothing was delivered. So
calls at once never pass a quota together, and nothing is counted twice or lost by a crash.
One `Quotas` per process, used on its event loop alone; `quota_usage` has the truth, from
which a start reads it. Where several processes share a database, each decides within its
share (node.usage.leases); `claim` waits for the database when that is used up, and else is
a look-up like everything else here: no I/O on the paid path.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from finance.errors import StoreUnavailable
from finance.store import Increment, Write
from node.usage.leases import ADD_TO_LEASED_QUOTA, TAKE_BACK_LEASED, Holder, Leases
from node.usage.metering import QuotaUsage
from node.usage.windows import Window, window_of

ALL_KEYS: Final = "key:"  # the quota that all integrators share
# Says which quota is used up, in a 402 that has no room for it elsewhere.
METER_HEADER: Final = b"farebox-meter"

ADD_TO_QUOTA = text(
    "INSERT INTO quota_usage (subject, meter, window_start, used)"
    " VALUES (:subject, :meter, :window_start, :used)"
    " ON CONFLICT (subject, meter, window_start)"
    " DO UPDATE SET used = quota_usage.used + excluded.used"
)

_TAKE_BACK = text(
    "UPDATE quota_usage SET used = used - :amount WHERE subject = :subject AND meter = :meter"
    " AND window_start = :window_start AND used >= :amount"
)


class Meter(StrEnum):
    """What is counted; stored, only ever added to."""

    CALLS = "calls"
    STREAM_SECONDS = "stream_seconds"

    # Looked up several times a call; the one of Enum is not written in C.
    __hash__ = str.__hash__


class QuotaExceeded(Exception):
    """The month's quota is used up. `used` includes what is reserved by calls under way;
    `resets_at` in Unix seconds."""

    code = "quota_exceeded"

    def __init__(self, meter: Meter, used: int, limit: int, resets_at: int) -> None:
        super().__init__(f"The quota of {limit:,} {_UNITS[meter]} a month is used up.")
        self.meter, self.used, self.limit, self.resets_at = meter, used, limit, resets_at

    def told(self, *ways: str) -> dict[str, Any]:
        """The members of a problem document that tells of it, with the ways to go on."""
        return {
            "meter": self.meter.value,
            "used": self.used,
            "limit": self.limit,
            "resets_at": self.resets_at,
            "ways": ways,
        }


def begins_anew(resets_at: int) -> str:
    """The words of every such refusal; what can be done until then follows them."""
    until = datetime.fromtimestamp(resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"It begins anew on {until}. Until then: wait,"


def key_subject(key_id: str) -> str:
    """Whom the calls of a consumer key are counted on."""
    return ALL_KEYS + key_id


class _Counter:
    """Used and reserved, of one subject, meter and month."""

    __slots__ = ("taken",)

    def __init__(self, taken: int = 0) -> None:
        self.taken = taken


class _Place(NamedTuple):
    """Where a subject's use of a meter is counted this month: its own and its kind's counter, and
    the key of its row."""

    window_start: int
    own: _Counter
    pool: _Counter
    key: tuple[tuple[str, str | int], ...]


class Reservation:
    """Part of a quota, held for something that has begun."""

    __slots__ = ("_amount", "_counters", "_key", "_share", "committed")

    def __init__(
        self,
        counters: tuple[_Counter, ...],
        amount: int,
        key: tuple[tuple[str, str | int], ...],
        share: tuple[Leases, Holder] | None = None,
    ) -> None:
        self._counters, self._amount, self._key = counters, amount, key
        self._share = share
        self.committed = False

    def commit(self, amount: int | None = None) -> Increment:
        """What to write with the thing itself; `amount` where it came out otherwise. When
        that transaction fails, `release` takes it back."""
        if amount is not None and amount != self._amount:
            self._take(amount - self._amount)
        self.committed = True
        adding = ADD_TO_QUOTA if self._share is None else ADD_TO_LEASED_QUOTA
        return Increment(adding, self._key, (("used", self._amount),))

    def release(self) -> None:
        """Nothing was delivered; twice is harmless."""
        self._take(-self._amount)
        self.committed = False

    def take_back(self) -> Write:
        """It was committed, but broke off: what to write to give it back."""
        amount = self._amount
        self.release()
        taking = _TAKE_BACK if self._share is None else TAKE_BACK_LEASED
        return Write(taking, {**dict(self._key), "amount": amount})

    def _take(self, more: int) -> None:
        for counter in self._counters:
            counter.taken += more
        self._amount += more
        if self._share is not None:
            leases, holder = self._share
            leases.put_back(holder, -more)


class Quotas:
    """The counters of this process. `load` before anything is reserved. `leases`: its shares,
    where it is not alone."""

    def __init__(self, engine: Engine, leases: Leases | None = None) -> None:
        self._engine, self._leases = engine, leases
        self._counters: dict[tuple[str, Meter, int], _Counter] = {}
        self._places: dict[tuple[str, Meter], _Place] = {}
        self._window = Window(0, 0)
        self._months: set[int] = set()  # of which all that was used is known
        self._loading = asyncio.Lock()

    async def load(self, now: int) -> None:
        """What was used this month before the start, of all subjects in one query. Later
        calls do nothing: what is not there was not used."""
        async with self._loading:
            start = self._window_at(now).start
            if start in self._months:
                return
            if self._leases is not None:
                await self._leases.start(start)
            for subject, meter, used in await asyncio.to_thread(_read, self._engine, start):
                self._find(subject, meter, start).taken += used
                self._find(_pool(subject), meter, start).taken += used
            self._months.add(start)

    def reserve(
        self,
        subject: str,
        meter: Meter,
        amount: int,
        limit: int | None,
        now: int,
        *,
        shared: bool = False,
    ) -> Reservation:
        """Hold `amount` of what is left below `limit` (None: no end) this month.

        `shared`: the limit holds for all subjects of the same kind together. Raises
        QuotaExceeded, and then holds nothing.
        """
        window = self._window_at(now)
        place = self._places.get((subject, meter))
        if place is None or place.window_start != window.start:
            place = self._settle(subject, meter, window.start)
        _, own, pool, key = place
        taken = (pool if shared else own).taken
        if limit is not None and taken + amount > limit:
            raise QuotaExceeded(meter, taken, limit, window.end)
        share = None
        if self._leases is not None and limit is not None:
            holder = _holder(subject, meter, window, shared)
            if not self._leases.take(holder, amount):
                used = max(taken, min(self._leases.used(holder), limit))
                raise QuotaExceeded(meter, used, limit, window.end)
            share = (self._leases, holder)
            key = (*key, ("holder", holder.subject), ("owner", self._leases.owner))
        own.taken += amount
        pool.taken += amount
        return Reservation((own, pool), amount, key, share)

    async def claim(
        self,
        subject: str,
        meter: Meter,
        amount: int,
        limit: int | None,
        now: int,
        *,
        shared: bool = False,
    ) -> Reservation:
        """The same; where this process has used up its share, it first asks for more. Raises
        StoreUnavailable."""
        if self._window_at(now).start not in self._months:
            await self._load_again(now)
        try:
            return self.reserve(subject, meter, amount, limit, now, shared=shared)
        except QuotaExceeded:
            if self._leases is None or limit is None:
                raise
        holder = _holder(subject, meter, self._window_at(now), shared)
        if await self._leases.ask(holder, amount, limit):
            # What was just made room for is taken at once: nothing runs in between.
            self._leases.put_back(holder, amount)
        return self.reserve(subject, meter, amount, limit, now, shared=shared)

    async def _load_again(self, now: int) -> None:
        """The clock was wrong when this process began, or since, by months."""
        try:
            await self.load(now)
        except SQLAlchemyError as error:
            message = f"what was used of a quota cannot be read: {error}"
            raise StoreUnavailable(message) from error

    async def tidy(self) -> None:
        """Give back what others may need more; every few seconds."""
        if self._leases is not None:
            await self._leases.tidy()

    async def stop(self) -> None:
        """Give everything back."""
        if self._leases is not None:
            await self._leases.stop()

    def used(self, subject: str, meter: Meter, now: int) -> int:
        """Used and reserved this month; of all subjects of a kind for `key:` and the like."""
        found = self._counters.get((subject, meter, self._window_at(now).start))
        return 0 if found is None else found.taken

    def _window_at(self, now: int) -> Window:
        if not self._window.start <= now < self._window.end:
            last, self._window = self._window, window_of(now)
            self._forget(self._window.start)
            if last.end == self._window.start:
                self._months.add(last.end)  # it has just begun
        return self._window

    def _forget(self, start: int) -> None:
        """Months that are long over. The one before stays, for clocks that are set back."""
        oldest = window_of(start - 1).start
        self._counters = {key: each for key, each in self._counters.items() if key[2] >= oldest}
        self._months = {each for each in self._months if each >= oldest}
        self._places.clear()

    def _settle(self, subject: str, meter: Meter, start: int) -> _Place:
        """Looked up once a month, not once a call."""
        own, pool = self._find(subject, meter, start), self._find(_pool(subject), meter, start)
        key = (("subject", subject), ("meter", meter.value), ("window_start", start))
        place = self._places[subject, meter] = _Place(start, own, pool, key)
        return place

    def _find(self, subject: str, meter: Meter, start: int) -> _Counter:
        key = (subject, meter, start)
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = _Counter()
        return found


def _holder(subject: str, meter: Meter, window: Window, shared: bool) -> Holder:
    return Holder(_pool(subject) if shared else subject, meter.value, window.start)


def _pool(subject: str) -> str:
    return subject[: subject.find(":") + 1]


def _read(engine: Engine, window_start: int) -> list[tuple[str, Meter, int]]:
    statement = select(col(QuotaUsage.subject), col(QuotaUsage.meter), col(QuotaUsage.used)).where(
        col(QuotaUsage.window_start) == window_start
    )
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
    return [(subject, Meter(meter), used) for subject, meter, used in rows]


def used_by_subject(engine: Engine, meter: Meter, now: int) -> dict[str, int]:
    """What each subject has used this month, as the database says (blocking)."""
    statement = select(col(QuotaUsage.subject), col(QuotaUsage.used)).where(
        col(QuotaUsage.window_start) == window_of(now).start, col(QuotaUsage.meter) == meter.value
    )
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(statement)}


def used_by(engine: Engine, subject: str, now: int) -> dict[str, int]:
    """What a subject has used this month of every meter, in whichever process (blocking)."""
    statement = select(col(QuotaUsage.meter), col(QuotaUsage.used)).where(
        col(QuotaUsage.subject) == subject, col(QuotaUsage.window_start) == window_of(now).start
    )
    with engine.connect() as connection:
        found = {row[0]: row[1] for row in connection.execute(statement)}
    return {meter.value: found.get(meter.value, 0) for meter in Meter}


def used_together(engine: Engine, meter: Meter, now: int, subject: str = ALL_KEYS) -> int:
    """What all subjects of a kind, or one, have used this month (blocking)."""
    used: defaultdict[str, int] = defaultdict(int)
    for each, amount in used_by_subject(engine, meter, now).items():
        used[each] += amount
        used[_pool(each)] += amount
    return used[subject]


_UNITS: Final = {Meter.CALLS: "calls", Meter.STREAM_SECONDS: "seconds of streams"}
