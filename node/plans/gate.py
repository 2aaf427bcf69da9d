"""What a subscriber may do now, decided in memory: its key, its calls a minute, its quotas.

The database has the truth; this follows it. A period gives something as soon as its payment
is settled: whoever waits for a settlement tells the gate, and what nobody waits for (after a
crash, say) is looked at every second until it is decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from finance.errors import FinanceError
from finance.store import Store
from node.plans.subscribers import SUBJECT, Subscriber, changed_since, read_subscribers
from node.plans.terms import Standing
from node.usage.overrides import Override, lifted, live_overrides
from node.usage.quotas import Meter, Quotas, Reservation
from node.usage.rates import RateLimiter
from node.usage.rates import Standing as MinuteStanding

LOOK_SECONDS: Final = 1.0
FLUSH_SECONDS: Final = 2.0
_PATIENCE_SECONDS: Final = 3.0  # a look that takes longer is not waited for
# An order that has not become a debt by then never will: its call is over.
_EXPECTED_SECONDS: Final = 120
# A row says when its order came; it is there once the order was read and stored.
_OVERLAP_SECONDS: Final = 120

_log = logging.getLogger(__name__)


class Held:
    """A subscriber with its standing, which changes at whole minutes only."""

    __slots__ = ("_minute", "_standing", "overrides", "subject", "subscriber")

    def __init__(self, subscriber: Subscriber, overrides: Iterable[Override]) -> None:
        self.subscriber, self.subject = subscriber, subscriber.subject
        self.overrides = tuple(each for each in overrides if each.subject == self.subject)
        self._minute, self._standing = -1, None  # type: int, Standing | None

    def standing(self, now: int) -> Standing:
        if self._standing is None or now // 60 != self._minute:
            self._minute, self._standing = now // 60, self.subscriber.standing(now)
        return self._standing

    def limit(self, meter: Meter, now: int) -> int | None:
        """What it may use this month, with what was granted on top; None for no end."""
        standing = self.standing(now)
        cap = standing.calls if meter is Meter.CALLS else standing.stream_seconds
        return lifted(cap, self.overrides, meter, now) if self.overrides else cap


class SubscriberGate:
    """One per gateway. `start` before the first call; but for it and `refresh`, look-ups."""

    def __init__(
        self,
        store: Store,
        quotas: Quotas,
        issue: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`issue` writes the invoices that are due (blocking)."""
        self.quotas = quotas
        self.limiter = RateLimiter()
        self._store, self._issue, self._clock = store, issue, clock
        self._by_hash: dict[str, Held] = {}
        self._by_id: dict[str, Held] = {}
        self._overrides: list[Override] = []
        self._pending: set[str] = set()
        # Payments of orders under way: (subscription, until when to look for it).
        self._expected: dict[str, tuple[str, int]] = {}
        self._looked_at = 0
        self._reading = asyncio.Lock()  # what was read first is taken first
        self._shared = store.engine.dialect.name == "postgresql"
        self._waiting: list[asyncio.Future[None]] = []  # for the next look
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.quotas.load(int(self._clock()))
        await self.load()
        await self._tell()
        self._task = asyncio.create_task(self._follow(), name="subscribers")

    async def stop(self) -> None:
        """What is not written yet is written."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        with contextlib.suppress(FinanceError):
            await self.limiter.flush(self._store, int(self._clock()))

    # -- the paid path

    def find(self, secret: bytes, listing_id: str) -> Held | None:
        """The subscriber with this key; its key is good for its listing alone. By hash, so
        that the time it takes says nothing about any key."""
        return self.known(hashlib.sha256(secret).hexdigest(), listing_id)

    async def find_soon(self, secret: bytes, listing_id: str) -> Held | None:
        """The same. Where another process may just have sold it, one look is waited for, which
        all who wait share."""
        held = self.find(secret, listing_id)
        if held is not None or not self._shared:
            return held
        looked = asyncio.get_running_loop().create_future()
        self._waiting.append(looked)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await looked
        return self.find(secret, listing_id)

    def known(self, key_hash: str, listing_id: str) -> Held | None:
        """The subscriber whose key has this hash, of this listing."""
        held = self._by_hash.get(key_hash)
        return held if held is not None and held.subscriber.listing_id == listing_id else None

    def serves(self, subject: str, now: int) -> bool:
        """Whether the subscription still gives something; not how much is left of it."""
        held = self._by_id.get(subject.removeprefix(SUBJECT))
        return held is not None and held.standing(now).served

    def check_rate(self, held: Held, now: int) -> MinuteStanding | None:
        """Count a call of this minute; None without a limit. Raises RateLimited."""
        per_minute = held.standing(now).deal.per_minute
        if per_minute is None:
            return None
        return self.limiter.check(held.subject, per_minute, now)

    async def claim(
        self, held: Held, now: int, meter: Meter = Meter.CALLS, amount: int = 1
    ) -> Reservation:
        """Hold part of the month's quota; where other processes serve from the same one, it may
        wait for a share. Raises QuotaExceeded, StoreUnavailable."""
        limit = held.limit(meter, now)
        return await self.quotas.claim(held.subject, meter, amount, limit, now)

    # -- following the database

    def expect(self, payment_id: str, subscription_id: str) -> None:
        """An order is being made; `settled` is called if its money arrives."""
        until = int(self._clock()) + _EXPECTED_SECONDS
        self._expected[payment_id] = (subscription_id, until)

    async def settled(self, payment_id: str) -> None:
        """A payment has arrived: if it was for a period, that is good from now on."""
        found = self._expected.pop(payment_id, None)
        if found is not None:
            await self.refresh([found[0]])
            await self._tell()

    async def load(self) -> None:
        """Everything, as it is now."""
        now = int(self._clock())
        engine = self._store.engine
        async with self._reading:
            overrides = await asyncio.to_thread(live_overrides, engine, now)
            found = await asyncio.to_thread(read_subscribers, engine)
            self._overrides = [each for each in overrides if each.subject.startswith(SUBJECT)]
            self._looked_at = now
            self._by_hash, self._by_id, self._pending = {}, {}, set()
            self._take(found)

    async def refresh(self, ids: Iterable[str]) -> None:
        """These subscriptions as they are now."""
        wanted = list(ids)
        async with self._reading:
            found = await asyncio.to_thread(read_subscribers, self._store.engine, wanted)
            for each in wanted:
                self._drop(each)
            self._take(found)

    async def look(self) -> None:
        """Take over what was changed since the last look, and what is still undecided."""
        now = int(self._clock())
        since = self._looked_at - _OVERLAP_SECONDS
        changed = await asyncio.to_thread(changed_since, self._store.engine, since)
        self._expected = {key: each for key, each in self._expected.items() if each[1] > now}
        pending = set(self._pending).union(each[0] for each in self._expected.values())
        if changed or pending:
            await self.refresh({*changed, *pending})
        self._looked_at = now
        if pending - self._pending:
            await self._tell()

    def _take(self, found: Iterable[Subscriber]) -> None:
        for each in found:
            if each.pending:
                self._pending.add(each.id)
            if each.settled:
                held = Held(each, self._overrides)
                self._by_hash[each.key_hash] = self._by_id[each.id] = held

    def _drop(self, subscription_id: str) -> None:
        self._pending.discard(subscription_id)
        held = self._by_id.pop(subscription_id, None)
        if held is not None:
            self._by_hash.pop(held.subscriber.key_hash, None)

    async def _tell(self) -> None:
        """Invoices can wait, answers cannot."""
        try:
            await asyncio.to_thread(self._issue)
        except SQLAlchemyError as error:
            _log.warning("invoices cannot be written now: %s", error)

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        flushed = loop.time()  # also while the clock is set back
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            waiting, self._waiting = self._waiting, []
            try:
                await self.look()
                if loop.time() - flushed >= FLUSH_SECONDS:
                    flushed = loop.time()
                    await self.limiter.flush(self._store, int(self._clock()))
            except (FinanceError, SQLAlchemyError) as error:
                _log.warning("subscriptions cannot be followed now: %s", error)
            for looked in waiting:
                if not looked.done():
                    looked.set_result(None)
