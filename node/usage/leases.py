"""Shares of a quota, for several processes on one database: none passes it, and calls wait
for the database only at its end.

A process decides in memory within its share, and asks for more when that is used up: a
sixteenth of what is left while there is much, near the end exactly what its waiting calls
need. Grants follow each other (one row is locked), and each looks at what was used and at
what others hold, so that shares and use together never pass the limit. What a process does
not need goes back every few seconds; the share of one that died, once it counts as gone. One that
may count as gone while it lives uses nothing of its shares: it asks anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from finance.errors import StoreUnavailable
from node.db.engine import writer
from node.db.presence import Presence

NEAR: Final = 1_000  # with less than this left, shares are as small as they can be
PART: Final = 16
EMPTY_SECONDS: Final = 1.0  # how long "nothing is left" is believed

# With what is counted of a quota: the share it came from.
ADD_TO_LEASED_QUOTA = text(
    "WITH lease AS (UPDATE quota_lease SET used = used + :used WHERE subject = :holder"
    " AND meter = :meter AND window_start = :window_start AND owner = :owner)"
    " INSERT INTO quota_usage (subject, meter, window_start, used)"
    " VALUES (:subject, :meter, :window_start, :used)"
    " ON CONFLICT (subject, meter, window_start)"
    " DO UPDATE SET used = quota_usage.used + excluded.used"
)
TAKE_BACK_LEASED = text(
    "WITH lease AS (UPDATE quota_lease SET used = used - :amount WHERE subject = :holder"
    " AND meter = :meter AND window_start = :window_start AND owner = :owner)"
    " UPDATE quota_usage SET used = used - :amount WHERE subject = :subject AND meter = :meter"
    " AND window_start = :window_start AND used >= :amount"
)
_QUEUE_UP = text(
    "INSERT INTO quota_lease (subject, meter, window_start, owner, allowed, used)"
    " VALUES (:subject, :meter, :window_start, 0, 0, 0) ON CONFLICT DO NOTHING"
)
_HOLD = text(
    "SELECT 1 FROM quota_lease WHERE subject = :subject AND meter = :meter"
    " AND window_start = :window_start AND owner = 0 FOR UPDATE"
)
_OWNERS = text(
    "SELECT owner FROM quota_lease WHERE subject = :subject AND meter = :meter"
    " AND window_start = :window_start AND owner <> 0"
)
# One statement, so that use and shares are of one moment. Owner 0 is what was used.
_STANDING = text(
    "SELECT 0 AS owner, COALESCE(SUM(used), 0) AS amount FROM quota_usage"
    " WHERE window_start = :window_start AND meter = :meter"
    " AND (subject = :subject OR (:shared AND starts_with(subject, :subject)))"
    " UNION ALL SELECT owner, allowed - used FROM quota_lease WHERE subject = :subject"
    " AND meter = :meter AND window_start = :window_start AND owner <> 0"
)
_GRANT = text(
    "INSERT INTO quota_lease (subject, meter, window_start, owner, allowed, used)"
    " VALUES (:subject, :meter, :window_start, :owner, :amount, 0)"
    " ON CONFLICT (subject, meter, window_start, owner)"
    " DO UPDATE SET allowed = quota_lease.allowed + excluded.allowed"
)
_FORGET = text("DELETE FROM quota_lease WHERE owner = ANY(:owners) AND owner <> 0")
_FORGET_OLD = text("DELETE FROM quota_lease WHERE window_start < :before")


class Holder(NamedTuple):
    """Whose limit it is: a subject, or all of a kind (`key:`); its meter and month."""

    subject: str
    meter: str
    window_start: int


class _Share:
    __slots__ = ("asking", "empty_until", "left", "near", "spent", "used", "wanted")

    def __init__(self) -> None:
        self.left = 0  # of what this process may use
        self.wanted = 0  # by calls that wait
        self.spent = 0  # since the last tidying
        self.used = 0  # by everybody, as last seen
        self.near = False
        self.empty_until = 0.0
        self.asking = asyncio.Lock()


class Leases:
    """The shares of one process, used on its event loop. PostgreSQL only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._presence = Presence(engine)
        self._shares: defaultdict[Holder, _Share] = defaultdict(_Share)
        self._showing = asyncio.Lock()

    @property
    def owner(self) -> int:
        return self._presence.number

    async def start(self, window_start: int) -> None:
        """Be seen by the others; months that are over are forgotten."""
        await asyncio.to_thread(self._presence.show)
        await asyncio.to_thread(self._run, _FORGET_OLD, {"before": window_start - 40 * 86_400})

    async def stop(self) -> None:
        """Everything that is left goes back."""
        for holder, share in list(self._shares.items()):
            await self._give_back(holder, share, share.left)
        await asyncio.to_thread(self._presence.leave)

    def take(self, holder: Holder, amount: int) -> bool:
        """Use some of the share; False when there is too little. Only a look-up."""
        share = self._shares[holder]
        if share.left < amount or self._presence.doubted:
            return False
        share.left -= amount
        share.spent += amount
        return True

    def put_back(self, holder: Holder, amount: int) -> None:
        """What was taken is not needed, or more than was taken (negative)."""
        self._shares[holder].left += amount

    def used(self, holder: Holder) -> int:
        """By everybody, as last seen."""
        return self._shares[holder].used

    async def ask(self, holder: Holder, amount: int, limit: int) -> bool:
        """Make room for `amount` more below the limit, and use it; False when nothing is left.
        Calls that wait together ask together. Raises StoreUnavailable."""
        share = self._shares[holder]
        share.wanted += amount
        try:
            async with share.asking:
                short = share.left < amount or self._presence.doubted
                if short and time.monotonic() >= share.empty_until:
                    await self._refill(holder, share, limit)
                return self.take(holder, amount)
        finally:
            share.wanted -= amount

    async def tidy(self) -> None:
        """Give back what is not needed; every few seconds."""
        await self._be_seen()
        for holder, share in list(self._shares.items()):
            keep = 0 if share.near else 2 * share.spent
            share.spent = 0
            if share.left > keep and not share.asking.locked():
                async with share.asking:
                    await self._give_back(holder, share, share.left - keep)

    async def _be_seen(self) -> None:
        """Go on with our shares, or without, where others may have them by now. Raises
        SQLAlchemyError."""
        async with self._showing:
            if self._presence.doubted:
                for share in self._shares.values():
                    share.left = 0
                await asyncio.to_thread(self._run, _FORGET, {"owners": [self.owner]})
            await asyncio.to_thread(self._presence.show)

    async def _refill(self, holder: Holder, share: _Share, limit: int) -> None:
        try:
            if self._presence.doubted:
                await self._be_seen()
            missing = max(share.wanted - share.left, 1)
            granted, used, free = await asyncio.to_thread(self._grant, holder, missing, limit)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"what is left of a quota cannot be read: {error}") from error
        share.left += granted
        share.used, share.near = used, free <= NEAR
        if not granted:
            share.empty_until = time.monotonic() + EMPTY_SECONDS

    def _grant(self, holder: Holder, missing: int, limit: int) -> tuple[int, int, int]:
        """(granted, used by everybody, what was left before), in one transaction."""
        key = holder._asdict()
        with writer(self._engine).begin() as connection:
            connection.execute(_QUEUE_UP, key)
            connection.execute(_HOLD, key)
            used, held = self._standing(connection, key)
            free = limit - used - held
            granted = max(min(free, missing if free <= NEAR else max(missing, free // PART)), 0)
            if granted:
                connection.execute(_GRANT, {**key, "owner": self.owner, "amount": granted})
        return granted, used, free

    def _standing(self, connection: Connection, key: Mapping[str, Any]) -> tuple[int, int]:
        """What was used, and what is held by processes that live.

        Who is gone is asked first: all that it used is on disk then, and counted as used.
        """
        owners = set(connection.execute(_OWNERS, key).scalars())
        departed = self._presence.departed(owners)
        whole = {**key, "shared": key["subject"].endswith(":")}
        rows = {row[0]: int(row[1]) for row in connection.execute(_STANDING, whole)}
        used = rows.pop(0)
        if departed:
            connection.execute(_FORGET, {"owners": list(departed)})
        return used, sum(max(rows[owner], 0) for owner in rows.keys() - departed)

    async def _give_back(self, holder: Holder, share: _Share, amount: int) -> None:
        if amount <= 0:
            return
        share.left -= amount  # before the others may have it
        given = {**holder._asdict(), "owner": self.owner, "amount": -amount}
        await asyncio.to_thread(self._run, _GRANT, given)

    def _run(self, statement: Any, values: Mapping[str, Any]) -> None:
        with writer(self._engine).begin() as connection:
            connection.execute(statement, values)


def open_leases(engine: Engine) -> Leases | None:
    """None where a data directory has one process, whose memory knows everything."""
    return Leases(engine) if engine.dialect.name == "postgresql" else None
