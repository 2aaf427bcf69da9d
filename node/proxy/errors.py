"""What can end a bought call, and how the buyer's app hears of it (RFC 9457).

    ProxyError
    ├── RequestRefused     the request itself: 400, 401, 403, 404, 409, 413, 429
    ├── PaymentImpossible  402: a limit or quota, no acceptable offer, or the seller refused
    ├── SellerFailed       502: the seller answered with nonsense, or broke off
    ├── SellerSilent       504: not reached, or not in time
    └── NodeUnable         503: chain or database cannot be asked now

None of them carries PAYMENT-REQUIRED, so no x402 client in front of us pays by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from finance.buying.limits import SpendingRefused
from finance.buying.terms import NoAcceptableOffer
from finance.errors import (
    ChainError,
    ChannelBusy,
    FinanceError,
    LimitExceeded,
    StoreConflict,
    StoreUnavailable,
)
from node.problems import Headers, problem

# code: (HTTP status, title).
TABLE: Final[dict[str, tuple[int, str]]] = {
    "request_invalid": (400, "The request cannot be read"),
    "path_ambiguous": (400, "The path can be read in more than one way"),
    "address_refused": (400, "The listing's address must not be called"),
    "secret_invalid": (401, "The secret is missing or wrong"),
    "no_acceptable_offer": (402, "The seller offers no payment this node can make"),
    "payment_refused": (402, "The seller refused the payment"),
    "quota_exceeded": (402, "The month's quota is used up"),
    "subscription_refused": (402, "The seller does not take the subscription"),
    "price_above_agreed": (402, "The seller asks for more than what was agreed to"),
    "listing_out_of_scope": (403, "The key is not for this listing"),
    "no_such_listing": (404, "No such listing"),
    "listing_paused": (404, "The listing is paused"),
    "demo_without_streams": (404, "There are no streams in demo mode"),
    "demo_not_recorded": (404, "The listing is in demo mode and has no sample of this"),
    "channel_busy": (409, "All channels to this seller are in use"),
    "idempotency_key_reused": (409, "This Idempotency-Key names another request"),
    "idempotency_in_flight": (409, "The first request with this Idempotency-Key is running"),
    "answer_not_kept": (409, "The call was paid, and its answer is not kept"),
    "body_too_large": (413, "The request body is too large"),
    "rate_limited": (429, "Too many calls within a minute"),
    "internal_error": (500, "Something went wrong here"),
    "seller_failed": (502, "The seller failed"),
    "answer_lost": (502, "The seller charged for this call, but its answer was lost"),
    "charge_unknown": (502, "Whether this call was charged is not known"),
    "offer_unreadable": (502, "The seller's offer cannot be read"),
    "chain_unavailable": (503, "The chain cannot be asked at the moment"),
    "store_unavailable": (503, "The books cannot be written at the moment"),
    "seller_unreachable": (504, "The seller cannot be reached"),
    "seller_timeout": (504, "The seller did not answer in time"),
}


class ProxyError(Exception):
    """A call that ends with a problem document; `extra` are its own members, `headers` go with
    it."""

    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, code: str, detail: str = "", **extra: Any) -> None:
        super().__init__(detail or code)
        self.code, self.detail, self.extra = code, detail, extra


class RequestRefused(ProxyError):
    """The request as such; nothing was signed."""


class PaymentImpossible(ProxyError):
    """It would have to be paid, and cannot be."""


class SellerFailed(ProxyError):
    """The seller answered what cannot be used."""


class SellerSilent(ProxyError):
    """No answer came."""


class NodeUnable(ProxyError):
    """This node cannot do it right now; later it may."""


def rendered(error: ProxyError, call_id: str | None) -> tuple[int, bytes, Headers]:
    """(status, body, headers) of an error."""
    status, title = TABLE.get(error.code, (402, "A spending limit forbids this call"))
    extra = dict(error.extra)
    if call_id is not None:
        extra["call_id"] = call_id
    body, headers = problem(status, error.code, title, error.detail or None, **extra)
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="farebox"'))
    if status in (409, 503):
        headers.append((b"retry-after", b"1"))
    headers.extend(error.headers)
    return status, body, headers


def translated(error: FinanceError) -> ProxyError:
    """What a domain error means at this edge."""
    match error:
        case SpendingRefused():
            amounts = {
                "scope": error.scope,
                "limit_atoms": error.limit,
                "spent_atoms": error.spent,
                "asked_atoms": error.asked,
            }
            return PaymentImpossible(error.code, str(error), **amounts)
        case NoAcceptableOffer() | LimitExceeded():
            return PaymentImpossible(error.code, str(error))
        case ChannelBusy():
            return RequestRefused("channel_busy", str(error))
        case ChainError():
            return NodeUnable("chain_unavailable", str(error))
        case StoreConflict() | StoreUnavailable():
            return NodeUnable("store_unavailable", str(error))
    return SellerFailed("seller_failed", str(error))
