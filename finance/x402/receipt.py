"""PAYMENT-RESPONSE, and the channel state a seller tells: values to wire and back."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from finance.errors import PaymentMalformed
from finance.x402 import text
from finance.x402.header import UNREADABLE, decode, sentence, unwrap_storable, wrap
from finance.x402.values import ChannelState, Receipt, VoucherState

# Sellers write these as decimal text or as JSON numbers.
_Number = str | int


class _ChannelStateWire(msgspec.Struct, rename="camel"):
    channel_id: str
    balance: _Number
    total_claimed: _Number
    withdraw_requested_at: _Number = 0
    refund_nonce: _Number = 0
    charged_cumulative_amount: _Number | UnsetType | None = UNSET


class _VoucherStateWire(msgspec.Struct, rename="camel"):
    signed_max_claimable: _Number
    signature: str


class _Extra(msgspec.Struct, rename="camel"):
    channel_state: _ChannelStateWire | UnsetType | None = UNSET
    voucher_state: _VoucherStateWire | UnsetType | None = UNSET
    charged_amount: _Number | UnsetType | None = UNSET


class _ReceiptWire(msgspec.Struct, rename="camel"):
    success: bool
    transaction: str
    network: str
    error_reason: str | UnsetType | None = UNSET
    error_message: str | UnsetType | None = UNSET
    payer: str | UnsetType | None = UNSET
    amount: str | UnsetType | None = UNSET
    extra: _Extra | UnsetType | None = UNSET


_RECEIPT = msgspec.json.Decoder(_ReceiptWire)
_EXTRA = msgspec.json.Decoder(_Extra)
_ENCODER = msgspec.json.Encoder()


def encode_response(receipt: Receipt) -> bytes:
    """The PAYMENT-RESPONSE header of a receipt."""
    wire = _ReceiptWire(
        receipt.success,
        receipt.transaction,
        receipt.network,
        _given(receipt.error_reason),
        _given(receipt.error_message),
        _payer(receipt),
        _amount(receipt),
        _extra(receipt),
    )
    return wrap(_ENCODER.encode(wire))


def decode_response(header: bytes | str, max_bytes: int = 65536) -> Receipt:
    """Read a PAYMENT-RESPONSE header; raise PaymentMalformed for all that is none."""
    wire = decode(_RECEIPT, unwrap_storable(header, max_bytes))
    extra = wire.extra or _Extra()
    try:
        return Receipt(
            wire.success,
            wire.transaction,
            wire.network,
            wire.payer or None,
            text.parse_uint(wire.amount, 256) if wire.amount else None,
            wire.error_reason or None,
            wire.error_message or None,
            _optional_number(extra.charged_amount, 128),
            _channel_state(extra.channel_state),
            _voucher_state(extra.voucher_state),
        )
    except UNREADABLE as error:
        raise PaymentMalformed(sentence(error)) from error


def read_states(extra: dict[str, Any]) -> tuple[ChannelState | None, VoucherState | None]:
    """The states in a corrective 402's `extra`; raise PaymentMalformed when unreadable."""
    try:
        wire = _EXTRA.decode(_ENCODER.encode(extra))
        return _channel_state(wire.channel_state), _voucher_state(wire.voucher_state)
    except UNREADABLE as error:
        raise PaymentMalformed(sentence(error)) from error


def states_wire(
    channel_state: ChannelState | None, voucher_state: VoucherState | None
) -> dict[str, Any]:
    """The entries a corrective 402 adds to `extra`."""
    entries: dict[str, Any] = {}
    if channel_state is not None:
        entries["channelState"] = _channel_state_wire(channel_state)
    if voucher_state is not None:
        entries["voucherState"] = _voucher_state_wire(voucher_state)
    return entries


def _payer(receipt: Receipt) -> str | UnsetType:
    """Checksummed, as clients compare it with their own address."""
    payer = receipt.payer
    return UNSET if payer is None else text.checksum(text.parse_address(payer))


def _given(value: str | None) -> str | UnsetType:
    return UNSET if value is None else value


def _amount(receipt: Receipt) -> str | UnsetType:
    """A charged voucher moves nothing on-chain: the SDK says `""` for its amount."""
    if receipt.amount is not None:
        return str(receipt.amount)
    return "" if receipt.success and receipt.channel_state is not None else UNSET


def _extra(receipt: Receipt) -> _Extra | UnsetType:
    channel, voucher = receipt.channel_state, receipt.voucher_state
    if channel is None and voucher is None and receipt.charged_amount is None:
        return UNSET
    return _Extra(
        UNSET if channel is None else _channel_state_wire(channel),
        UNSET if voucher is None else _voucher_state_wire(voucher),
        UNSET if receipt.charged_amount is None else str(receipt.charged_amount),
    )


def _channel_state_wire(state: ChannelState) -> _ChannelStateWire:
    charged = state.charged_cumulative_amount
    return _ChannelStateWire(
        text.to_hex(state.channel_id),
        str(state.balance),
        str(state.total_claimed),
        state.withdraw_requested_at,
        str(state.refund_nonce),
        UNSET if charged is None else str(charged),
    )


def _voucher_state_wire(state: VoucherState) -> _VoucherStateWire:
    return _VoucherStateWire(str(state.signed_max_claimable), text.to_hex(state.signature))


def _channel_state(wire: _ChannelStateWire | UnsetType | None) -> ChannelState | None:
    if not isinstance(wire, _ChannelStateWire):
        return None
    return ChannelState(
        text.parse_bytes32(wire.channel_id),
        _number(wire.balance, 128),
        _number(wire.total_claimed, 128),
        _number(wire.withdraw_requested_at, 40),
        _number(wire.refund_nonce, 256),
        _optional_number(wire.charged_cumulative_amount, 128),
    )


def _voucher_state(wire: _VoucherStateWire | UnsetType | None) -> VoucherState | None:
    if not isinstance(wire, _VoucherStateWire):
        return None
    return VoucherState(_number(wire.signed_max_claimable, 128), text.parse_hex(wire.signature))


def _optional_number(value: _Number | UnsetType | None, bits: int) -> int | None:
    return None if value is None or value is UNSET else _number(value, bits)


def _number(value: _Number, bits: int) -> int:
    return text.parse_uint(value if isinstance(value, str) else str(value), bits)
