"""Scheme `batch-settlement`: the rules of channels, vouchers, deposits and refunds.

Source: x402 scheme_batch_settlement_evm, "Verification Rules"; codes are the
SDK's. Everything here is a comparison of frozen values: what the chain holds
(`balance`, `total_claimed`) and what was sold (`charged`) is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import coincurve
import msgspec

from finance.errors import CumulativeMismatch, PaymentRefused
from finance.money import MAX_ATOMS
from finance.x402 import codes, digest
from finance.x402.exact import EXPIRY_BUFFER_SECONDS, is_counterfactual
from finance.x402.offers import Terms
from finance.x402.settlement_calls import (
    Claim,
    calls_of_multicall,
    claim_calldata,
    collector_data,
    deposit_calldata,
    multicall_calldata,
    refund_calldata,
    settle_calldata,
)
from finance.x402.values import (
    ChannelConfig,
    ChannelPayment,
    DepositPayment,
    RefundPayment,
    TransferAuthorization,
    VoucherPayment,
)

__all__ = [
    "MAX_WITHDRAW_DELAY_SECONDS",
    "MIN_WITHDRAW_DELAY_SECONDS",
    "Claim",
    "calls_of_multicall",
    "check_config",
    "check_deposit",
    "check_refund",
    "check_voucher",
    "check_voucher_signature",
    "claim_calldata",
    "collector_data",
    "deposit_authorization",
    "deposit_calldata",
    "deposit_digest",
    "multicall_calldata",
    "needs_contract_check",
    "refund_calldata",
    "settle_calldata",
    "sign_claim_batch",
    "sign_deposit",
    "sign_refund",
    "sign_voucher",
    "voucher_signed_by",
]

MIN_WITHDRAW_DELAY_SECONDS = 900
MAX_WITHDRAW_DELAY_SECONDS = 30 * 86_400

_NOBODY = bytes(20)


def check_config(config: ChannelConfig, channel_id: bytes, terms: Terms) -> None:
    """Check that a channel is what its id says and pays these terms; raise PaymentRefused."""
    if digest.channel_id(config, terms.chain_id) != channel_id:
        message = "The channel id does not match the channel's configuration."
        raise PaymentRefused(message, codes.CHANNEL_ID_MISMATCH)
    if config.receiver != terms.pay_to:
        raise PaymentRefused("The channel pays another receiver.", codes.RECEIVER_MISMATCH)
    authorizer = config.receiver_authorizer
    if authorizer != terms.receiver_authorizer or authorizer == _NOBODY:
        message = "The channel names another receiver authorizer."
        raise PaymentRefused(message, codes.RECEIVER_AUTHORIZER_MISMATCH)
    if config.token != terms.asset:
        raise PaymentRefused("The channel holds another token.", codes.TOKEN_MISMATCH)
    if config.withdraw_delay != terms.withdraw_delay_seconds:
        message = "The channel has another withdraw delay."
        raise PaymentRefused(message, codes.WITHDRAW_DELAY_MISMATCH)
    if not MIN_WITHDRAW_DELAY_SECONDS <= config.withdraw_delay <= MAX_WITHDRAW_DELAY_SECONDS:
        message = "The channel's withdraw delay is out of range."
        raise PaymentRefused(message, codes.WITHDRAW_DELAY_OUT_OF_RANGE)


def check_voucher(
    payment: VoucherPayment, terms: Terms, charged: int, balance: int, total_claimed: int
) -> None:
    """Check a voucher's amount: exactly the price above what was charged, and covered.

    Raise CumulativeMismatch when payer and seller disagree on what was charged
    (answer with the corrective 402), else PaymentRefused. The signature is not
    looked at here.
    """
    if not balance:
        raise PaymentRefused("There is no such channel.", codes.CHANNEL_NOT_FOUND)
    _check_base(payment, charged + terms.amount_atoms)
    _check_covered(payment, balance, total_claimed)


def check_deposit(
    payment: DepositPayment,
    terms: Terms,
    now: int,
    charged: int,
    balance: int,
    total_claimed: int,
) -> bool:
    """Check a deposit and the voucher that comes with it; raise PaymentRefused.

    `balance` is the channel's before the deposit, 0 for a new one. Return whether
    the payer's code must be asked (EIP-1271, `deposit_digest`) because the deposit's
    signature does not recover to the payer. The voucher's own signature is checked,
    unless `needs_contract_check(config)`.
    """
    check_config(payment.config, payment.channel_id, terms)
    amount = payment.deposit_amount
    if not amount or balance + amount > MAX_ATOMS:
        raise PaymentRefused("That is no amount to deposit.", codes.DEPOSIT_PAYLOAD)
    if amount < terms.min_deposit_atoms:
        message = f"A deposit is at least {terms.min_deposit_atoms} atoms."
        raise PaymentRefused(message, codes.DEPOSIT_BELOW_MINIMUM)
    if payment.valid_before < now + EXPIRY_BUFFER_SECONDS:
        raise PaymentRefused("The deposit has expired.", codes.DEPOSIT_VALID_BEFORE)
    if payment.valid_after > now:
        raise PaymentRefused("The deposit is not valid yet.", codes.DEPOSIT_VALID_AFTER)
    _check_base(payment, charged + terms.amount_atoms)
    _check_covered(payment, balance + amount, total_claimed)
    check_voucher_signature(payment, terms)
    return _deposit_needs_code_check(payment, terms)


def check_refund(
    payment: RefundPayment, terms: Terms, charged: int, balance: int, total_claimed: int
) -> int:
    """Check a wish for a refund; return the atoms to give back, or raise PaymentRefused.

    A refund's voucher adds nothing: it signs exactly what was charged so far. Its
    signature is not looked at here.
    """
    check_config(payment.config, payment.channel_id, terms)
    if not balance:
        raise PaymentRefused("There is no such channel.", codes.CHANNEL_NOT_FOUND)
    _check_base(payment, charged)
    if charged < total_claimed:
        raise _below_claimed()
    remainder = balance - charged
    if payment.amount == 0:
        raise PaymentRefused("That is no amount to refund.", codes.REFUND_AMOUNT_INVALID)
    if remainder <= 0 or (payment.amount or 0) > remainder:
        message = f"The channel has {max(remainder, 0)} atoms left to refund."
        raise PaymentRefused(message, codes.REFUND_NO_BALANCE)
    return payment.amount or remainder


def needs_contract_check(config: ChannelConfig) -> bool:
    """Whether vouchers of this channel are checked by the payer's contract (EIP-1271)."""
    return config.payer_authorizer == _NOBODY


