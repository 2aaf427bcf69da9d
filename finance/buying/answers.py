"""A seller's word about our money, checked before it is believed.

Source: x402 scheme_batch_settlement_evm, "Client Verification Rules". What does not add
up raises SellerUntrustworthy; the caller stops the channel and signs nothing for it again.
"""

from __future__ import annotations

from dataclasses import dataclass

from finance.errors import SellerUntrustworthy
from finance.x402.values import ChannelConfig, ChannelState, Receipt, VoucherState
from finance.x402.vouchers import voucher_signed_by


@dataclass(frozen=True, slots=True)
class Sent:
    """What we signed and what we knew when we sent it. Atoms; `payer` is lower-case 0x hex."""

    network: str
    payer: str
    amount_atoms: int
    channel_id: bytes | None = None
    charged_before: int = 0


def check_receipt(receipt: Receipt, sent: Sent) -> int:
    """Check a successful PAYMENT-RESPONSE; return the atoms charged for this call."""
    if receipt.network != sent.network:
        raise SellerUntrustworthy(f"the receipt is for {receipt.network[:40]}, not {sent.network}")
    if receipt.payer is not None and receipt.payer.lower() != sent.payer:
        raise SellerUntrustworthy("the receipt names another payer")
    if sent.channel_id is None:
        return _check_exact(receipt, sent)
    return _check_channel(receipt, sent, sent.channel_id)


def _check_exact(receipt: Receipt, sent: Sent) -> int:
    if receipt.amount is not None and receipt.amount != sent.amount_atoms:
        raise SellerUntrustworthy("the receipt names another amount than was signed")
    if not receipt.transaction:
        raise SellerUntrustworthy("the receipt names no transaction")
    return sent.amount_atoms


def _check_channel(receipt: Receipt, sent: Sent, channel_id: bytes) -> int:
    state = receipt.channel_state
    if state is None:
        raise SellerUntrustworthy("the receipt says nothing about the channel")
    if state.channel_id != channel_id:
        raise SellerUntrustworthy("the receipt is about another channel")
    cumulative = state.charged_cumulative_amount
    charged = receipt.charged_amount
    if charged is None:
        raise SellerUntrustworthy("the receipt does not say what was charged")
    if charged > sent.amount_atoms:
        raise SellerUntrustworthy("more was charged than the price")
    if cumulative is not None and cumulative != sent.charged_before + charged:
        raise SellerUntrustworthy("the cumulative amount is not the old one plus the charge")
    after = sent.charged_before + charged
    if state.balance < after:
        raise SellerUntrustworthy("the channel's balance does not cover what was charged")
    if state.total_claimed > after:
        raise SellerUntrustworthy("more was claimed than was charged")
    return charged


def check_correction(
    state: ChannelState,
    voucher: VoucherState,
    config: ChannelConfig,
    channel_id: bytes,
    chain_id: int,
    claimed_onchain: int,
) -> int:
    """Check a corrective 402's proof; return the cumulative amount charged.

    It holds if our own voucher key signed at least what is said to be charged, and the
    chain has not claimed more than that.
    """
    charged = state.charged_cumulative_amount
    if state.channel_id != channel_id or charged is None:
        raise SellerUntrustworthy("the correction is about another channel")
    signed = voucher.signed_max_claimable
    if not voucher_signed_by(config, channel_id, signed, voucher.signature, chain_id):
        raise SellerUntrustworthy("the correction shows a voucher we did not sign")
    if not claimed_onchain <= charged <= signed:
        raise SellerUntrustworthy("the correction's amounts contradict voucher and chain")
    return charged
