"""What a consumer key may do now: its listings, its calls a minute, and what is left of the
month's quota. Only integrators have a quota; internal keys are counted nowhere.

All of it is decided in memory. What was seen and refused is written in batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final

from sqlalchemy import bindparam, update
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import col

from finance.errors import FinanceError
from finance.store import Batch, Store, Write
from node.preferences import read_preference
from node.proxy.errors import PaymentImpossible, RequestRefused
from node.usage.keys import KeyRecord
from node.usage.models import ConsumerKey
from node.usage.overrides import Override, lifted, live_overrides
from node.usage.quotas import (
    Meter,
    QuotaExceeded,
    Quotas,
    Reservation,
    begins_anew,
    key_subject,
)
from node.usage.rates import RateLimited, RateLimiter, Standing
from node.usage.tiers import UsageTiers

FLUSH_SECONDS: Final = 2.0
WAYS: Final = ("wait", "upgrade_tier", "ask_override")

_SEEN = (
    update(ConsumerKey)
    .where(col(ConsumerKey.id) == bindparam("key_id"))
    .values(last_used_at=bindparam("seen_at"))
)
_log = logging.getLogger(__name__)


class Gate:
    """One per proxy. `start` and `stop` belong to it; everything else is a look-up."""

    def __init__(self, store: Store, quotas: Quotas, limiter: RateLimiter | None = None) -> None:
        self.quotas = quotas
        self._store = store
        self._limiter = limiter or RateLimiter()
        self._quotas = _quotas(UsageTiers())
        self._overrides: list[Override] = []
        self._seen: dict[str, int] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.quotas.load(int(time.time()))
        self._flushing = asyncio.create_task(self._keep_flushing())

    async def stop(self) -> None:
        """What is not written yet is written."""
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        await self._flush()

    async def reload(self) -> None:
        """Take over changed tiers and overrides."""
        engine = self._store.engine
        self._quotas = _quotas(await asyncio.to_thread(read_preference, engine, UsageTiers))
        self._overrides = await asyncio.to_thread(live_overrides, engine, int(time.time()))

    def admit(self, key: KeyRecord, now: int) -> Standing | None:
        """Note that the key was seen; where it stands in its minute, None without a limit.
        Raises RequestRefused (429)."""
        self._seen[key.id] = now
        if key.per_minute is None:
            return None
        try:
            return self._limiter.check(key.subject, key.per_minute, now)
        except RateLimited as limited:
            refused = RequestRefused(limited.code, str(limited), retry_after=limited.retry_after)
            refused.headers = limited.headers()
            raise refused from None

    def in_last_minute(self, key_id: str, now: int) -> int:
        """Calls of a key with a limit that passed in the last sixty seconds."""
        return self._limiter.in_last_minute(key_subject(key_id), now)

    def check_scope(self, key: KeyRecord, listing_id: str) -> None:
        """Raises RequestRefused (403) for a listing the key is not for."""
        if key.scopes is not None and listing_id not in key.scopes:
            sentence = "The operator of this node has not given this key the listing."
            raise RequestRefused("listing_out_of_scope", sentence)

    def limit(self, meter: Meter, now: int) -> int | None:
        """What integrators together may use this month; None for no end."""
        quota = self._quotas[meter]
        return lifted(quota, self._overrides, meter, now) if self._overrides else quota

    async def claim(
        self, key: KeyRecord, now: int, meter: Meter = Meter.CALLS, amount: int = 1
    ) -> Reservation | None:
        """Hold part of the month's quota; None for an internal key. Where other processes buy
        within the same one, it may wait for a share. Raises PaymentImpossible (402), which makes
        no x402 offer: nobody pays for this by accident."""
        if not key.integrator:
            return None
        limit = self.limit(meter, now)
        try:
            return await self.quotas.claim(key.subject, meter, amount, limit, now, shared=True)
        except QuotaExceeded as full:
            raise quota_refused(full) from None

    async def _keep_flushing(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._flush()
            try:
                await self.quotas.tidy()
            except SQLAlchemyError as error:
                _log.warning("shares of quotas cannot be given back now: %s", error)

    async def _flush(self) -> None:
        seen, self._seen = self._seen, {}
        try:
            await self._limiter.flush(self._store, int(time.time()))
            if seen:
                await self._store.commit(Batch([_seen(*each) for each in seen.items()]))
        except FinanceError as error:
            self._seen = seen | self._seen
            _log.warning("when keys were seen cannot be written now: %s", error)


def _quotas(tiers: UsageTiers) -> dict[Meter, int]:
    return {meter: tiers.quota(meter) for meter in Meter}


def quota_refused(full: QuotaExceeded) -> PaymentImpossible:
    """What an app is told at the end of its quota: which meter, until when, how to go on."""
    ways = "or ask the operator of this node for a higher tier or an override."
    sentence = f"{full} {begins_anew(full.resets_at)} {ways}"
    return PaymentImpossible(full.code, sentence, **full.told(*WAYS))


def _seen(key_id: str, at: int) -> Write:
    return Write(_SEEN, {"key_id": key_id, "seen_at": at}, rows=None)
