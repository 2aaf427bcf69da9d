"""Pauses paid serving while the wallet is too low, or while somebody wants it so.

What holds is stored, so that a restart and other processes know it; the gateway asks
memory only. Demo answers and free routes go on: the gateway asks for neither.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select
from sqlmodel import col

from catalog.models import Listing, ListingOrigin
from finance.money import Usdc, Wei
from finance.thresholds import Standing, is_low, observe, pause, resume
from node.accounts.audit import SYSTEM, Actor
from node.alerts.rules import Alarm, Rule
from node.db.engine import writer
from node.db.locks import number_in_turn
from node.preferences import read_preference, store_preference
from node.treasury.choices import Serving, Thresholds
from node.usage.events import event

SUBJECT = "wallet"
LINK = "/finance"
# An older look says nothing about now.
FRESH_SECONDS = 60
# What holds is told again as often: somebody may have resolved it by hand, switched its rule on,
# or the database may have been away.
TOLD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """The wallet when the chain was last asked; None: never, or too long ago."""

    usdc: int | None
    wei: int | None


class Guard:
    """`paused` is asked on each paid call; everything else happens beside it."""

    def __init__(self, engine: Engine, alarm: Alarm, seen: Callable[[float], Seen]) -> None:
        self._engine, self._alarm, self._seen = engine, alarm, seen
        self.standing = Standing()
        self._told: Standing | None = None
        self._told_at = 0.0

    def paused(self) -> bool:
        """Whether paid calls are refused now."""
        return self.standing.paused

    def paused_by_hand(self) -> bool:
        """Whether that is an operator's wish: then subscribers are refused, too."""
        return bool(self.standing.hand_paused_at)

    async def reload(self) -> None:
        """Take over what is stored: at the start, and whenever a choice has changed."""
        self.standing = await asyncio.to_thread(_read, self._engine)

    async def look(self) -> None:
        """Hold the balances against the thresholds; store, announce and raise what changed."""
        now = int(time.time())
        seen = self._seen(now)
        self.standing = await asyncio.to_thread(_observe, self._engine, seen, now)
        await self._tell()

    async def pause(self, actor: Actor, now: int) -> None:
        """By hand, until it is resumed by hand."""
        self.standing = await asyncio.to_thread(_by_hand, self._engine, True, actor, now)
        await self._tell()

    async def resume(self, actor: Actor, now: int) -> None:
        """By hand, also while a balance is low."""
        self.standing = await asyncio.to_thread(_by_hand, self._engine, False, actor, now)
        await self._tell()

    async def _tell(self) -> None:
        """Incidents follow the standing; each is raised once by whoever keeps them."""
        standing, now = self.standing, time.monotonic()
        if standing == self._told and now - self._told_at < TOLD_SECONDS:
            return
        chosen = await asyncio.to_thread(read_preference, self._engine, Thresholds)
        for rule, holds, sentence in _incidents(standing, chosen):
            if holds:
                await self._alarm.raise_(rule, SUBJECT, sentence, LINK)
            else:
                await self._alarm.resolve(rule, SUBJECT)
        self._told, self._told_at = standing, now


def _incidents(standing: Standing, chosen: Thresholds) -> list[tuple[Rule, bool, str]]:
    usdc, gas = Usdc(chosen.low_usdc_atoms), Wei(chosen.low_gas_wei)
    return [
        (Rule.LOW_USDC, standing.low_usdc, f"The wallet has less than {usdc} USDC."),
        (Rule.LOW_GAS, standing.low_gas, f"The wallet has less than {gas} ETH for gas."),
        (Rule.AUTO_PAUSE, bool(standing.auto_paused_at), _why(standing)),
    ]


def _why(standing: Standing) -> str:
    low = " and ".join(
        name for name, is_so in (("USDC", standing.low_usdc), ("gas", standing.low_gas)) if is_so
    )
    return f"Paid serving is paused: the wallet is low on {low or 'money'}. Demo answers go on."


def _read(engine: Engine) -> Standing:
    return read_preference(engine, Serving).standing


def _observe(engine: Engine, seen: Seen, now: int) -> Standing:
    """One look; writes only when something changed."""
    with engine.connect() as connection:
        before = read_preference(connection, Serving).standing
        if _judged(connection, before, seen, now) == before:
            return before
    with writer(engine).begin() as connection:
        number_in_turn(connection)
        before = read_preference(connection, Serving).standing
        after = _judged(connection, before, seen, now)
        _store(connection, before, after, SYSTEM, now)
    return after


def _judged(connection: Connection, before: Standing, seen: Seen, now: int) -> Standing:
    chosen = read_preference(connection, Thresholds)
    sells = _sells(connection)
    low_usdc = is_low(before.low_usdc, seen.usdc, chosen.usdc)
    # Who only buys needs no gas: sellers take the deposits to the chain.
    low_gas = sells and is_low(before.low_gas, seen.wei, chosen.gas)
    if seen.usdc is None or seen.wei is None:
        # Nothing is known: neither a reason to stop, nor one to go on.
        return before
    return observe(before, low_usdc, low_gas, sells and chosen.auto_pause, now)


def _sells(connection: Connection) -> bool:
    own = select(func.count()).where(col(Listing.origin) == ListingOrigin.OWN)
    return bool(connection.scalar(own))


def _by_hand(engine: Engine, pausing: bool, actor: Actor, now: int) -> Standing:
    with writer(engine).begin() as connection:
        number_in_turn(connection)
        before = read_preference(connection, Serving).standing
        after = pause(before, now) if pausing else resume(before)
        _store(connection, before, after, actor, now)
    return after


def _store(
    connection: Connection, before: Standing, after: Standing, actor: Actor, now: int
) -> None:
    """Incidents write their own lines into the event log; what is done by hand has none."""
    if before == after:
        return
    store_preference(connection, Serving.of(after), actor, now)
    for type_, sentence in _by_hand_lines(before, after, actor):
        event(type_, "info", sentence, now).make(connection)


def _by_hand_lines(before: Standing, after: Standing, actor: Actor) -> list[tuple[str, str]]:
    if actor is SYSTEM:
        return []
    if after.hand_paused_at and not before.hand_paused_at:
        return [("serving_paused", f"{actor.name} paused paid serving.")]
    if before.paused and not after.paused:
        return [("serving_resumed", f"{actor.name} resumed paid serving.")]
    return []
