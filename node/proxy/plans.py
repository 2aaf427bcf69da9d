"""Calls that a subscription covers: its key is shown first, money only if that is not enough.

A listing without one costs a look-up per call, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import Engine

from finance.errors import PaymentMalformed
from finance.store import Write
from finance.x402.wire import PAYMENT_REQUIRED_HEADER, decode_required
from node.lines.events import asks_for_events
from node.lines.pool import Answer as Received
from node.plans.buying.keys import HeldKey, Unseal, load_held
from node.proxy.errors import PaymentImpossible, ProxyError
from node.proxy.seller import read_up_to
from node.proxy.sources import Source
from node.usage.quotas import METER_HEADER, Meter, begins_anew

if TYPE_CHECKING:
    from node.proxy.call import Request

KEY_HEADER: Final = b"farebox-key"
SCHEME: Final = "plan"
# A seller may lift the quota before it begins anew: it is asked again after so long.
_AGAIN_SECONDS: Final = 60
_PROBLEM_BYTES: Final = 16 << 10
_GONE: Final = "quota_exceeded"
_UNKNOWN_KEY: Final = "subscription_key_invalid"

SendWithKey = Callable[["Request", bytes], Awaitable[Received]]


@dataclass(frozen=True, slots=True)
class Ordered:
    """A call that buys a stretch of a plan. Above `most_atoms` nothing is signed, nor where
    `guard` does not hold any more; `secret` is the subscription's, where there is one already."""

    most_atoms: int
    secret: bytes | None = field(default=None, repr=False)
    guard: Write | None = None

    def check(self, price_atoms: int) -> None:
        """Raises PaymentImpossible for more than what was agreed to."""
        if price_atoms > self.most_atoms:
            raise PaymentImpossible(
                "price_above_agreed",
                "The seller asks for more than what was agreed to; nothing was paid.",
                asked_atoms=price_atoms,
                agreed_atoms=self.most_atoms,
            )


@dataclass(frozen=True, slots=True)
class Covered:
    """A seller's answer to a key. `start`: its whole body, where it was looked into."""

    answer: Received
    start: bytes | None = None


class PlanKeys:
    """The keys this node holds, by listing. `doubted`: subscriptions a seller did not know as
    they stand here; whoever keeps them asks it soon."""

    def __init__(
        self, engine: Engine, unseal: Unseal, clock: Callable[[], float] = time.time
    ) -> None:
        self._engine, self._unseal, self._clock = engine, unseal, clock
        self._held: Mapping[str, HeldKey] = {}
        self.doubted: set[str] = set()

    async def reload(self) -> None:
        """Take over what was bought, renewed or ended."""
        self._held = await asyncio.to_thread(load_held, self._engine, self._unseal)

    def find(self, source: Source) -> HeldKey | None:
        """The key for a listing; never for another address than it was bought at."""
        held = self._held.get(source.listing_id)
        if held is None or held.base != source.base or not held.standing.served(self._now):
            return None
        return held

    async def cover(self, request: Request, held: HeldKey, send: SendWithKey) -> Covered | None:
        """The seller's answer by the plan; None where the call is to be paid like every other.
        Raises PaymentImpossible at the end of the quota, where that is to be told."""
        if self._now < max(held.doubted_until, _gone_until(request, held)):
            self._refuse_unless_paid(request, held)
            return None
        answer = await send(request, held.secret)
        if answer.status == 402:
            await self._refused(request, held, answer)
            return None
        if answer.status != 401 or not _is_problem(answer):
            return Covered(answer)
        body = await _short_body(answer)
        if _problem(body).get("code") != _UNKNOWN_KEY:
            return Covered(answer, body)
        self._doubt(request, held)
        return None

    async def _refused(self, request: Request, held: HeldKey, answer: Received) -> None:
        """A 402: the quota is used up, or the seller takes the key for nothing."""
        offer = answer.header(PAYMENT_REQUIRED_HEADER)
        told: Mapping[str, Any] = {}
        if offer is not None:
            answer.close()
            gone = _reason(offer) == _GONE
        else:
            told = _problem(await _short_body(answer))
            gone = told.get("code") == _GONE
        if not gone:
            self._doubt(request, held)
            return
        again = self._now + _AGAIN_SECONDS
        until = min(held.resets_at or again, again)
        meter = told.get("meter") or (answer.header(METER_HEADER) or b"").decode("latin-1")
        # Hours of streams and calls have each their own quota. Who does not say which is used up
        # may mean the hours, of a request for a stream.
        if meter == Meter.STREAM_SECONDS or (meter != Meter.CALLS and _is_stream(request)):
            held.streams_gone_until = until
        else:
            held.gone_until = until
        if offer is None or not held.pays:
            raise _quota_refused(held, told)

    def _doubt(self, request: Request, held: HeldKey) -> None:
        """The seller does not take the key. A seller could say so to be paid twice: whoever
        wants nothing paid beyond the plan is not made to pay by it."""
        self.doubted.add(held.subscription_id)
        held.doubted_until = self._now + _AGAIN_SECONDS
        self._refuse_unless_paid(request, held)

    def _refuse_unless_paid(self, request: Request, held: HeldKey) -> None:
        if held.pays:
            return
        if self._now < _gone_until(request, held):
            raise _quota_refused(held, {})
        sentence = "The seller does not take the subscription's key; it is being asked why."
        raise PaymentImpossible("subscription_refused", sentence, subscription=held.subscription_id)

    @property
    def _now(self) -> int:
        return int(self._clock())


def _is_stream(request: Request) -> bool:
    """Whether it asks for what a quota of stream hours is for."""
    return request.handshake is not None or asks_for_events(request.headers)


def _gone_until(request: Request, held: HeldKey) -> int:
    streams = held.streams_gone_until
    return max(held.gone_until, streams) if streams and _is_stream(request) else held.gone_until


def _quota_refused(held: HeldKey, told: Mapping[str, Any]) -> PaymentImpossible:
    """What an app is told: nothing is paid for this by accident."""
    resets_at = told.get("resets_at")
    resets = resets_at if isinstance(resets_at, int) else held.resets_at
    known = {name: told[name] for name in ("meter", "used", "limit") if name in told}
    return PaymentImpossible(
        _GONE,
        f"The subscription's quota is used up. {begins_anew(min(max(resets, 0), 10**11))} or ask"
        " the operator of this node to upgrade the plan, ask for an override, or let calls"
        " beyond the quota be paid one by one.",
        resets_at=resets,
        subscription=held.subscription_id,
        ways=["wait", "upgrade_plan", "ask_override", "pay_per_call"],
        **known,
    )


def _is_problem(answer: Received) -> bool:
    kind = answer.header(b"content-type") or b""
    short = answer.length is not None and answer.length <= _PROBLEM_BYTES
    return short and kind.startswith(b"application/problem+json")


async def _short_body(answer: Received) -> bytes:
    try:
        body, _ = await read_up_to(answer, _PROBLEM_BYTES)
    except ProxyError:
        return b""
    finally:
        answer.close()
    return body


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(offer: bytes) -> str:
    try:
        return decode_required(offer).error or ""
    except PaymentMalformed:
        return ""
