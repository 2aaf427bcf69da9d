"""What is changed about a subscription without paying: plan, end, key, choices, requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from sqlalchemy import Engine, Row, delete, insert, select
from sqlmodel import col

from finance.money import MAX_ATOMS, Usdc
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.plans.buying.errors import NotPossibleNow, SellerSaysNo, SubscriptionInvalid
from node.plans.buying.models import BoughtRequest, BoughtState
from node.plans.buying.ordering import hash_of, new_secret
from node.plans.buying.ports import Asked, Line, Told, Vault
from node.plans.buying.rows import (
    change_row,
    new_id,
    note,
    place_of,
    read_live,
    read_row,
    refuse_while_ordering,
)
from node.plans.buying.sync import KEY_UNKNOWN, PATH, Sync
from node.plans.terms import Beyond
from node.usage.overrides import LONGEST_SECONDS
from node.usage.quotas import Meter

MOST_TEXT: Final = 1_000
RESEND_SECONDS: Final = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the seller is asked for: support (`text` alone), or an override of a meter to `cap`
    a month (None: no end) until a time."""

    text: str
    meter: Meter | None = None
    cap: int | None = None
    until: int = 0

    @property
    def kind(self) -> str:
        return "support" if self.meter is None else "override"

    def check(self, now: int) -> None:
        """Raises SubscriptionInvalid."""
        if not 1 <= len(self.text) <= MOST_TEXT or "\0" in self.text:
            raise SubscriptionInvalid("text", f"Write at most {MOST_TEXT:,} characters.")
        if self.meter is None:
            return
        if self.cap is not None and not 0 < self.cap <= 10**12:
            raise SubscriptionInvalid("cap", "Write how much a month, or nothing for no end.")
        if not now < self.until <= now + LONGEST_SECONDS:
            raise SubscriptionInvalid("until", "Choose an end within a year from now.")

    def body(self) -> bytes:
        """As it is sent."""
        told: dict[str, Any] = {"kind": self.kind, "text": self.text}
        if self.meter is not None:
            told |= {"meter": self.meter.value, "cap": self.cap, "until": self.until}
        return msgspec.json.encode(told)


