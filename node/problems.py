"""Errors as the wire shows them: RFC 9457 problem documents, one shape for every edge.

A problem's `code` is stable and machine-readable; `type` is derived from it. The
table here is the one place where codes of the data plane become HTTP.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE: Final = b"application/problem+json"
_ENCODER = msgspec.json.Encoder()

# code: (HTTP status, title). Payment refusals are not here: they are 402 with an offer.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "request_invalid": (400, "The request cannot be read"),
    "path_ambiguous": (400, "The path can be read in more than one way"),
    "secret_invalid": (401, "The secret is missing or wrong"),
    "subscription_key_invalid": (401, "The key of the subscription is missing or wrong"),
    "quota_exceeded": (402, "The quota of the plan is used up"),
    "limit_exceeded": (402, "A spending limit forbids this call"),
    "signature_invalid": (403, "The signature does not say who is asking"),
    "no_such_plan": (404, "The listing offers no such plan"),
    "no_such_resource": (404, "There is nothing at this address"),
    "no_such_listing": (404, "No such listing"),
    "demo_not_recorded": (404, "No answer of this operation is recorded for demo mode"),
    "stream_unknown": (404, "No stream that is sold by the minute has this id"),
    "demo_without_streams": (404, "There are no streams in demo mode"),
    "payment_identifier_conflict": (409, "This payment identifier names another payment"),
    "payment_in_flight": (409, "This payment is being served right now"),
    "paid_ahead": (409, "As many minutes ahead are paid as may be"),
    "stream_opened": (409, "This payment has bought its stream or long answer already"),
    "subscription_exists": (409, "There is such a subscription already"),
    "subscription_cancelled": (409, "The subscription was cancelled"),
    "subscription_not_active": (409, "The subscription has no paid month now"),
    "plan_not_an_upgrade": (409, "This plan is no upgrade"),
    "renews_itself": (409, "A free plan goes on by itself"),
    "already_renewed": (409, "The next month is paid already"),
    "order_pending": (409, "A payment for it is still on its way"),
    "requests_full": (409, "Too many requests wait for an answer"),
    "changed_meanwhile": (409, "Something else has changed it at this moment; ask again"),
    "stream_over": (410, "The stream has ended; nothing was charged"),
    "rate_limited": (429, "Too many calls in a minute"),
    "body_too_large": (413, "The request body is too large"),
    "internal_error": (500, "Something went wrong here"),
    "upstream_failed": (502, "The seller's API failed"),
    "upgrade_refused": (502, "The seller's API speaks no WebSocket at this address"),
    "answer_too_large": (502, "The answer is too large for this payment scheme"),
    "too_many_long_answers": (503, "Too many long answers wait for their payment"),
    "node_paused": (503, "The node does not serve paid calls at the moment"),
    "listing_paused": (503, "The listing is paused"),
    "amount_at_risk_exceeded": (503, "Too much is unclaimed on this channel"),
    "chain_unavailable": (503, "The chain cannot be asked at the moment"),
    "store_unavailable": (503, "The books cannot be written at the moment"),
    "upstream_unreachable": (504, "The seller's API cannot be reached"),
    "upstream_timeout": (504, "The seller's API did not answer in time"),
    "settlement_pending": (504, "The payment is on its way but not confirmed yet"),
}


def problem(
    status: int, code: str, title: str, detail: str | None = None, **extra: Any
) -> tuple[bytes, Headers]:
    """The body and headers of a problem answer (RFC 9457); `extra` are its own members."""
    document = {"type": f"urn:farebox:problem:{code}", "title": title, "status": status}
    document["code"] = code
    if detail:
        document["detail"] = detail
    body = _ENCODER.encode(document | extra)
    length = str(len(body)).encode()
    return body, [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", length),
        (b"cache-control", b"no-store"),
    ]


class _Told(msgspec.Struct, frozen=True):
    code: str
    detail: str | None = None
    title: str = ""


def read_problem(body: bytes) -> tuple[str, str]:
    """(code, sentence) of somebody's problem document, not longer than can be shown; both are
    empty for anything else."""
    try:
        told = msgspec.json.decode(body, type=_Told)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "", ""
    return told.code[:80], (told.detail or told.title)[:500]


def known_problem(code: str, detail: str | None = None, **extra: Any) -> tuple[int, bytes, Headers]:
    """(status, body, headers) of a code in the table."""
    status, title = PROBLEMS[code]
    return status, *problem(status, code, title, detail, **extra)
