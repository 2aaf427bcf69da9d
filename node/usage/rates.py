"""How many calls a minute: decided in memory, and what is refused is counted in batches.

No more than the limit pass in any sixty seconds, to the second. The names of the headers
are those of draft-ietf-httpapi-ratelimit-headers-07.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import text

from finance.errors import FinanceError
from finance.store import Batch, Increment, Store
from node.problems import Headers
from node.usage.calls import slot_of

MINUTE = 60

ADD_TO_HITS = text(
    "INSERT INTO rate_hits (subject, slot, hits) VALUES (:subject, :slot, :hits)"
    " ON CONFLICT (subject, slot) DO UPDATE SET hits = rate_hits.hits + excluded.hits"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a subject stands after a call: how many more may come now, and in how many seconds
    the next place is free."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> Headers:
        """RateLimit-Limit, -Remaining and -Reset."""
        return [
            (b"ratelimit-limit", b"%d" % self.limit),
            (b"ratelimit-remaining", b"%d" % self.remaining),
            (b"ratelimit-reset", b"%d" % self.reset),
        ]


class RateLimited(Exception):
    """Too many calls within a minute. `retry_after` and `reset` in seconds."""

    code = "rate_limited"

    def __init__(self, limit: int, retry_after: int) -> None:
        super().__init__(f"No more than {limit:,} calls a minute; again in {retry_after} s.")
        self.limit, self.retry_after = limit, retry_after
        self.remaining, self.reset = 0, retry_after

    def headers(self) -> Headers:
        """Retry-After, and those of a standing."""
        standing = Standing(self.limit, 0, self.reset)
        return [(b"retry-after", b"%d" % self.retry_after), *standing.headers()]


class _Minute:
    """The calls of the last sixty seconds, by second."""

    __slots__ = ("last", "seconds", "total")

    def __init__(self, now: int) -> None:
        self.seconds = [0] * MINUTE
        self.total, self.last = 0, now

    def advance(self, now: int) -> None:
        """Forget what is a minute old. A clock that is set back stands still here."""
        for second in range(self.last + 1, min(now, self.last + MINUTE) + 1):
            self.total -= self.seconds[second % MINUTE]
            self.seconds[second % MINUTE] = 0
        self.last = max(now, self.last)

    def wait(self) -> int:
        """Seconds until the oldest call is a minute old."""
        for ago in range(MINUTE - 1, 0, -1):
            if self.seconds[(self.last - ago) % MINUTE]:
                return MINUTE - ago
        return MINUTE


class RateLimiter:
    """The calls of the last minute, per subject; of one process, on its event loop."""

    def __init__(self) -> None:
        self._minutes: dict[str, _Minute] = {}
        self._hits: defaultdict[tuple[str, int], int] = defaultdict(int)

    def check(self, subject: str, per_minute: int, now: int) -> Standing:
        """Count a call, or raise RateLimited and count the refusal."""
        minute = self._minutes.get(subject)
        if minute is None:
            minute = self._minutes[subject] = _Minute(now)
        if minute.last != now:
            minute.advance(now)
        if minute.total >= per_minute:
            self._hits[subject, slot_of(now)] += 1
            raise RateLimited(per_minute, minute.wait())
        minute.total += 1
        minute.seconds[minute.last % MINUTE] += 1
        remaining = per_minute - minute.total
        return Standing(per_minute, remaining, 0 if remaining else minute.wait())

    def in_last_minute(self, subject: str, now: int) -> int:
        """Calls that passed in the last sixty seconds."""
        minute = self._minutes.get(subject)
        if minute is None:
            return 0
        minute.advance(now)
        return minute.total

    async def flush(self, store: Store, now: int) -> None:
        """Write the refusals counted since the last time, and forget who is quiet. A minute that
        lies ahead of a clock which was set back would keep its subject out until then."""
        self._minutes = {
            subject: minute
            for subject, minute in self._minutes.items()
            if abs(now - minute.last) < MINUTE
        }
        hits, self._hits = self._hits, defaultdict(int)
        if not hits:
            return
        increments = [
            Increment(ADD_TO_HITS, (("subject", subject), ("slot", slot)), (("hits", count),))
            for (subject, slot), count in hits.items()
        ]
        try:
            await store.commit(Batch([], increments))
        except FinanceError:
            for key, count in hits.items():
                self._hits[key] += count
            raise
