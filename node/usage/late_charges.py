"""What a bought call cost, where that was proved after its end: by the seller's next answer on
the channel, or by the chain."""

from __future__ import annotations

import asyncio

from msgspec import structs
from sqlalchemy import Engine, text
from sqlmodel import Session

from finance.buying.lost import ANSWER_LOST, ProvedLate
from finance.buying.purchase import call_of
from finance.models import Purchase
from finance.store import Batch, Write
from node.usage.calls import CallRecord, replaced
from node.usage.models import Call, Side

# Its own row may be written in the same moment, by whoever gave up: the proof, on which money is
# booked, depends on neither order.
_NAMES = CallRecord.__struct_fields__
_COSTS = text(
    f"INSERT INTO call ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)})"
    " ON CONFLICT (id) DO UPDATE SET amount_atoms = call.amount_atoms + excluded.amount_atoms,"
    " scheme = excluded.scheme"
)


def late_charges(engine: Engine) -> ProvedLate:
    """Asks what is journaled in `engine`."""

    async def proved_late(purchase_id: str, atoms: int) -> Batch:
        return await asyncio.to_thread(_journal, engine, purchase_id, atoms)

    return proved_late


def _journal(engine: Engine, purchase_id: str, atoms: int) -> Batch:
    call_id = call_of(purchase_id)
    with Session(engine) as session:
        purchase = session.get_one(Purchase, purchase_id)
        call = session.get(Call, call_id)
        known = CallRecord.of(call) if call else _lost(call_id, purchase)
    charged = structs.replace(
        known, amount_atoms=known.amount_atoms + atoms, scheme=purchase.scheme
    )
    costs = Write(_COSTS, {**charged.write().params, "amount_atoms": atoms})
    return Batch([costs], replaced(known, charged) if call else [charged.increment()])


def _lost(call_id: str, purchase: Purchase) -> CallRecord:
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
        error=ANSWER_LOST,
        route=purchase.route,
    )
