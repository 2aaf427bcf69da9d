"""What a bought call leaves in the books besides its purchase: its row, sums, kept answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from finance.store import Increment, Write
from node.lines.pool import Answer as Received
from node.problems import Headers
from node.proxy import idempotency
from node.usage.calls import CallRecord
from node.usage.models import Side

if TYPE_CHECKING:
    from node.proxy.call import Request


def record_of(request: Request, status: int, scheme: str | None = None, **known: Any) -> CallRecord:
    """Its row, at its end; `known` are further fields of CallRecord."""
    return CallRecord(
        request.call_id,
        Side.BOUGHT,
        request.at_ms,
        request.source.listing_id,
        request.method,
        "/" + request.path,
        status,
        int((time.perf_counter() - request.started) * 1_000_000),
        key_id=request.key_id,
        scheme=scheme,
        route=request.route,
        **known,
    )


def answered(
    request: Request, answer: Received, scheme: str | None, charged: int, read_bytes: int
) -> CallRecord:
    """The row of a call that got the seller's answer, of which so much was read here."""
    size = read_bytes or answer.length or 0
    return record_of(request, answer.status, scheme, amount_atoms=charged, bytes_out=size)


def counted_by(request: Request, record: CallRecord) -> list[Increment]:
    """What a call adds up to. An answer counts against the quota, unless the seller failed
    and took nothing."""
    held = request.held
    if held is None or (record.status >= 500 and not record.amount_atoms):
        return [record.increment()]
    return [record.increment(), held.commit()]


def kept_of(request: Request, status: int, headers: Headers, body: bytes) -> Write:
    assert request.idempotency_key is not None
    return idempotency.kept(
        request.key_id,
        request.idempotency_key,
        request.fingerprint,
        request.call_id,
        status,
        headers,
        body,
    )
