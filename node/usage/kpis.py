"""What the wallet holds, as the first page shows it beside the figures of calls."""

from __future__ import annotations

from dataclasses import dataclass

from finance.money import Usdc, Wei


@dataclass(frozen=True, slots=True)
class Balances:
    """What the wallet held when the chain was last asked; None before it answered."""

    usdc: Usdc | None = None
    gas: Wei | None = None
