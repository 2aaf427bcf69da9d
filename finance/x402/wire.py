"""x402 v2 headers to frozen values and back: base64 JSON, field for field as the SDK's.

The decoders are total: whatever bytes come in, they return a value or raise
PaymentMalformed with a sentence and an x402 error code. They check form only;
whether a payment buys anything is decided in `offers`, `exact` and `vouchers`.
This module is the door to the package's wire: the values are re-exported here.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from finance.errors import PaymentMalformed
from finance.x402 import codes
from finance.x402.extensions import PAYMENT_IDENTIFIER
from finance.x402.header import decode, unwrap, unwrap_storable, wrap
from finance.x402.payload import parse_payload, payload_wire
from finance.x402.receipt import decode_response, encode_response, read_states
from finance.x402.values import (
    BATCH_SETTLEMENT_SCHEME,
    EXACT,
    X402_VERSION,
    ChannelConfig,
    ChannelPayment,
    ChannelState,
    DepositPayment,
    ExactPayment,
    Payload,
    Payment,
    PaymentRequired,
    Receipt,
    RefundPayment,
    Requirements,
    ResourceInfo,
    TransferAuthorization,
    VoucherPayment,
    VoucherState,
)

__all__ = [
    "BATCH_SETTLEMENT_SCHEME",
    "EXACT",
    "PAYMENT_IDENTIFIER",
    "PAYMENT_REQUIRED",
    "PAYMENT_REQUIRED_HEADER",
    "PAYMENT_RESPONSE",
    "PAYMENT_RESPONSE_HEADER",
    "PAYMENT_SIGNATURE",
    "PAYMENT_SIGNATURE_HEADER",
    "X402_VERSION",
    "ChannelConfig",
    "ChannelPayment",
    "ChannelState",
    "DepositPayment",
    "ExactPayment",
    "Payload",
    "Payment",
    "PaymentRequired",
    "Receipt",
    "RefundPayment",
    "Requirements",
    "ResourceInfo",
    "TransferAuthorization",
    "VoucherPayment",
    "VoucherState",
    "decode_payment",
    "decode_required",
    "decode_response",
    "encode_payment",
    "encode_required",
    "encode_response",
    "read_states",
]

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"
# As ASGI spells header names.
PAYMENT_REQUIRED_HEADER = PAYMENT_REQUIRED.lower().encode()
PAYMENT_SIGNATURE_HEADER = PAYMENT_SIGNATURE.lower().encode()
PAYMENT_RESPONSE_HEADER = PAYMENT_RESPONSE.lower().encode()

_IDENTIFIER_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
)


class _PaymentWire(
    msgspec.Struct, rename="camel", omit_defaults=True, tag_field="x402Version", tag=X402_VERSION
):
    payload: msgspec.Raw
    accepted: Requirements
    resource: ResourceInfo | None = None
    extensions: dict[str, Any] | None = None


_PAYMENT = msgspec.json.Decoder(_PaymentWire)
_REQUIRED = msgspec.json.Decoder(PaymentRequired)
_ENCODER = msgspec.json.Encoder()


def decode_payment(header: bytes | str, max_bytes: int = 16384) -> Payment:
    """Read a PAYMENT-SIGNATURE header; raise PaymentMalformed for all that is none."""
    raw, document = unwrap(header, max_bytes)
    wire = decode(_PAYMENT, document)
    return Payment(
        wire.accepted,
        parse_payload(wire.accepted.scheme, wire.payload),
        wire.extensions,
        _identifier(wire.extensions),
        hashlib.sha256(raw).digest(),
        wire.resource,
    )


def encode_payment(
    accepted: Requirements,
    payload: Payload,
    resource: ResourceInfo | None = None,
    extensions: dict[str, Any] | None = None,
) -> bytes:
    """The PAYMENT-SIGNATURE header of a signed payment."""
    body = msgspec.Raw(_ENCODER.encode(payload_wire(payload)))
    return wrap(_ENCODER.encode(_PaymentWire(body, accepted, resource, extensions)))


def decode_required(header: bytes | str, max_bytes: int = 131072) -> PaymentRequired:
    """Read a PAYMENT-REQUIRED header; raise PaymentMalformed for all that is none."""
    return decode(_REQUIRED, unwrap_storable(header, max_bytes))


def encode_required(required: PaymentRequired) -> bytes:
    """The PAYMENT-REQUIRED header of an offer."""
    return wrap(_ENCODER.encode(required))


def _identifier(extensions: dict[str, Any] | None) -> str | None:
    """The client's payment identifier; a declaration echoed without an id is none."""
    if not extensions or not (extension := extensions.get(PAYMENT_IDENTIFIER)):
        return None
    info = extension.get("info") if isinstance(extension, dict) else None
    if not isinstance(info, dict) or not isinstance(info.get("required"), bool):
        message = "The payment-identifier extension lacks its info."
        raise PaymentMalformed(message, codes.INVALID_PAYMENT_IDENTIFIER)
    identifier = info.get("id")
    if identifier is None:
        return None
    if isinstance(identifier, str) and _is_identifier(identifier):
        return identifier
    message = "A payment identifier is 16 to 128 letters, digits, hyphens and underscores."
    raise PaymentMalformed(message, codes.INVALID_PAYMENT_IDENTIFIER)


def _is_identifier(value: str) -> bool:
    return 16 <= len(value) <= 128 and _IDENTIFIER_CHARACTERS.issuperset(value)
