"""What a bought call cost, where that was proved after its end: by the seller's next answer on
the channel, or by the chain."""

from __future__ import annotations

import asyncio

from msgspec import structs
from sqlalchemy import Engine, text
from sqlmodel import Session

from finance.buying.lost import ANSWER_LOST, ProvedLate
from finance.models import Purchase
from finance.store import Batch, Write
from node.usage.calls import CallRecord, replaced
from node.usage.models import Call, Side

_COSTS = text(
    "UPDATE call SET amount_atoms = :atoms, scheme = :scheme"
    " WHERE id = :id AND amount_atoms = :seen"
)


def late_charges(engine: Engine) -> ProvedLate:
    """Asks what is journaled in `engine`; guarded by that."""

    async def proved_late(purchase_id: str, atoms: int) -> Batch:
        return await asyncio.to_thread(_journal, engine, purchase_id, atoms)

    return proved_late


def _journal(engine: Engine, purchase_id: str, atoms: int) -> Batch:
    call_id = purchase_id.partition("-")[0]
    with Session(engine) as session:
        purchase = session.get_one(Purchase, purchase_id)
        call = session.get(Call, call_id)
        if call is None:
            lost = _lost(call_id, purchase, atoms)
            return Batch([lost.write()], [lost.increment()])
        known = CallRecord.of(call)
        total = known.amount_atoms + atoms
        charged = structs.replace(known, amount_atoms=total, scheme=purchase.scheme)
    row = {"id": call_id, "seen": known.amount_atoms, "atoms": total, "scheme": charged.scheme}
    return Batch([Write(_COSTS, row)], replaced(known, charged))


def _lost(call_id: str, purchase: Purchase, atoms: int) -> CallRecord:
    """A call that nobody has seen the end of: its process was killed, and with it what asked."""
    return CallRecord(
        call_id,
        Side.BOUGHT,
        purchase.created_at * 1000,
        purchase.listing_id,
        purchase.method,
        purchase.path,
        502,
        0,
        key_id=purchase.key_id,
        scheme=purchase.scheme,
        amount_atoms=atoms,
        error=ANSWER_LOST,
        route=purchase.route,
    )
