"""When a wallet is too low to serve paid calls, and when it has enough again: pure rules.

A balance at the threshold must not switch serving on and off with every call: what was
low is enough again only above the threshold by a margin. A balance that is not known
changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Level:
    """A threshold in atomic units (0: never low) and how far above it, in percent of it,
    a balance must rise to be enough again."""

    threshold: int
    margin_percent: int

    @property
    def resume_at(self) -> int:
        """The balance that is enough again, rounded up."""
        return -(-self.threshold * (100 + self.margin_percent) // 100)


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds now. Times are Unix seconds, 0 when it is not so.

    `waived`: somebody resumed by hand although a balance is low; holds until it is enough.
    """

    low_usdc: bool = False
    low_gas: bool = False
    auto_paused_at: int = 0
    hand_paused_at: int = 0
    waived: bool = False

    @property
    def paused(self) -> bool:
        return bool(self.auto_paused_at or self.hand_paused_at)


def is_low(was_low: bool, balance: int | None, level: Level) -> bool:
    """Whether a balance is low, given whether it was before."""
    if not level.threshold:
        return False
    if balance is None:
        return was_low
    return balance < (level.resume_at if was_low else level.threshold)


def observe(before: Standing, low_usdc: bool, low_gas: bool, pauses: bool, now: int) -> Standing:
    """The standing once the balances were looked at; `pauses`: low balances pause serving."""
    low = low_usdc or low_gas
    waived = before.waived and low
    low_enough = low and pauses and not waived
    paused_at = (before.auto_paused_at or now) if low_enough else 0
    return replace(
        before, low_usdc=low_usdc, low_gas=low_gas, auto_paused_at=paused_at, waived=waived
    )


def pause(before: Standing, now: int) -> Standing:
    """By hand: holds until somebody resumes by hand."""
    return replace(before, hand_paused_at=before.hand_paused_at or now)


def resume(before: Standing) -> Standing:
    """By hand: serve, also while a balance is low, until it has recovered and falls again."""
    low = before.low_usdc or before.low_gas
    return replace(before, hand_paused_at=0, auto_paused_at=0, waived=low)
