"""Asks the seller of a channel for what is unspent in it, by x402's refund payload.

The refund is asked for where the channel was last used: there the seller's terms are the
channel's. Only a 402 is paid, so that nothing else happens at that address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
import msgspec
from sqlalchemy import Engine, select, text
from sqlmodel import col
from yarl import URL

from finance.buying.closing import Answer
from finance.buying.terms import read_terms
from finance.errors import PaymentMalformed
from finance.models import Purchase
from finance.networks import Network
from finance.x402 import codes
from finance.x402.receipt import decode_response, read_states
from finance.x402.values import (
    BATCH_SETTLEMENT_SCHEME,
    PaymentRequired,
    RefundPayment,
    Requirements,
)
from finance.x402.wire import (
    PAYMENT_REQUIRED,
    PAYMENT_RESPONSE,
    PAYMENT_SIGNATURE,
    decode_required,
    encode_payment,
)
from node.egress import EgressPolicy, EgressRefused, open_session
from node.usage.models import Call, Side

# A refund waits for its transaction.
_TIMEOUT = aiohttp.ClientTimeout(total=90, sock_connect=10)
_MAX_HEADER_BYTES = 256 * 1024
_RECENT_CALLS = 1000
_STATES = ("channelState", "voucherState")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    required: str | None
    response: str | None


class RefundRequests:
    """`egress` is asked each time: the operator may change it."""

    def __init__(self, engine: Engine, network: Network, egress: Callable[[], EgressPolicy]):
        self._engine, self._network, self._egress = engine, network, egress

    async def __call__(self, channel_id: str, refund: RefundPayment) -> Answer:
        """See finance.buying.closing.AskRefund."""
        place = await asyncio.to_thread(last_used, self._engine, channel_id)
        if place is None:
            return Answer("Nothing was bought through this channel: there is nobody to ask.")
        try:
            return await self._ask(*place, refund)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            _log.info("refund of %s: %r", channel_id, error)
            return Answer("The seller cannot be reached.")
        except PaymentMalformed as error:
            return Answer(f"The seller's answer cannot be read: {error}")

    async def _ask(self, method: str, url: str, refund: RefundPayment) -> Answer:
        policy, target = self._egress(), URL(url, encoded=True)
        try:
            policy.check_url(target)
        except EgressRefused as error:
            return Answer(f"The seller's address may not be called: {error}")
        limits = {"max_field_size": _MAX_HEADER_BYTES, "max_line_size": _MAX_HEADER_BYTES}
        async with open_session(policy, timeout=_TIMEOUT, **limits) as session:
            unpaid = await _send(session, method, target, None)
            if unpaid.status != 402 or unpaid.required is None:
                return Answer(f"The seller answered {unpaid.status} instead of its price.")
            required = decode_required(unpaid.required)
            entry = self._entry(required, refund)
            if entry is None:
                return Answer("The seller does not offer the terms of this channel any more.")
            header = encode_payment(entry, refund, required.resource).decode()
            return _judge(await _send(session, method, target, header))

    def _entry(self, required: PaymentRequired, refund: RefundPayment) -> Requirements | None:
        """The offer that is about this channel's receiver."""
        config = refund.config
        for entry in required.accepts:
            if entry.scheme != BATCH_SETTLEMENT_SCHEME:
                continue
            try:
                terms = read_terms(required, entry, self._network)
            except (PaymentMalformed, ValueError):
                continue
            if (terms.pay_to, terms.receiver_authorizer) == (
                config.receiver,
                config.receiver_authorizer,
            ):
                extra = {k: v for k, v in entry.extra.items() if k not in _STATES}
                return msgspec.structs.replace(entry, extra=extra)
        return None


def _judge(reply: _Reply) -> Answer:
    if reply.response is not None:
        receipt = decode_response(reply.response)
        if receipt.success:
            return Answer()
        if receipt.error_reason == "settlement_pending":
            return Answer()  # on its way: the chain shows it, or does not
        return Answer(f"The seller could not refund it ({receipt.error_reason or 'no reason'}).")
    if reply.required is None:
        return Answer(f"The seller answered {reply.status} to the wish for a refund.")
    required = decode_required(reply.required)
    why = f"The seller refused the refund ({(required.error or 'no reason')[:100]})."
    if required.error in (codes.CUMULATIVE_MISMATCH, codes.CUMULATIVE_BELOW_CLAIMED):
        for entry in required.accepts:
            state, voucher = read_states(entry.extra)
            if state is not None and voucher is not None:
                return Answer(why, (state, voucher))
    return Answer(why)


async def _send(
    session: aiohttp.ClientSession, method: str, url: URL, payment: str | None
) -> _Reply:
    headers = {} if payment is None else {PAYMENT_SIGNATURE: payment}
    async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
        return _Reply(
            answer.status,
            answer.headers.get(PAYMENT_REQUIRED),
            answer.headers.get(PAYMENT_RESPONSE),
        )


def last_used(engine: Engine, channel_id: str) -> tuple[str, str] | None:
    """(method, URL) of the last call paid through a channel, as far as that is known without
    an index that every bought call would write: among the newest calls, else where the
    channel was paid into. None when there is neither (blocking)."""
    calls = select(col(Call.id), col(Call.method), col(Call.at_ms))
    newest = calls.where(col(Call.side) == Side.BOUGHT).order_by(col(Call.at_ms).desc())
    recent = newest.limit(_RECENT_CALLS).subquery()
    used = (
        select(recent.c.method, col(Purchase.url))
        .join_from(recent, Purchase, col(Purchase.call_id) == recent.c.id)
        .where(col(Purchase.channel_id) == channel_id)
        .order_by(recent.c.at_ms.desc())
    )
    paid_into = (
        select(col(Call.method), col(Purchase.url))
        .join_from(Purchase, Call, col(Call.id) == col(Purchase.call_id), isouter=True)
        .where(col(Purchase.channel_id) == channel_id, col(Purchase.deposit_atoms) > text("0"))
        .order_by(col(Purchase.created_at).desc())
    )
    with engine.connect() as connection:
        for query in (used, paid_into):
            if (row := connection.execute(query.limit(1)).first()) is not None:
                return row.method or "GET", row.url
    return None
