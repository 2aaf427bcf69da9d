"""Answers that were charged and lost, found again by showing the same signature.

A proof says how much a channel was charged, not for which of several vouchers over the
same amount. The seller knows: it gives its kept answer to the signature it charged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Engine, text
from sqlmodel import Session, col, select

from finance.buying.purchase import free_key
from finance.ledger import Account, entry, purchase_key
from finance.models import Purchase, PurchaseState
from finance.store import Batch, Store, Write

ANSWER_LOST = "answer_lost"

ProvedLate = Callable[[str, int], Awaitable[Batch]]
"""(purchase id, atoms) to what the journal of calls then says: the call cost so much more than
was known at its end."""

_FOUND = text(
    "UPDATE purchase SET state = 'paid', error = NULL, charged_atoms = amount_atoms,"
    " updated_at = :now WHERE call_id = :call_id AND state = :seen"
)
_NOT_THAT_ONE = text(
    "UPDATE purchase SET state = 'failed', error = 'not_charged', charged_atoms = 0,"
    " updated_at = :now WHERE channel_id = :channel_id AND cumulative_atoms = :cumulative"
    " AND call_id <> :call_id AND state = 'paid' AND error = 'answer_lost'"
)
_LOST = text(
    "UPDATE purchase SET error = 'answer_lost', updated_at = :now WHERE key_id = :key_id"
    " AND idempotency_key = :idempotency_key AND state = 'paid'"
)
_KEEP_KEY = text("UPDATE purchase SET idempotency_key = :idempotency_key WHERE call_id = :call_id")


def read_purchase(engine: Engine, call_id: str) -> Purchase | None:
    """The row as it stands; blocks."""
    with Session(engine, expire_on_commit=False) as session:
        return session.get(Purchase, call_id)


async def charged_before(store: Store, earlier: Purchase, tried: Sequence[str]) -> bool:
    """Whether a refusal has proved that a call was charged already: by its `earlier` try, or by
    the same voucher under one of the ids `tried` since. Its Idempotency-Key then stays there."""
    known = [earlier.call_id, *tried]
    paid = await asyncio.to_thread(_paid_of, store.engine, known)
    if paid is None:
        return False
    kept = Write(_KEEP_KEY, {"idempotency_key": earlier.idempotency_key, "call_id": paid})
    await store.commit(Batch([*free_key(known), kept]))
    return True


def _paid_of(engine: Engine, call_ids: Sequence[str]) -> str | None:
    paid = select(Purchase.call_id).where(
        col(Purchase.call_id).in_(call_ids), col(Purchase.state) == PurchaseState.PAID
    )
    with Session(engine) as session:
        return session.exec(paid).first()


def lost(key_id: str, idempotency_key: str, now: int) -> Write:
    """The answer of a paid call did not come whole, and was not kept."""
    key = {"key_id": key_id, "idempotency_key": idempotency_key, "now": now}
    return Write(_LOST, key, rows=None)


async def found(purchase: Purchase, engine: Engine, proved_late: ProvedLate, now: int) -> Batch:
    """The purchase got its answer after all; `purchase` as read before the seller was asked.

    If its charge was put down to another voucher over the same amount, or to none, it is
    put down to this one: the channel's sum stays what it is.
    """
    row = {"call_id": purchase.call_id, "seen": str(purchase.state), "now": now}
    writes = [Write(_FOUND, row)]
    if purchase.state == PurchaseState.PAID:
        return Batch(writes)
    params = {
        "call_id": purchase.call_id,
        "channel_id": purchase.channel_id,
        "cumulative": purchase.cumulative_atoms,
        "now": now,
    }
    moved = f"moved:{purchase.call_id}", purchase.amount_atoms
    booked = purchase_key(purchase.call_id), -purchase.amount_atoms
    other = await asyncio.to_thread(_paid_instead, engine, purchase)
    call = Batch([]) if other is None else await proved_late(other, -purchase.amount_atoms)
    writes += [
        *call.writes,
        Write(_NOT_THAT_ONE, params, rows=None),
        *(
            entry(key, Account.SPENT, atoms, now, channel_id=purchase.channel_id)
            for key, atoms in (moved, booked)
        ),
    ]
    return Batch(writes, call.increments)


def _paid_instead(engine: Engine, purchase: Purchase) -> str | None:
    other = select(Purchase.call_id).where(
        Purchase.channel_id == purchase.channel_id,
        Purchase.cumulative_atoms == purchase.cumulative_atoms,
        Purchase.call_id != purchase.call_id,
        Purchase.state == PurchaseState.PAID,
        Purchase.error == ANSWER_LOST,
    )
    with Session(engine) as session:
        return session.exec(other).first()