class Changing:
    """Changes at the seller first, then here; a look at the seller says what came of it."""

    def __init__(
        self, engine: Engine, line: Line, vault: Vault, sync: Sync, clock: Callable[[], float]
    ) -> None:
        self._engine, self._line, self._vault = engine, line, vault
        self._sync, self._clock = sync, clock

    async def choose_plan(self, actor: Actor, subscription_id: str, plan_id: str | None) -> None:
        """The plan that the next renewal buys; None: the present one. Raises
        SubscriptionError."""
        row = await asyncio.to_thread(self._live, subscription_id)
        body = msgspec.json.encode({"plan_id": plan_id})
        _check(await self._ask(row, "PUT", "/plan", body))
        text = "The next renewal buys another plan." if plan_id else "The plan stays as it is."
        audit = {"plan": plan_id}
        await asyncio.to_thread(self._record, actor, row.id, "downgrade", text, audit, {})
        await self._sync.look(row.id)

    async def cancel(self, actor: Actor, subscription_id: str) -> None:
        """No renewal any more; it is good until the end of what is paid. Raises
        SubscriptionError; then nothing is paid all the same."""
        row = await asyncio.to_thread(self._live, subscription_id)
        off = {"renews": False}
        text = "Cancelled: it is good until the end of what is paid, and not renewed."
        await asyncio.to_thread(self._record, actor, row.id, "cancel", text, off, off)
        told = await self._ask(row, "DELETE", "")
        if not told.good and told.code != "subscription_cancelled":
            why = told.detail or told.code
            sentence = f"The seller could not be told ({why}). It is not renewed any more all"
            raise SellerSaysNo(f"{sentence} the same; cancel again to tell the seller.", told.code)
        cancelled = {"state": BoughtState.CANCELLED.value, "renews": False}
        await asyncio.to_thread(self._change, row.id, cancelled)
        await self._sync.look(row.id)

    async def choose(
        self,
        actor: Actor,
        subscription_id: str,
        renews: bool,
        agreed_atoms: int,
        beyond: Beyond,
    ) -> None:
        """Whether it is renewed, for how much at the most, and what calls beyond the quota do.
        Raises SubscriptionError."""
        if not 0 <= agreed_atoms <= MAX_ATOMS:
            raise SubscriptionInvalid("agreed", "Write an amount of USDC.")
        row = await asyncio.to_thread(self._live, subscription_id)
        if row.state == BoughtState.CANCELLED and renews:
            raise NotPossibleNow("It was cancelled, and ends. Subscribe anew when it has.")
        less = renews < row.renews or agreed_atoms < row.agreed_atoms
        values = {"renews": renews, "agreed_atoms": agreed_atoms, "beyond": beyond.value}
        word = "is renewed" if renews else "is not renewed"
        text = f"It {word} by itself, for at most {Usdc(agreed_atoms)} USDC a month."
        await asyncio.to_thread(self._record, actor, row.id, "choose", text, values, values, less)

    async def rotate(self, actor: Actor, subscription_id: str) -> None:
        """A new key: written here before the seller hears of it, so that neither is lost. One
        that it may have heard of is sent again. Raises SubscriptionError."""
        row = await asyncio.to_thread(self._live, subscription_id)
        if row.new_secret_sealed:
            await self._sync.look(row.id)
            row = await asyncio.to_thread(self._live, subscription_id)
        new = row.new_secret_sealed or self._vault.seal(new_secret().encode())
        text, written = "The key was replaced by a new one.", {"new_secret_sealed": new}
        await asyncio.to_thread(self._record, actor, row.id, "rotate", text, {}, written)
        secret = await asyncio.to_thread(self._vault.unseal, new)
        body = msgspec.json.encode({"key_hash": hash_of(secret.decode())})
        told = await self._ask(row, "PUT", "/key", body)
        if not told.good:
            # If it was changed all the same, the look finds out by the new key.
            await self._sync.look(row.id)
            _check(told)
        done = {"secret_sealed": new, "new_secret_sealed": ""}
        await asyncio.to_thread(self._change, row.id, done)

    async def ask(self, actor: Actor, subscription_id: str, wanted: Wanted) -> bool:
        """Ask the seller; False: it does not answer now, and is asked again later. Raises
        SubscriptionError."""
        now = int(self._clock())
        wanted.check(now)
        row = await asyncio.to_thread(self._live, subscription_id)
        request_id = await asyncio.to_thread(self._write_request, actor, row, wanted, now)
        told = await self._ask(row, "POST", "/requests", wanted.body())
        if not told.good and told.answered:
            await asyncio.to_thread(self._forget_request, request_id)
            _check(told)
        await self._sync.look(row.id)
        return told.good

    async def resend(self, subscription_id: str) -> None:
        """What was asked and did not reach the seller; call it after a look, which finds what
        did."""
        row, unsent = await asyncio.to_thread(self._unsent, subscription_id)
        for each in unsent:
            meter = Meter(each.meter) if each.meter else None
            wanted = Wanted(each.text, meter, each.cap, each.until)
            told = await self._ask(row, "POST", "/requests", wanted.body())
            if not told.good:
                return
        if unsent:
            await self._sync.look(subscription_id)

    async def _ask(self, row: Row[Any], method: str, path: str, body: bytes = b"") -> Told:
        secret = await asyncio.to_thread(self._vault.unseal, row.secret_sealed)
        where = f"{PATH}/{row.seller_id}{path}"
        return await self._line.ask_seller(Asked(place_of(row), method, where, secret, body))

    def _live(self, subscription_id: str) -> Row[Any]:
        with self._engine.connect() as connection:
            return read_live(connection, subscription_id, int(self._clock()))

    def _change(self, subscription_id: str, values: dict[str, Any]) -> None:
        with writer(self._engine).begin() as connection:
            change_row(connection, subscription_id, values)

    def _record(
        self,
        actor: Actor,
        subscription_id: str,
        kind: str,
        text: str,
        audit: dict[str, Any],
        values: dict[str, Any],
        less: bool = False,
    ) -> None:
        """`less`: raises NotPossibleNow while an order is open, which may still cost what was
        agreed to."""
        now = int(self._clock())
        with writer(self._engine).begin() as connection:
            before = read_row(connection, subscription_id, hold=True)
            if less:
                refuse_while_ordering(connection, subscription_id)
            was = {name: getattr(before, name) for name in audit if hasattr(before, name)}
            action = f"subscription.{kind}"
            record(connection, actor, action, subscription_id, now, was or None, audit or None)
            note(connection, subscription_id, kind, text, now, by=actor.name)
            if values:
                change_row(connection, subscription_id, values)

    def _write_request(self, actor: Actor, row: Row[Any], wanted: Wanted, now: int) -> str:
        request_id = new_id("req")
        values = {
            "id": request_id,
            "subscription_id": row.id,
            "seller_id": "",
            "kind": wanted.kind,
            "meter": wanted.meter.value if wanted.meter else "",
            "cap": wanted.cap,
            "until": wanted.until,
            "text": wanted.text,
            "state": "open",
            "answer": "",
            "asked_at": now,
            "asked_by": actor.name,
            "answered_at": 0,
        }
        audit = {"kind": wanted.kind, "meter": values["meter"], "cap": wanted.cap}
        with writer(self._engine).begin() as connection:
            connection.execute(insert(BoughtRequest), values)
            record(connection, actor, "subscription.ask", row.id, now, after=audit)
        return request_id

    def _forget_request(self, request_id: str) -> None:
        with writer(self._engine).begin() as connection:
            connection.execute(delete(BoughtRequest).where(col(BoughtRequest.id) == request_id))

    def _unsent(self, subscription_id: str) -> tuple[Row[Any], list[Row[Any]]]:
        since = int(self._clock()) - RESEND_SECONDS
        unsent = (col(BoughtRequest.seller_id) == "") & (col(BoughtRequest.asked_at) >= since)
        statement = select(BoughtRequest.__table__).where(  # type: ignore[attr-defined]
            col(BoughtRequest.subscription_id) == subscription_id, unsent
        )
        with self._engine.connect() as connection:
            return read_row(connection, subscription_id), list(connection.execute(statement))


def _check(told: Told) -> None:
    """Raises SellerSaysNo."""
    if told.good:
        return
    if told.code == KEY_UNKNOWN:
        raise SellerSaysNo("The seller does not know this subscription's key.", told.code)
    raise SellerSaysNo(told.detail or f"The seller answered {told.status}.", told.code)
