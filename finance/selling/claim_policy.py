"""When vouchers are claimed (law 8): rules over frozen values.

Claiming costs gas, so small amounts wait for each other, and for cheap gas, but not
for ever. A payer's withdrawal waits for nothing: what is not claimed when it ends
is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from finance.models import ChannelState


class Reason(StrEnum):
    """Why vouchers are claimed now."""

    WITHDRAWAL = "withdrawal"  # a payer is taking the channel's money back
    AT_RISK = "at_risk"  # too much is owed on vouchers
    INTERVAL = "interval"  # it is time
    OVERDUE = "overdue"  # gas stayed dear for too long
    REQUESTED = "requested"  # before backup, upgrade, shutdown; or by hand


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """What the operator chose. Atoms of USDC, seconds, wei per unit of gas."""

    interval_seconds: int = 3600
    at_risk_atoms: int = 5_000_000
    dust_atoms: int = 10_000
    gas_price_wei: int = 2 * 10**9
    longest_seconds: int = 86_400


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A channel as far as claiming goes; `unclaimed` atoms were charged and delivered."""

    channel_id: str
    unclaimed: int
    withdraw_requested_at: int
    state: str = ChannelState.OPEN


def due(
    now: int, channels: Sequence[ClaimView], policy: ClaimPolicy, gas_price: int, since: int
) -> Reason | None:
    """Why everything should be claimed now, or None.

    `since` is when the last claim was made (Unix seconds; of a node that never claimed: when
    its first channel came), or until when there was nothing worth one.
    """
    if any(withdrawing(channel) for channel in channels):
        return Reason.WITHDRAWAL
    if not worth_claiming(channels, policy):
        return None
    waited = now - since
    if waited >= policy.longest_seconds:
        return Reason.OVERDUE
    if gas_price > policy.gas_price_wei:
        return None
    if _unclaimed(channels) >= policy.at_risk_atoms:
        return Reason.AT_RISK
    return Reason.INTERVAL if waited >= policy.interval_seconds else None


def worth_claiming(channels: Sequence[ClaimView], policy: ClaimPolicy) -> bool:
    """Whether more than dust is owed."""
    return _unclaimed(channels) >= max(policy.dust_atoms, 1)


def _unclaimed(channels: Sequence[ClaimView]) -> int:
    return sum(channel.unclaimed for channel in channels)


def withdrawing(channel: ClaimView) -> bool:
    """Whether the payer is taking money back while we hold vouchers."""
    return channel.unclaimed > 0 and channel.withdraw_requested_at > 0
