"""How much of something is used: figures and a bar, amber near its end and red at it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

AMBER: Final = 80
RED: Final = 100


@dataclass(frozen=True, slots=True)
class Gauge:
    """`used`, of which `cap`; a bar of `percent` (0 to 100) in a tone, and none without `share`,
    which may be more than all of it."""

    name: str
    used: str
    cap: str
    percent: int
    share: str
    tone: str


def gauge(name: str, used: int, cap: int | None, text: Callable[[int], str]) -> Gauge:
    """`text` writes both amounts; `cap` None: there is no end."""
    if cap is None:
        return Gauge(name, text(used), "without a cap", 0, "", "good")
    share = used * 100 // cap if cap else 100
    tone = "bad" if share >= RED else "warn" if share >= AMBER else "good"
    return Gauge(name, text(used), f"of {text(cap)}", min(share, 100), f"{share:,} %", tone)
