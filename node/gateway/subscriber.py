"""A call of a subscriber: counted on its plan instead of paid, while the plan gives something.

Key, minute and quota are decided in memory; what is delivered is counted in one commit with
the row of the call, before the answer leaves. Nothing is ever taken twice: who has a plan
and sends a payment as well keeps the payment for later.
"""

from __future__ import annotations

from typing import Final

from msgspec import structs
from sqlalchemy import text

from finance.errors import FinanceError
from finance.selling.admission import is_delivery
from finance.store import Batch, Write
from node.gateway.desk import RETRY_LATER, Desk, Refused, framed, with_length
from node.gateway.forward import Answer, UpstreamError
from node.gateway.headers import to_caller
from node.gateway.match import Match
from node.gateway.request import Call, CallerGone
from node.gateway.stream_events import EVENTS_SECONDS, give_events
from node.gateway.stream_socket import SocketCall
from node.gateway.voucher import send_all
from node.lines.events import asks_for_events
from node.plans.gate import Held, SubscriberGate
from node.plans.terms import Beyond
from node.problems import PROBLEMS, Headers
from node.usage.calls import replaced
from node.usage.quotas import METER_HEADER, Meter, QuotaExceeded, Reservation, begins_anew
from node.usage.rates import RateLimited

SCHEME: Final = "plan"
WAYS_STOP: Final = ("wait", "upgrade_plan", "ask_override")
_ASK_BY_NAME: Final = "upgrade, or say `Accept: text/event-stream` and pay for this one."

_END = text(
    "UPDATE call SET status = :status, error = :error, bytes_out = :bytes_out WHERE id = :id"
)


class PayInstead(Exception):
    """The plan gives nothing now: the call is paid like anybody's. `code` and `headers` say
    why, empty where no plan holds at all."""

    def __init__(self, code: str = "", headers: Headers | None = None) -> None:
        super().__init__(code)
        self.code, self.headers = code, headers or []


async def serve_subscriber(desk: Desk, gate: SubscriberGate, call: Call, match: Match) -> None:
    """Serve from the plan. Raises PayInstead, Refused, and what fetching and storing raise.

    Also while a balance is low: its month is paid for already, and its calls take nothing to
    the chain, which is what a node without gas must not take on. An operator who pauses by
    hand, and books of a backup that the chain has not confirmed yet, stop everybody.
    """
    if desk.seller.closed():
        raise Refused("node_paused", RETRY_LATER)
    held = await gate.find_soon(call.key or b"", match.listing.id)
    if held is None:
        raise Refused("subscription_key_invalid")
    if not held.standing(call.at).served:
        raise PayInstead
    reservation = await _reserve(gate, held, call)
    try:
        # Of what the plan gives: what is paid beyond it comes as fast as anybody's.
        pace = _check_pace(gate, held, call.at)
        await _serve_reserved(desk, gate, call, match, held, reservation, pace)
    except UpstreamError as error:
        desk.book_failure(call, match, error, held.subject, SCHEME)
        raise
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
            await _check_time(gate, held, call)
        return await gate.claim(held, call.at)
    except QuotaExceeded as full:
        raise _beyond(held, call, full) from None


async def _check_time(gate: SubscriberGate, held: Held, call: Call) -> None:
    """Time is counted as it passes; a stream begins while any is left. Raises QuotaExceeded."""
    (await gate.claim(held, call.at, Meter.STREAM_SECONDS, 1)).release()


def _beyond(held: Held, call: Call, full: QuotaExceeded) -> PayInstead | Refused:
    if held.standing(call.at).deal.beyond is Beyond.PAY:
        return PayInstead(full.code, [(METER_HEADER, full.meter.value.encode())])
    return _refused(full)


def _refused(full: QuotaExceeded, how: str = "upgrade, or ask for an override.") -> Refused:
    detail = f"{full} {begins_anew(full.resets_at)} {how}"
    return Refused(full.code, detail=detail, **full.told(*WAYS_STOP))


def _opens_stream(call: Call) -> bool:
    """A handshake, or a request that asks for events."""
    return isinstance(call, SocketCall) or asks_for_events(call.headers)


async def _check_unannounced(gate: SubscriberGate, held: Held, call: Call) -> None:
    """An answer turned out to be a stream that nobody had asked for by name: the hours are for
    that, too. Where such a one can be paid, the upstream is asked again by who pays for it; what
    it was sent has to be there still. Raises Refused, PayInstead."""
    try:
        await _check_time(gate, held, call)
    except QuotaExceeded as full:
        beyond = _beyond(held, call, full)
        if isinstance(beyond, PayInstead) and call.payment is not None and call.streams_body:
            raise _refused(full, _ASK_BY_NAME) from None
        raise beyond from None


async def _serve_reserved(
    desk: Desk,
    gate: SubscriberGate,
    call: Call,
    match: Match,
    held: Held,
    reservation: Reservation,
    pace: Headers,
) -> None:
    answer, later = await desk.forwarder.fetch(call, match), False
    try:
        if answer.is_events:
            if not _opens_stream(call):
                await _check_unannounced(gate, held, call)
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
    except UpstreamError as error:
        status = PROBLEMS[error.code][0]
        await _book_end(desk, call, [reservation.take_back()], status=status, error=error.code)
        raise
    await _book_end(desk, call, [])


async def _book_end(desk: Desk, call: Call, also: list[Write], **outcome: object) -> None:
    """How much of a long answer was given, and how that ended otherwise than it began."""
    assert call.booked is not None
    ended = structs.replace(call.booked, bytes_out=call.sent, **outcome)
    row = {name: getattr(ended, name) for name in ("id", "status", "error", "bytes_out")}
    writes = [Write(_END, row, rows=None), *also]
    await desk.seller.store.commit(Batch(writes, replaced(call.booked, ended)))


def _headers(match: Match, answer: Answer) -> Headers:
    assert match.route is not None
    return to_caller(answer.raw_headers, match.route.upstream, paid=True)
