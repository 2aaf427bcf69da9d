"""A call of a subscriber: counted on its plan instead of paid, while the plan gives something.

Key, minute and quota are decided in memory; what is delivered is counted in one commit with
the row of the call, before the answer leaves. Nothing is ever taken twice: who has a plan
and sends a payment as well keeps the payment for later.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sqlalchemy import text

from finance.errors import FinanceError
from finance.selling.admission import is_delivery
from finance.store import Batch, Write
from node.gateway.desk import Desk, Refused, framed, with_length
from node.gateway.forward import Answer, UpstreamError
from node.gateway.headers import to_caller
from node.gateway.match import Match
from node.gateway.request import Call, CallerGone
from node.gateway.stream_events import EVENTS_SECONDS, give_events
from node.gateway.stream_socket import SocketCall
from node.gateway.voucher import send_all
from node.plans.gate import Held, SubscriberGate
from node.plans.terms import Beyond
from node.problems import Headers
from node.usage.quotas import Meter, QuotaExceeded, Reservation
from node.usage.rates import RateLimited

SCHEME: Final = "plan"
WAYS_STOP: Final = ("wait", "upgrade_plan", "ask_override")

_BROKEN = text("UPDATE call SET error = 'upstream_failed' WHERE id = :id")


class PayInstead(Exception):
    """The plan gives nothing now: the call is paid like anybody's. `code` says why, empty
    where no plan holds at all."""

    def __init__(self, code: str = "") -> None:
        super().__init__(code)
        self.code = code


async def serve_subscriber(desk: Desk, gate: SubscriberGate, call: Call, match: Match) -> None:
    """Serve from the plan. Raises PayInstead, Refused, and what fetching and storing raise."""
    held = gate.find(call.key or b"", match.listing.id)
    if held is None:
        raise Refused("subscription_key_invalid")
    if not held.standing(call.at).served:
        raise PayInstead
    pace = _check_pace(gate, held, call.at)
    reservation = await _reserve(gate, held, call)
    try:
        await _serve_reserved(desk, call, match, held, reservation, pace)
    finally:
        if not reservation.committed:
            reservation.release()


def _check_pace(gate: SubscriberGate, held: Held, now: int) -> Headers:
    try:
        standing = gate.check_rate(held, now)
    except RateLimited as limited:
        raise Refused("rate_limited", limited.headers(), str(limited)) from None
    return [] if standing is None else standing.headers()


async def _reserve(gate: SubscriberGate, held: Held, call: Call) -> Reservation:
    try:
        if _opens_stream(call):
            # Time is counted as it passes; a stream begins while any is left.
            (await gate.claim(held, call.at, Meter.STREAM_SECONDS, 1)).release()
        return await gate.claim(held, call.at)
    except QuotaExceeded as full:
        if held.standing(call.at).deal.beyond is Beyond.PAY:
            raise PayInstead(full.code) from None
        raise _refused(full) from None


def _refused(full: QuotaExceeded) -> Refused:
    until = datetime.fromtimestamp(full.resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    detail = f"{full} It begins anew on {until}. Until then: wait, upgrade, or ask for an override."
    return Refused(
        full.code,
        detail=detail,
        meter=full.meter.value,
        used=full.used,
        limit=full.limit,
        resets_at=full.resets_at,
        ways=WAYS_STOP,
    )


def _opens_stream(call: Call) -> bool:
    """A handshake, or a request that asks for events."""
    if isinstance(call, SocketCall):
        return True
    return any(name == b"accept" and b"text/event-stream" in value for name, value in call.headers)


async def _serve_reserved(
    desk: Desk, call: Call, match: Match, held: Held, reservation: Reservation, pace: Headers
) -> None:
    answer, later = await desk.forwarder.fetch(call, match), False
    try:
        if answer.is_events:
            await answer.read_for(EVENTS_SECONDS, 0)
        if not is_delivery(answer.status):
            reservation.release()
            await desk.pass_on(call, match, answer, held.subject, SCHEME)
            return
        if call.is_gone():
            raise CallerGone
        headers = [*_headers(match, answer), *pace]
        await _count(desk, call, match, held, reservation, answer)
        if answer.complete:
            await call.answer(answer.status, framed(call, answer, headers), answer.head)
            return
        headers = with_length(headers, answer.length)
        if answer.is_events:
            later = True
            await give_events(desk.streams, call, match, answer, headers, held.subject)
        else:
            await _give_long(desk, call, reservation, answer, headers)
    finally:
        if not later:
            answer.close()


async def _count(
    desk: Desk, call: Call, match: Match, held: Held, reservation: Reservation, answer: Answer
) -> None:
    """On disk: the call, and that it was taken from the quota."""
    call.subject = held.subject
    record = desk.record(call, match, answer.status, len(answer.head), held.subject, SCHEME)
    counted = [record.increment(), reservation.commit()]
    try:
        await desk.seller.store.commit(Batch([record.write()], counted))
    except FinanceError:
        reservation.release()
        raise


async def _give_long(
    desk: Desk, call: Call, reservation: Reservation, answer: Answer, headers: Headers
) -> None:
    """A long answer is counted before its first byte, and taken back if it breaks off."""
    try:
        await send_all(call, answer, headers)
    except UpstreamError:
        broken = Write(_BROKEN, {"id": call.id}, rows=None)
        await desk.seller.store.commit(Batch([broken, reservation.take_back()]))
        raise


def _headers(match: Match, answer: Answer) -> Headers:
    assert match.route is not None
    return to_caller(answer.raw_headers, match.route.upstream, paid=True)
