"""One call for a listing: what it must pay, then whichever way it pays."""

from __future__ import annotations

from finance.errors import (
    ChannelBusy,
    FinanceError,
    PaymentMalformed,
    PaymentRefused,
    RpcUnavailable,
    SettlementFailed,
    SettlementUnknown,
    StoreUnavailable,
)
from finance.selling.admission import AtRiskExceeded
from finance.x402.offers import Offer
from finance.x402.values import DepositPayment, ExactPayment, RefundPayment, VoucherPayment
from finance.x402.wire import decode_payment
from node.gateway.desk import Desk
from node.gateway.match import Match
from node.gateway.request import Call
from node.gateway.voucher import ChannelRefusal, serve_voucher
from node.problems import Headers, known_problem

PAYMENT_REQUIRED = b"payment-required"
RETRY_SOON: Headers = [(b"retry-after", b"1")]
RETRY_LATER: Headers = [(b"retry-after", b"5")]
_JSON = (b"content-type", b"application/json")
_PREFLIGHT: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    (b"access-control-max-age", b"7200"),
    (b"allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
]


class Refused(Exception):
    """The call ends with a problem of node.problems.PROBLEMS."""

    def __init__(self, code: str, headers: Headers | None = None) -> None:
        super().__init__(code)
        self.code, self.headers = code, headers or []


async def serve(desk: Desk, call: Call, match: Match) -> None:
    """Serve one call. Raises Refused, and what fetching and storing raise."""
    route = match.route
    if route is None:
        return await _preflight(call)
    if match.listing.paused:
        raise Refused("listing_paused", RETRY_LATER)
    if match.listing.demo:
        raise Refused("demo_not_recorded")
    if route.offer is None:
        return await _serve_free(desk, call, match)
    if desk.seller.paused():
        raise Refused("node_paused", RETRY_LATER)
    if call.payment is None:
        return await give_offer(call, route.offer)
    try:
        await _serve_paid(desk, call, match, route.offer)
    except (PaymentRefused, ChannelRefusal) as refusal:
        await _give_refusal(call, route.offer, refusal)
    except AtRiskExceeded as risk:
        raise Refused(risk.code, RETRY_SOON) from risk


async def _serve_paid(desk: Desk, call: Call, match: Match, offer: Offer) -> None:
    if call.payments != 1 or call.payment is None:
        raise PaymentMalformed("There is more than one payment in this request.")
    payment = decode_payment(call.payment)
    offer.check_accepted(payment)
    match payment.payload:
        case VoucherPayment() as voucher:
            await serve_voucher(desk, call, match, offer.terms, payment, voucher)
        case ExactPayment() | DepositPayment() | RefundPayment():
            raise PaymentRefused("not yet")


async def _serve_free(desk: Desk, call: Call, match: Match) -> None:
    answer = await desk.forwarder.fetch(call, match)
    try:
        await desk.pass_on(call, match, answer)
    finally:
        answer.close()


async def give_offer(call: Call, offer: Offer) -> None:
    """402 with the price; nothing was asked, nothing is stored."""
    await _give_402(call, offer.header, offer.body)


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


async def _give_402(call: Call, header: bytes, body: bytes, more: Headers | None = None) -> None:
    headers = [
        _JSON,
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (PAYMENT_REQUIRED, header),
        *(more or []),
    ]
    await call.answer(402, headers, body)


async def _preflight(call: Call) -> None:
    """CORS, answered here: the upstream would do work for it that nobody paid."""
    asked = b"*"
    for name, value in call.headers:
        if name == b"access-control-request-headers":
            asked = value
    headers = [*_PREFLIGHT, (b"access-control-allow-headers", asked), (b"content-length", b"0")]
    await call.answer(204, headers[:-1], b"")


async def give_problem(
    call: Call, code: str, headers: Headers | None = None, detail: str | None = None
) -> None:
    """Answer with a problem document."""
    status, body, own = known_problem(code, detail, call_id=call.id)
    await call.answer(status, [*own, *(headers or [])], body)


def problem_of(error: FinanceError) -> tuple[str, Headers]:
    """The problem for what finance raises on the paid path."""
    match error:
        case RpcUnavailable():
            return "chain_unavailable", RETRY_LATER
        case StoreUnavailable():
            return "store_unavailable", RETRY_LATER
        case SettlementUnknown():
            return "settlement_pending", RETRY_LATER
        case SettlementFailed():
            return "chain_unavailable", RETRY_LATER
        case _:
            return "internal_error", []
