"""What travels on the x402 wire, as frozen values with bytes inside.

Requirements, ResourceInfo and PaymentRequired keep the wire's own text, because
a buyer echoes them back; everything signed is parsed to bytes and integers.
Amounts are atomic units, times are Unix seconds, networks CAIP-2 ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Self, TypeVar

import msgspec

from finance.errors import PaymentMalformed
from finance.x402 import codes, text

X402_VERSION = 2
EXACT = "exact"
BATCH_SETTLEMENT_SCHEME = "batch-settlement"

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ResourceInfo(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The resource that is sold, as shown to clients."""

    url: str
    description: str | None = None
    mime_type: str | None = None
    service_name: str | None = None
    tags: list[str] | None = None
    icon_url: str | None = None


class Requirements(msgspec.Struct, frozen=True, rename="camel"):
    """One way to pay: an entry of `accepts`, and what a payment echoes as `accepted`."""

    scheme: str
    network: str
    asset: str
    amount: str
    pay_to: str
    max_timeout_seconds: int
    extra: dict[str, Any] = {}

    @property
    def amount_atoms(self) -> int:
        """The price in atoms; raise PaymentMalformed when it is no uint256 decimal."""
        return _checked(text.parse_uint, self.amount, 256)

    @property
    def chain_id(self) -> int:
        """The EVM chain id; raise PaymentMalformed for another kind of network."""
        namespace, _, reference = self.network.partition(":")
        if namespace != "eip155":
            raise PaymentMalformed("The network is not an EVM chain.", codes.INVALID_REQUIREMENTS)
        return _checked(text.parse_uint, reference, 64)

    @property
    def asset_bytes(self) -> bytes:
        """The token's address; raise PaymentMalformed when it is none."""
        return _checked(text.parse_address, self.asset)

    @property
    def pay_to_bytes(self) -> bytes:
        """The receiver's address; raise PaymentMalformed when it is none."""
        return _checked(text.parse_address, self.pay_to)


class PaymentRequired(
    msgspec.Struct,
    frozen=True,
    rename="camel",
    omit_defaults=True,
    tag_field="x402Version",
    tag=X402_VERSION,
):
    """The 402 answer: the ways to pay for one resource."""

    accepts: list[Requirements]
    error: str | None = None
    resource: ResourceInfo | None = None
    extensions: dict[str, Any] | None = None


class ChannelConfig(msgspec.Struct, frozen=True):
    """The immutable identity of a channel; its digest is the channel id.

    Addresses are 20 bytes, `salt` 32; `withdraw_delay` is in seconds (uint40).
    A zero `payer_authorizer` means vouchers are checked by the payer's contract.
    """

    payer: bytes
    payer_authorizer: bytes
    receiver: bytes
    receiver_authorizer: bytes
    token: bytes
    withdraw_delay: int
    salt: bytes

    def wire(self) -> dict[str, Any]:
        """The camelCase dict of the wire, addresses checksummed."""
        return {
            "payer": text.checksum(self.payer),
            "payerAuthorizer": text.checksum(self.payer_authorizer),
            "receiver": text.checksum(self.receiver),
            "receiverAuthorizer": text.checksum(self.receiver_authorizer),
            "token": text.checksum(self.token),
            "withdrawDelay": self.withdraw_delay,
            "salt": text.to_hex(self.salt),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Self:
        """Read the dict of `wire()`; raise PaymentMalformed when it is not one."""
        try:
            delay = data["withdrawDelay"]
            if type(delay) is not int or not 0 <= delay < 2**40:
                raise ValueError("withdrawDelay is not a uint40.")
            return cls(
                text.parse_address(data["payer"]),
                text.parse_address(data["payerAuthorizer"]),
                text.parse_address(data["receiver"]),
                text.parse_address(data["receiverAuthorizer"]),
                text.parse_address(data["token"]),
                delay,
                text.parse_bytes32(data["salt"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PaymentMalformed("The channel configuration cannot be read.") from error


class TransferAuthorization(msgspec.Struct, frozen=True):
    """The fields of an EIP-3009 authorization (transfer or receive)."""

    from_address: bytes
    to: bytes
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes


class ExactPayment(msgspec.Struct, frozen=True):
    """Scheme `exact`: one signed transfer of the price."""

    authorization: TransferAuthorization
    signature: bytes


class VoucherPayment(msgspec.Struct, frozen=True):
    """A cumulative voucher on an open channel."""

    config: ChannelConfig
    channel_id: bytes
    max_claimable: int
    signature: bytes


class DepositPayment(msgspec.Struct, frozen=True):
    """A voucher with the gasless deposit that opens or tops up its channel."""

    config: ChannelConfig
    channel_id: bytes
    max_claimable: int
    signature: bytes
    deposit_amount: int
    valid_after: int
    valid_before: int
    deposit_salt: int
    deposit_signature: bytes


class RefundPayment(msgspec.Struct, frozen=True):
    """A payer's wish to have unspent money back; `amount` None means all of it."""

    config: ChannelConfig
    channel_id: bytes
    max_claimable: int
    signature: bytes
    amount: int | None = None


ChannelPayment = VoucherPayment | DepositPayment | RefundPayment
Payload = ExactPayment | VoucherPayment | DepositPayment | RefundPayment


class Payment(msgspec.Struct, frozen=True):
    """A decoded PAYMENT-SIGNATURE header. Nothing in it has been checked yet.

    `raw_digest` is the SHA-256 of the header: two requests that carry it equal
    carry the same payment, byte for byte.
    """

    accepted: Requirements
    payload: Payload
    extensions: dict[str, Any] | None
    payment_identifier: str | None
    raw_digest: bytes
    resource: ResourceInfo | None = None


class ChannelState(msgspec.Struct, frozen=True):
    """A channel as its seller sees it; `charged_cumulative_amount` is what was sold."""

    channel_id: bytes
    balance: int
    total_claimed: int
    withdraw_requested_at: int = 0
    refund_nonce: int = 0
    charged_cumulative_amount: int | None = None


class VoucherState(msgspec.Struct, frozen=True):
    """The highest voucher a seller holds for a channel."""

    signed_max_claimable: int
    signature: bytes


class Receipt(msgspec.Struct, frozen=True):
    """A PAYMENT-RESPONSE: what became of a payment.

    `transaction` is empty for a voucher (nothing went on-chain), and so is the
    wire's `amount` then (None here); `payer` is 0x text.
    """

    success: bool
    transaction: str
    network: str
    payer: str | None = None
    amount: int | None = None
    error_reason: str | None = None
    error_message: str | None = None
    charged_amount: int | None = None
    channel_state: ChannelState | None = None
    voucher_state: VoucherState | None = None


def _checked(parse: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
        return parse(*args, **kwargs)
    except ValueError as error:
        raise PaymentMalformed(str(error), codes.INVALID_REQUIREMENTS) from error
