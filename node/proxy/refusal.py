"""A seller's 402: what it offers, why it refused a payment, and what the app is told of it."""

from __future__ import annotations

from typing import NamedTuple

from finance.errors import PaymentMalformed
from finance.x402 import codes
from finance.x402.receipt import decode_response
from finance.x402.values import PaymentRequired
from finance.x402.wire import (
    PAYMENT_REQUIRED_HEADER,
    PAYMENT_RESPONSE_HEADER,
    decode_required,
)
from node.lines.pool import Answer
from node.proxy.errors import PaymentImpossible, ProxyError, RequestRefused, SellerFailed


class Refusal(NamedTuple):
    """A 402 that answers a payment: the offer in it (empty when there is none) and its reason.
    `settling`: the seller had begun to settle the payment, which may come through yet."""

    required: PaymentRequired
    reason: str
    settling: bool


def offer_in(answer: Answer) -> PaymentRequired:
    """The 402's offer; the connection is given back."""
    header = answer.header(PAYMENT_REQUIRED_HEADER)
    answer.close()
    if header is None:
        raise PaymentImpossible(
            "no_acceptable_offer", "The seller asks for payment, but not by x402 version 2."
        )
    try:
        return decode_required(header)
    except PaymentMalformed as error:
        raise SellerFailed("offer_unreadable", str(error)) from error


def refusal_in(answer: Answer) -> Refusal:
    """What a 402 says of the payment it answers; the connection is given back."""
    reason, receipt = "", answer.header(PAYMENT_RESPONSE_HEADER)
    if receipt is not None:
        try:
            reason = decode_response(receipt).error_reason or ""
        except PaymentMalformed:
            reason = "receipt_unreadable"
    try:
        required = offer_in(answer)
    except ProxyError:
        return Refusal(PaymentRequired([]), reason or "no_offer", receipt is not None)
    return Refusal(required, reason or (required.error or "")[:200], receipt is not None)


def answer_lost() -> ProxyError:
    """The call is paid for, and nobody has its answer any more."""
    return SellerFailed("answer_lost", "Its charge is booked; ask the seller for help.")


def charge_unknown() -> ProxyError:
    """Nothing more is signed for a call while its first signature may be charged."""
    return SellerFailed(
        "charge_unknown",
        "An earlier request with this Idempotency-Key was paid through a channel that is used no"
        " more, or not known; the payment may still be charged. To pay for the call once more, use"
        " a new key.",
    )


def broken_off(charged_atoms: int) -> ProxyError:
    """The seller charged, and its answer did not arrive whole."""
    return SellerFailed(
        "seller_failed",
        "The answer broke off after it was charged. A request with an Idempotency-Key can be sent"
        " again: the seller may still have its answer, and nothing more is paid.",
        charged=charged_atoms,
    )


def payment_refused(reason: str) -> ProxyError:
    """The seller took no payment; `reason` is its x402 error."""
    if reason == codes.CHANNEL_BUSY:
        return RequestRefused("channel_busy", "The seller still serves this channel.")
    return PaymentImpossible(
        "payment_refused", f"The seller says: {reason or 'nothing'}.", reason=reason
    )
