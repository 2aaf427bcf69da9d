"""One call for a listing: what it must pay, then whichever way it pays."""

from __future__ import annotations

import asyncio
from typing import Any

from finance.errors import (
    ChainError,
    ChannelBusy,
    FinanceError,
    PaymentMalformed,
    PaymentRefused,
    SettlementUnknown,
    StoreConflict,
    StoreUnavailable,
)
from finance.selling.admission import AtRiskExceeded
from finance.selling.answers import fingerprint, identifier_answer_key, is_kept, read_answer
from finance.store import Batch
from finance.x402.offers import Offer
from finance.x402.values import (
    DepositPayment,
    ExactPayment,
    Payment,
    RefundPayment,
    VoucherPayment,
)
from finance.x402.wire import decode_payment
from node.gateway.demo import give_demo
from node.gateway.desk import (
    PAYMENT_RESPONSE,
    RETRY_LATER,
    RETRY_SOON,
    ChannelRefusal,
    Desk,
    Refused,
    Unsettled,
    framed,
)
from node.gateway.forward import Made, UpstreamError
from node.gateway.match import Match
from node.gateway.onchain import give_settled, serve_onchain
from node.gateway.refund import serve_refund
from node.gateway.request import Call
from node.gateway.stream_socket import SocketCall, StreamOpened
from node.gateway.subscriber import PayInstead, serve_subscriber
from node.gateway.voucher import Later, give_bought, serve_voucher
from node.problems import Headers, known_problem

PAYMENT_REQUIRED = b"payment-required"
_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")
_PREFLIGHT: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-max-age", b"7200"),
    (b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
]


async def serve(desk: Desk, call: Call, match: Match) -> None:
    """Serve one call. Raises Refused, and what fetching and storing raise."""
    route = match.route
    if route is None:
        return await preflight(call)
    socket = isinstance(call, SocketCall)
    if socket and (call.demo or (match.listing.demo and not match.listing.paused)):
        raise Refused("demo_without_streams")
    if route.own is not None and route.offer is None:
        return await _serve_own(desk, call, match)
    if call.demo:
        return await give_demo(call, match)
    if match.listing.paused:
        raise Refused("listing_paused", RETRY_LATER)
    if match.listing.demo:
        return await give_demo(call, match)
    if route.offer is None:
        return await _serve_free(desk, call, match)
    beyond: PayInstead | None = None
    if call.key is not None and route.own is None and desk.gate is not None:
        try:
            return await serve_subscriber(desk, desk.gate, call, match)
        except PayInstead as instead:
            beyond = instead
    if desk.seller.paused():
        raise Refused("node_paused", RETRY_LATER)
    offer = route.offer
    if call.payment is None:
        return await give_offer(call, offer, beyond)
    try:
        await _serve_paid(desk, call, match, offer)
    except (PaymentRefused, ChannelRefusal) as refusal:
        await _give_refusal(call, offer, refusal)
    except Unsettled as unsettled:
        await _give_unsettled(call, offer, unsettled)


async def _serve_paid(desk: Desk, call: Call, match: Match, offer: Offer) -> None:
    if call.payments != 1 or call.payment is None:
        raise PaymentMalformed("There is more than one payment in this request.")
    payment = decode_payment(call.payment)
    identifier = None if isinstance(payment.payload, RefundPayment) else payment.payment_identifier
    key = identifier and identifier_answer_key(match.listing.id, identifier)
    try:
        offer.check_accepted(payment)
    except PaymentRefused:
        if await _give_what_it_bought(desk, call, match, offer, payment, key):
            return
        raise
    if key is None:
        later = await _serve_payment(desk, call, match, offer, payment)
    else:
        later = await _serve_identified(desk, call, match, offer, payment, key)
    if later is not None:
        await later


async def _give_what_it_bought(
    desk: Desk, call: Call, match: Match, offer: Offer, payment: Payment, key: str | None
) -> bool:
    """Give the answer once more that this payment has bought, whatever the terms have become
    since; False if it has bought none. `key` is its identifier's."""
    if key is not None and await _give_identified(desk, call, payment, key):
        return True
    match payment.payload:
        case VoucherPayment() as voucher:
            return await give_bought(desk, call, offer.terms, payment, voucher)
        case ExactPayment() | DepositPayment():
            return await give_settled(desk, call, match, payment)
        case RefundPayment():
            return False


async def _serve_identified(
    desk: Desk, call: Call, match: Match, offer: Offer, payment: Payment, key: str
) -> Later | None:
    if key in desk.in_flight:
        raise Refused("payment_in_flight", RETRY_SOON)
    desk.in_flight.add(key)
    try:
        if await _give_identified(desk, call, payment, key):
            return None
        return await _serve_payment(desk, call, match, offer, payment)
    finally:
        desk.in_flight.discard(key)


