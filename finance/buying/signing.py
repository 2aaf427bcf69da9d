"""Our signatures as header values: the fast path for vouchers, the plain one for the rest."""

from __future__ import annotations

import secrets
from binascii import b2a_base64
from dataclasses import dataclass

import msgspec

from finance.buying.terms import Terms
from finance.networks import Network
from finance.wallet.signer import Signer
from finance.x402 import digest, text
from finance.x402.exact import sign_authorization
from finance.x402.payload import payload_wire
from finance.x402.values import ChannelConfig, DepositPayment, TransferAuthorization
from finance.x402.vouchers import deposit_authorization, sign_deposit

_ENCODER = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class SignedDeposit:
    """A deposit authorization that left (or may leave) this node, until the chain settles it."""

    amount_atoms: int
    valid_before: int
    salt: int
    signature: bytes
    nonce: bytes


def token_domain(network: Network) -> bytes:
    """EIP-712 domain separator of the network's USDC, from our own table."""
    return digest.domain_separator(
        network.usdc_name, network.usdc_version, network.chain_id, text.parse_address(network.usdc)
    )


def header(terms: Terms, payload: bytes, payment_id: str) -> bytes:
    """The PAYMENT-SIGNATURE header."""
    return b2a_base64(terms.document(payload, payment_id), newline=False)


def exact_payload(
    wallet: Signer, terms: Terms, domain: bytes, valid_before: int
) -> tuple[bytes, bytes]:
    """A signed transfer of the price: (payload JSON, nonce)."""
    nonce = secrets.token_bytes(32)
    authorization = TransferAuthorization(
        wallet.address_bytes, terms.pay_to, terms.amount_atoms, 0, valid_before, nonce
    )
    payment = sign_authorization(wallet.private, authorization, domain)
    return _ENCODER.encode(payload_wire(payment)), nonce


def voucher_head(config: ChannelConfig, channel_id: bytes) -> bytes:
    """The part of a voucher's payload that never changes within its channel."""
    return (
        b'{"type":"voucher","channelConfig":'
        + _ENCODER.encode(config.wire())
        + b',"voucher":{"channelId":"0x'
        + channel_id.hex().encode()
        + b'","maxClaimableAmount":"'
    )


def voucher_payload(head: bytes, cumulative: int, signature: bytes) -> bytes:
    """A voucher's payload JSON around its amount and signature."""
    return b'%b%d","signature":"0x%b"}}' % (head, cumulative, signature.hex().encode())


def new_deposit(
    wallet: Signer,
    config: ChannelConfig,
    channel_id: bytes,
    amount_atoms: int,
    valid_before: int,
    domain: bytes,
) -> SignedDeposit:
    """Sign an EIP-3009 authorization that moves `amount_atoms` into the channel."""
    salt = int.from_bytes(secrets.token_bytes(32), "big")
    unsigned = DepositPayment(config, channel_id, 0, b"", amount_atoms, 0, valid_before, salt, b"")
    signed = sign_deposit(wallet.private, unsigned, domain)
    nonce = deposit_authorization(unsigned).nonce
    return SignedDeposit(amount_atoms, valid_before, salt, signed.deposit_signature, nonce)


def deposit_payload(
    config: ChannelConfig,
    channel_id: bytes,
    cumulative: int,
    voucher_signature: bytes,
    deposit: SignedDeposit,
) -> bytes:
    """The payload JSON of a deposit with its first voucher."""
    payment = DepositPayment(
        config,
        channel_id,
        cumulative,
        voucher_signature,
        deposit.amount_atoms,
        0,
        deposit.valid_before,
        deposit.salt,
        deposit.signature,
    )
    return _ENCODER.encode(payload_wire(payment))
