"""What a movement of the wallet's USDC is about, told once, when it is booked."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from finance.chain.events import BATCH_SETTLEMENT_HEX
from finance.networks import ERC3009_COLLECTOR_ADDRESS

_CHANNELS = (BATCH_SETTLEMENT_HEX, ERC3009_COLLECTOR_ADDRESS.lower())
_SWEEPS = ("claim", "refund")
_WITHDRAWALS = ("withdraw_usdc", "withdraw_eth")


class Action(StrEnum):
    """What a line of the history is about."""

    RECEIVED = "received"  # somebody sent it
    SALE = "sale"  # a call paid by an exact payment
    SWEEP = "sweep"  # claimed vouchers turned into money
    RETURNED = "returned"  # out of a channel we paid through
    DEPOSIT = "deposit"  # into a channel we pay through
    PURCHASE = "purchase"  # a call bought by an exact payment
    WITHDRAWAL = "withdrawal"
    GAS = "gas"
    TAKEN_BACK = "taken_back"  # booked before, reorganised away


def action_of(amount: int, args: Mapping[str, Any], purpose: str) -> Action:
    """Of a transfer that stands: `amount` in atoms, in is positive; `args` of its event;
    `purpose` of our transaction that made it, empty when it was not ours."""
    if amount > 0:
        return _incoming(args, purpose)
    if purpose in _WITHDRAWALS:
        return Action.WITHDRAWAL
    return Action.DEPOSIT if args.get("to") in _CHANNELS else Action.PURCHASE


def _incoming(args: Mapping[str, Any], purpose: str) -> Action:
    if purpose == "settle":
        return Action.SALE
    if purpose in _SWEEPS:
        return Action.SWEEP
    return Action.RETURNED if args.get("from") == BATCH_SETTLEMENT_HEX else Action.RECEIVED