def voucher_signed_by(
    config: ChannelConfig, channel_id: bytes, max_claimable: int, signature: bytes, chain_id: int
) -> bool:
    """Whether the channel's voucher key signed; False whenever a contract must be asked."""
    if needs_contract_check(config):
        return False
    signed = digest.voucher_digest(channel_id, max_claimable, chain_id)
    return digest.recover_address(signed, signature) == config.payer_authorizer


def check_voucher_signature(payment: ChannelPayment, terms: Terms) -> bool:
    """Raise PaymentRefused for a forged voucher; True when a contract must be asked instead."""
    if needs_contract_check(payment.config):
        if is_counterfactual(payment.signature):
            message = "Wallets that are not deployed yet (ERC-6492) cannot pay here."
            raise PaymentRefused(message, codes.DEPOSIT_FACTORY_NOT_ALLOWED)
        return True
    if not voucher_signed_by(
        payment.config,
        payment.channel_id,
        payment.max_claimable,
        payment.signature,
        terms.chain_id,
    ):
        message = "The voucher is not signed by the channel's payer authorizer."
        raise PaymentRefused(message, codes.VOUCHER_SIGNATURE)
    return False


def deposit_authorization(payment: DepositPayment) -> TransferAuthorization:
    """The EIP-3009 receive authorization a deposit implies: payer to collector."""
    return TransferAuthorization(
        payment.config.payer,
        digest.ERC3009_COLLECTOR,
        payment.deposit_amount,
        payment.valid_after,
        payment.valid_before,
        digest.deposit_nonce(payment.channel_id, payment.deposit_salt),
    )


def deposit_digest(payment: DepositPayment, terms: Terms) -> bytes:
    """The digest the payer signed for the deposit."""
    return digest.receive_authorization_digest(terms.token_domain, deposit_authorization(payment))


def sign_voucher(
    key: coincurve.PrivateKey, channel_id: bytes, max_claimable: int, chain_id: int
) -> bytes:
    """Sign a cumulative amount with the voucher key (buyer)."""
    return digest.sign_digest(key, digest.voucher_digest(channel_id, max_claimable, chain_id))


def sign_deposit(
    key: coincurve.PrivateKey, payment: DepositPayment, domain: bytes
) -> DepositPayment:
    """Fill in `deposit_signature` with the key that holds the money (buyer).

    `domain` is the token's EIP-712 domain separator.
    """
    signed = digest.receive_authorization_digest(domain, deposit_authorization(payment))
    return msgspec.structs.replace(payment, deposit_signature=digest.sign_digest(key, signed))


def sign_refund(
    key: coincurve.PrivateKey, channel_id: bytes, nonce: int, amount: int, chain_id: int
) -> bytes:
    """Sign a cooperative refund with the receiver authorizer (seller)."""
    return digest.sign_digest(key, digest.refund_digest(channel_id, nonce, amount, chain_id))


def sign_claim_batch(
    key: coincurve.PrivateKey, entries: Sequence[tuple[bytes, int, int]], chain_id: int
) -> bytes:
    """Sign `(channel_id, max_claimable, total_claimed)`s as receiver authorizer (seller)."""
    return digest.sign_digest(key, digest.claim_batch_digest(entries, chain_id))


def _check_base(payment: ChannelPayment, expected: int) -> None:
    if payment.max_claimable != expected:
        message = f"The voucher signs {payment.max_claimable} atoms where {expected} are due."
        raise CumulativeMismatch(message)


def _check_covered(payment: ChannelPayment, balance: int, total_claimed: int) -> None:
    if payment.max_claimable > balance:
        message = "The voucher signs more than the channel holds."
        raise PaymentRefused(message, codes.CUMULATIVE_EXCEEDS_BALANCE)
    if payment.max_claimable <= total_claimed:
        raise _below_claimed()


def _below_claimed() -> PaymentRefused:
    message = "The voucher signs no more than was claimed on-chain already."
    return PaymentRefused(message, codes.CUMULATIVE_BELOW_CLAIMED)


def _deposit_needs_code_check(payment: DepositPayment, terms: Terms) -> bool:
    signature = payment.deposit_signature
    if not signature:
        raise PaymentRefused("The deposit is not signed.", codes.DEPOSIT_SIGNATURE)
    if is_counterfactual(signature):
        message = "Wallets that are not deployed yet (ERC-6492) cannot pay here."
        raise PaymentRefused(message, codes.DEPOSIT_FACTORY_NOT_ALLOWED)
    signer = digest.recover_address(deposit_digest(payment, terms), signature)
    return signer != payment.config.payer
