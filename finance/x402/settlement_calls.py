"""Calls of the BatchSettlement contract, as calldata."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from eth_abi.abi import decode, encode

from finance.x402.abi import calldata
from finance.x402.digest import ERC3009_COLLECTOR
from finance.x402.values import ChannelConfig, DepositPayment

_CONFIG = "(address,address,address,address,address,uint40,bytes32)"
_CLAIMS = f"(({_CONFIG},uint128),bytes,uint128)[]"


class Claim(msgspec.Struct, frozen=True):
    """One channel's part of a claim: its highest voucher, and the total to be claimed."""

    config: ChannelConfig
    max_claimable: int
    signature: bytes
    total_claimed: int


def collector_data(valid_after: int, valid_before: int, salt: int, signature: bytes) -> bytes:
    """What the ERC-3009 collector needs to pull a deposit."""
    types = ("uint256", "uint256", "uint256", "bytes")
    return encode(types, (valid_after, valid_before, salt, signature))


def deposit_calldata(payment: DepositPayment) -> bytes:
    """`deposit` through the ERC-3009 collector."""
    data = collector_data(
        payment.valid_after, payment.valid_before, payment.deposit_salt, payment.deposit_signature
    )
    types = (_CONFIG, "uint128", "address", "bytes")
    config = _tuple(payment.config)
    return calldata("deposit", types, config, payment.deposit_amount, ERC3009_COLLECTOR, data)


def claim_calldata(claims: Sequence[Claim], authorizer_signature: bytes) -> bytes:
    """`claimWithSignature` for many channels."""
    rows = [
        ((_tuple(claim.config), claim.max_claimable), claim.signature, claim.total_claimed)
        for claim in claims
    ]
    return calldata("claimWithSignature", (_CLAIMS, "bytes"), rows, authorizer_signature)


def refund_calldata(config: ChannelConfig, amount: int, nonce: int, signature: bytes) -> bytes:
    """`refundWithSignature`: unspent money back to the payer."""
    types = (_CONFIG, "uint128", "uint256", "bytes")
    return calldata("refundWithSignature", types, _tuple(config), amount, nonce, signature)


def initiate_withdraw_calldata(config: ChannelConfig, amount: int) -> bytes:
    """`initiateWithdraw`: the payer announces that it takes money back."""
    return calldata("initiateWithdraw", (_CONFIG, "uint128"), _tuple(config), amount)


def finalize_withdraw_calldata(config: ChannelConfig) -> bytes:
    """`finalizeWithdraw`: once the delay is over, the money goes to the payer."""
    return calldata("finalizeWithdraw", (_CONFIG,), _tuple(config))


def settle_calldata(receiver: bytes, token: bytes) -> bytes:
    """`settle`: claimed money to the receiver's wallet."""
    return calldata("settle", ("address", "address"), receiver, token)


def multicall_calldata(calls: Sequence[bytes]) -> bytes:
    """`multicall`: several of these calls in one transaction, all or nothing."""
    return calldata("multicall", ("bytes[]",), list(calls))


def calls_of_multicall(data: bytes) -> tuple[bytes, ...]:
    """What `multicall_calldata` was made of."""
    (calls,) = decode(("bytes[]",), data[4:])
    return tuple(calls)


def _tuple(config: ChannelConfig) -> tuple[bytes, bytes, bytes, bytes, bytes, int, bytes]:
    return msgspec.structs.astuple(config)
