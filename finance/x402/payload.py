"""The `payload` object of each scheme: wire text to signed values and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any

import msgspec

from finance.errors import PaymentMalformed
from finance.x402 import codes, text
from finance.x402.header import UNREADABLE, sentence
from finance.x402.values import (
    BATCH_SETTLEMENT_SCHEME,
    EXACT,
    ChannelConfig,
    ChannelPayment,
    DepositPayment,
    ExactPayment,
    Payload,
    RefundPayment,
    TransferAuthorization,
    VoucherPayment,
)


class _AuthorizationWire(msgspec.Struct, rename="camel"):
    to: str
    value: str
    valid_after: str
    valid_before: str
    nonce: str
    from_address: str = msgspec.field(name="from")


class _ExactWire(msgspec.Struct):
    authorization: _AuthorizationWire
    signature: str


class _ConfigWire(msgspec.Struct, rename="camel"):
    payer: str
    payer_authorizer: str
    receiver: str
    receiver_authorizer: str
    token: str
    withdraw_delay: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
    salt: str


class _VoucherFields(msgspec.Struct, rename="camel"):
    channel_id: str
    max_claimable_amount: str
    signature: str


class _Erc3009Wire(msgspec.Struct, rename="camel"):
    valid_after: str
    valid_before: str
    salt: str
    signature: str


class _DepositAuthorization(msgspec.Struct, rename="camel"):
    erc3009_authorization: _Erc3009Wire | None = None


class _DepositFields(msgspec.Struct):
    amount: str
    authorization: _DepositAuthorization


class _ChannelWire(msgspec.Struct, rename="camel"):
    channel_config: _ConfigWire
    voucher: _VoucherFields


class _VoucherWire(_ChannelWire, tag_field="type", tag="voucher"):
    pass


class _DepositWire(_ChannelWire, tag_field="type", tag="deposit"):
    deposit: _DepositFields


class _RefundWire(_ChannelWire, tag_field="type", tag="refund"):
    amount: str | None = None


class _TypeWire(msgspec.Struct):
    type: str = ""


_EXACT = msgspec.json.Decoder(_ExactWire)
_CHANNEL = msgspec.json.Decoder(_VoucherWire | _DepositWire | _RefundWire)
_TYPE = msgspec.json.Decoder(_TypeWire)

_PAYLOAD_CODES = {
    "voucher": codes.VOUCHER_PAYLOAD,
    "deposit": codes.DEPOSIT_PAYLOAD,
    "refund": codes.REFUND_PAYLOAD,
}


def parse_payload(scheme: str, raw: msgspec.Raw) -> Payload:
    """Read the payload of one scheme; raise PaymentMalformed, whatever is in it."""
    if scheme == BATCH_SETTLEMENT_SCHEME:
        return _channel_payment(raw)
    if scheme == EXACT:
        return _exact_payment(raw)
    raise PaymentMalformed("This payment scheme is not sold here.", codes.UNSUPPORTED_SCHEME)


def _exact_payment(raw: msgspec.Raw) -> ExactPayment:
    try:
        wire = _EXACT.decode(raw)
        fields = wire.authorization
        authorization = TransferAuthorization(
            text.parse_address(fields.from_address),
            text.parse_address(fields.to),
            text.parse_uint(fields.value, 256),
            text.parse_uint(fields.valid_after, 256),
            text.parse_uint(fields.valid_before, 256),
            text.parse_bytes32(fields.nonce),
        )
        return ExactPayment(authorization, text.parse_hex(wire.signature))
    except UNREADABLE as error:
        raise PaymentMalformed(sentence(error)) from error


def _channel_payment(raw: msgspec.Raw) -> ChannelPayment:
    try:
        wire = _CHANNEL.decode(raw)
        if isinstance(wire, _DepositWire):
            return _deposit(wire)
        if isinstance(wire, _RefundWire):
            return RefundPayment(*_channel_fields(wire), _refund_amount(wire.amount))
        return VoucherPayment(*_channel_fields(wire))
    except UNREADABLE as error:
        raise PaymentMalformed(sentence(error), _payload_code(raw)) from error


def _payload_code(raw: msgspec.Raw) -> str:
    try:
        return _PAYLOAD_CODES.get(_TYPE.decode(raw).type, codes.PAYLOAD_TYPE)
    except UNREADABLE:
        return codes.INVALID_PAYLOAD


def _channel_fields(wire: _ChannelWire) -> tuple[ChannelConfig, bytes, int, bytes]:
    voucher, config = wire.voucher, wire.channel_config
    try:
        channel_id = text.parse_bytes32(voucher.channel_id)
    except ValueError as error:
        raise PaymentMalformed(str(error), codes.CHANNEL_ID_INVALID) from error
    return (
        _config(
            config.payer,
            config.payer_authorizer,
            config.receiver,
            config.receiver_authorizer,
            config.token,
            config.withdraw_delay,
            config.salt,
        ),
        channel_id,
        text.parse_uint(voucher.max_claimable_amount, 128),
        text.parse_hex(voucher.signature),
    )


@lru_cache(maxsize=4096)
def _config(
    payer: str,
    payer_authorizer: str,
    receiver: str,
    receiver_authorizer: str,
    token: str,
    withdraw_delay: int,
    salt: str,
) -> ChannelConfig:
    """A channel's configuration comes with each of its vouchers: read it once."""
    return ChannelConfig(
        text.parse_address(payer),
        text.parse_address(payer_authorizer),
        text.parse_address(receiver),
        text.parse_address(receiver_authorizer),
        text.parse_address(token),
        withdraw_delay,
        text.parse_bytes32(salt),
    )


