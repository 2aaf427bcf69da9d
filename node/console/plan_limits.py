"""Whether the spending limits let a plan be paid, said before anything is agreed to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sqlalchemy import Engine

from finance.money import Usdc
from node.console.explorer import LimitLine, limit_line
from node.console.forms import FieldError
from node.market.try_it import Left, limits_left


def limit_lines(limits: Iterable[Left], price_atoms: int) -> tuple[LimitLine, ...]:
    """What each limit leaves, and which are too tight for a price."""
    return tuple(limit_line(each, price_atoms) for each in limits)


def labels_of(limits: Iterable[LimitLine]) -> str:
    """The limits that a price does not fit in; empty for none."""
    return ", ".join(f"“{each.label}”" for each in limits if each.short)


async def check_limits(engine: Engine, listing_id: str, price_atoms: int, now: int) -> None:
    """Raises FieldError where a payment for this listing would be refused at once."""
    if not price_atoms:
        return
    left = await asyncio.to_thread(limits_left, engine, listing_id, now)
    if labels := labels_of(limit_lines(left, price_atoms)):
        sentence = f"It costs {Usdc(price_atoms)} USDC, and the spending limit {labels} forbids"
        raise FieldError("", f"{sentence} that. Nothing was paid.")
