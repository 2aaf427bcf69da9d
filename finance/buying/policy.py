"""How this node likes to buy. Limits are the operator's (finance.buying.limits); this is taste."""

from __future__ import annotations

from dataclasses import dataclass

from finance.x402.values import BATCH_SETTLEMENT_SCHEME, EXACT


@dataclass(frozen=True, slots=True)
class BuyingPolicy:
    """`prefer` orders schemes; `deposit_calls` is how many calls a first deposit should pay
    for (each top-up doubles what the channel ever held, within the limits)."""

    prefer: tuple[str, ...] = (BATCH_SETTLEMENT_SCHEME, EXACT)
    max_channels_per_seller: int = 16
    deposit_calls: int = 100
    # How long a call waits for a channel in use before a further one is opened, and in all.
    patience_seconds: float = 0.25
    channel_wait_seconds: float = 5.0
    # How long a channel is left alone that the seller says is busy with somebody else's call.
    elsewhere_seconds: float = 1.0
    # An authorization is never left valid for longer than this, whatever the seller asks.
    max_validity_seconds: int = 600
