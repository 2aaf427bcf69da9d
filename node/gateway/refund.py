"""A payer takes back what a channel has left: no upstream is called, nothing is charged."""

from __future__ import annotations

import msgspec

from finance.errors import CumulativeMismatch, SettlementFailed, SettlementUnknown
from finance.selling.channels import Channel
from finance.x402 import vouchers
from finance.x402.offers import Terms
from finance.x402.receipt import encode_response
from finance.x402.values import Receipt, RefundPayment, VoucherPayment
from node.gateway.desk import PAYMENT_RESPONSE, ChannelRefusal, Desk, unsettled
from node.gateway.request import Call
from node.gateway.voucher import find_channel


async def serve_refund(desk: Desk, call: Call, terms: Terms, refund: RefundPayment) -> None:
    """Check the wish, settle it on-chain, answer with its receipt."""
    channels = desk.seller.channels
    voucher = VoucherPayment(
        refund.config, refund.channel_id, refund.max_claimable, refund.signature
    )
    channel = await find_channel(desk, call, voucher, terms)
    # Before the amounts: only whoever signs for the channel is told its state.
    vouchers.check_voucher_signature(refund, terms)
    await channels.take(channel)
    try:
        _check(refund, terms, channel)
        if vouchers.needs_contract_check(channel.config):
            await desk.seller.checks.check(voucher, terms)
        refunded = await desk.seller.refunds.refund(channel, refund.amount)
    except (SettlementFailed, SettlementUnknown) as failure:
        raise unsettled(terms.network, channel.payer, failure) from failure
    finally:
        try:
            await channels.reload(channel.key)
        finally:
            channels.release(channel)
    receipt = Receipt(
        success=True,
        transaction=refunded.tx_hash,
        network=terms.network,
        payer=channel.payer,
        amount=refunded.amount,
        channel_state=channel.wire_state(),
    )
    body = msgspec.json.encode({"message": "Refund acknowledged", "channelId": channel.key})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (PAYMENT_RESPONSE, encode_response(receipt)),
    ]
    await call.answer(200, headers, body)


def _check(refund: RefundPayment, terms: Terms, channel: Channel) -> None:
    charged, balance, claimed = channel.charged, channel.balance, channel.total_claimed
    try:
        vouchers.check_refund(refund, terms, charged, balance, claimed)
    except CumulativeMismatch as mismatch:
        raise ChannelRefusal(mismatch, channel) from mismatch
