"""Scheme `exact`: one EIP-3009 transfer of the price per call.

Source: x402 scheme_exact_evm, "Verification"; the buffer on `validBefore` and
the order of checks are the official facilitator's.
"""

from __future__ import annotations

import coincurve

from finance.errors import PaymentRefused
from finance.x402 import codes
from finance.x402.abi import calldata
from finance.x402.digest import recover_address, sign_digest, transfer_authorization_digest
from finance.x402.offers import Terms
from finance.x402.values import ExactPayment, TransferAuthorization

# A transfer that would expire before it can be mined is refused.
EXPIRY_BUFFER_SECONDS = 6

_ERC6492_MAGIC = bytes.fromhex("6492" * 16)
_TRANSFER = "transferWithAuthorization"
_FIELDS = ("address", "address", "uint256", "uint256", "uint256", "bytes32")


def check_authorization(payment: ExactPayment, terms: Terms, now: int) -> bool:
    """Check a transfer against the terms; raise PaymentRefused.

    Return whether the payer may only be a contract: the signature does not recover
    to `from`, so the caller must ask the payer's code (EIP-1271) before believing it.
    False still leaves nonce, balance and code at the payer to be asked on-chain.
    """
    authorization = payment.authorization
    if authorization.to != terms.pay_to:
        message = "The authorization pays another receiver."
        raise PaymentRefused(message, codes.EXACT_RECIPIENT_MISMATCH)
    if authorization.value != terms.amount_atoms:
        message = "The authorization is not for the exact price."
        raise PaymentRefused(message, codes.EXACT_VALUE_MISMATCH)
    if authorization.valid_before < now + EXPIRY_BUFFER_SECONDS:
        raise PaymentRefused("The authorization has expired.", codes.EXACT_VALID_BEFORE)
    if authorization.valid_after > now:
        raise PaymentRefused("The authorization is not valid yet.", codes.EXACT_VALID_AFTER)
    if not payment.signature:
        raise PaymentRefused("The authorization is not signed.", codes.EXACT_SIGNATURE)
    if is_counterfactual(payment.signature):
        message = "Wallets that are not deployed yet (ERC-6492) cannot pay here."
        raise PaymentRefused(message, codes.EXACT_FACTORY_NOT_ALLOWED)
    digest = authorization_digest(payment, terms)
    return recover_address(digest, payment.signature) != authorization.from_address


def authorization_digest(payment: ExactPayment, terms: Terms) -> bytes:
    """The digest the payer signed: what EIP-1271's `isValidSignature` is asked about."""
    return transfer_authorization_digest(terms.token_domain, payment.authorization)


def is_counterfactual(signature: bytes) -> bool:
    """Whether the signature is wrapped with a wallet's deployment (ERC-6492)."""
    return signature[-32:] == _ERC6492_MAGIC


def sign_authorization(
    key: coincurve.PrivateKey, authorization: TransferAuthorization, domain: bytes
) -> ExactPayment:
    """Sign a transfer under the token's EIP-712 `domain` separator (buyer)."""
    digest = transfer_authorization_digest(domain, authorization)
    return ExactPayment(authorization, sign_digest(key, digest))


def transfer_calldata(payment: ExactPayment) -> bytes:
    """The token call that settles: `v, r, s` for 65 bytes, `bytes` for a contract's."""
    authorization, signature = payment.authorization, payment.signature
    fields = (
        authorization.from_address,
        authorization.to,
        authorization.value,
        authorization.valid_after,
        authorization.valid_before,
        authorization.nonce,
    )
    if len(signature) != 65:
        return calldata(_TRANSFER, (*_FIELDS, "bytes"), *fields, signature)
    parts = (signature[64], signature[:32], signature[32:64])
    return calldata(_TRANSFER, (*_FIELDS, "uint8", "bytes32", "bytes32"), *fields, *parts)