def _deposit(wire: _DepositWire) -> DepositPayment:
    authorization = wire.deposit.authorization.erc3009_authorization
    if authorization is None:
        message = "Deposits are taken by ERC-3009 authorization only."
        raise PaymentMalformed(message, codes.ERC3009_REQUIRED)
    return DepositPayment(
        *_channel_fields(wire),
        text.parse_uint(wire.deposit.amount, 128),
        text.parse_uint(authorization.valid_after, 256),
        text.parse_uint(authorization.valid_before, 256),
        int.from_bytes(text.parse_bytes32(authorization.salt), "big"),
        text.parse_hex(authorization.signature),
    )


def _refund_amount(amount: str | None) -> int | None:
    if amount is None:
        return None
    try:
        return text.parse_uint(amount, 128)
    except ValueError as error:
        raise PaymentMalformed(str(error), codes.REFUND_AMOUNT_INVALID) from error


def payload_wire(payload: Payload) -> dict[str, Any]:
    """The scheme's `payload` object."""
    match payload:
        case ExactPayment():
            return _exact_wire(payload)
        case VoucherPayment():
            return {"type": "voucher", **_channel_wire(payload)}
        case DepositPayment():
            return {"type": "deposit", **_channel_wire(payload), "deposit": _deposit_wire(payload)}
        case RefundPayment():
            amount = {} if payload.amount is None else {"amount": str(payload.amount)}
            return {"type": "refund", **_channel_wire(payload), **amount}


def _exact_wire(payment: ExactPayment) -> dict[str, Any]:
    authorization = payment.authorization
    return {
        "authorization": {
            "from": text.checksum(authorization.from_address),
            "to": text.checksum(authorization.to),
            "value": str(authorization.value),
            "validAfter": str(authorization.valid_after),
            "validBefore": str(authorization.valid_before),
            "nonce": text.to_hex(authorization.nonce),
        },
        "signature": text.to_hex(payment.signature),
    }


def _channel_wire(payment: ChannelPayment) -> dict[str, Any]:
    return {
        "channelConfig": payment.config.wire(),
        "voucher": {
            "channelId": text.to_hex(payment.channel_id),
            "maxClaimableAmount": str(payment.max_claimable),
            "signature": text.to_hex(payment.signature),
        },
    }


def _deposit_wire(payment: DepositPayment) -> dict[str, Any]:
    authorization = {
        "validAfter": str(payment.valid_after),
        "validBefore": str(payment.valid_before),
        "salt": text.to_hex(payment.deposit_salt.to_bytes(32, "big")),
        "signature": text.to_hex(payment.deposit_signature),
    }
    return {
        "amount": str(payment.deposit_amount),
        "authorization": {"erc3009Authorization": authorization},
    }