async def _give_identified(desk: Desk, call: Call, payment: Payment, key: str) -> bool:
    """Answer a payment identifier that has bought its call. Raises Refused for another
    call or payment under the same identifier (law 1), StreamOpened for what was given while
    it came."""
    if not await is_kept(desk.seller.store, key):
        return False
    kept = await asyncio.to_thread(read_answer, desk.seller.store.engine, key)
    if kept is None:
        return False  # its identifier was given back meanwhile
    await call.digest_body()
    asked = fingerprint(call.method, call.target, call.body_digest, payment.raw_digest)
    if kept.fingerprint != asked:
        raise Refused("payment_identifier_conflict")
    if not isinstance(payment.payload, VoucherPayment):
        return False  # whether its money arrived is known to the authorization
    if kept.streamed:
        raise StreamOpened(kept.headers)
    call.id = kept.call_id
    await call.answer(kept.status, kept.headers, kept.body)
    return True


async def _serve_payment(
    desk: Desk, call: Call, match: Match, offer: Offer, payment: Payment
) -> Later | None:
    match payment.payload:
        case VoucherPayment() as voucher:
            return await serve_voucher(desk, call, match, offer.terms, payment, voucher)
        case ExactPayment() | DepositPayment():
            return await serve_onchain(desk, call, match, payment)
        case RefundPayment() as refund:
            await serve_refund(desk, call, offer.terms, refund)
            return None


async def _serve_free(desk: Desk, call: Call, match: Match) -> None:
    try:
        answer = await desk.forwarder.fetch(call, match)
        try:
            await desk.pass_on(call, match, answer)
        finally:
            answer.close()
    except UpstreamError as error:
        desk.book_failure(call, match, error)
        raise


async def _serve_own(desk: Desk, call: Call, match: Match) -> None:
    """What this node gives for free of its own: no call of the upstream, so none in the books."""
    assert match.route is not None and match.route.own is not None
    answer = await match.route.own(call)
    if answer.writes:
        await desk.seller.store.commit(Batch(list(answer.writes)))
    if answer.after is not None:
        body = await answer.after()
        answer = answer if body is None else Made(answer.status, answer.raw_headers, body)
    await call.answer(
        answer.status, framed(call, answer, [*answer.raw_headers, _NO_STORE]), answer.head
    )


async def give_offer(call: Call, offer: Offer, beyond: PayInstead | None) -> None:
    """402 with the price; nothing was asked, nothing is stored. `beyond`: why a plan does not
    do."""
    if beyond is None or not beyond.code:
        return await _give_402(call, offer.header, offer.body)
    header, body = offer.required_header(beyond.code), offer.required_body(beyond.code)
    return await _give_402(call, header, body, beyond.headers)


async def _give_refusal(call: Call, offer: Offer, refusal: PaymentRefused | ChannelRefusal) -> None:
    """402 with a fresh offer and the reason, so that clients can mend their payment."""
    if isinstance(refusal, ChannelRefusal):
        state, voucher = refusal.channel.wire_state(), refusal.channel.voucher_state()
        code = refusal.cause.code
        header = offer.required_header(code, state, voucher)
        return await _give_402(call, header, offer.required_body(code, state, voucher))
    more = RETRY_SOON if isinstance(refusal, ChannelBusy) else []
    header = offer.required_header(refusal.code)
    return await _give_402(call, header, offer.required_body(refusal.code), more)


async def _give_unsettled(call: Call, offer: Offer, unsettled: Unsettled) -> None:
    """The receipt of a payment that failed, or is still open: then paying again is wrong."""
    receipt = (PAYMENT_RESPONSE, unsettled.receipt)
    if isinstance(unsettled.cause, SettlementUnknown):
        return await give_problem(call, "settlement_pending", [receipt, *RETRY_LATER])
    code = unsettled.cause.code
    header, body = offer.required_header(code), offer.required_body(code)
    return await _give_402(call, header, body, [receipt])


async def _give_402(call: Call, header: bytes, body: bytes, more: Headers | None = None) -> None:
    headers = [
        _JSON,
        (b"content-length", b"%d" % len(body)),
        _NO_STORE,
        (PAYMENT_REQUIRED, header),
        *(more or []),
    ]
    await call.answer(402, headers, body)


async def preflight(call: Call) -> None:
    """CORS, answered here: the upstream would do work for it that nobody paid."""
    asked = b"*"
    for name, value in call.headers:
        if name == b"access-control-request-headers":
            asked = value
    headers = [*_PREFLIGHT, (b"access-control-allow-headers", asked), (b"content-length", b"0")]
    await call.answer(204, headers[:-1], b"")


async def give_problem(
    call: Call,
    code: str,
    headers: Headers | None = None,
    detail: str | None = None,
    **extra: Any,
) -> None:
    """Answer with a problem document; `extra` are its own members."""
    status, body, own = known_problem(code, detail, call_id=call.id, **extra)
    await call.answer(status, [*own, *(headers or [])], body)


def problem_of(error: FinanceError) -> tuple[str, Headers]:
    """The problem for what finance raises on the paid path."""
    match error:
        case StoreUnavailable():
            return "store_unavailable", RETRY_LATER
        case StoreConflict():
            return "changed_meanwhile", []
        case AtRiskExceeded():
            return "amount_at_risk_exceeded", RETRY_SOON
        case ChainError():
            return "chain_unavailable", RETRY_LATER
        case _:
            return "internal_error", []
