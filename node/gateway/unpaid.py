"""Calls booked as paid when their answer was stored, whose money then never came.

Such an answer never left. Who waited for the money undoes the call at once; what nobody
waited for, since its caller left or its process ended, is found by looking for it.
"""

from __future__ import annotations

import asyncio

from msgspec import structs
from sqlalchemy import Engine, text

from finance.errors import StoreConflict
from finance.store import Batch, Store, Write
from node.gateway.stream_minutes import minute_back
from node.usage.calls import CallRecord, replaced

_UNPAID = text(
    "UPDATE call SET amount_atoms = 0, status = 402, bytes_out = 0, error = :error"
    " WHERE id = :id AND amount_atoms > 0"
)
_FORGET = text("DELETE FROM stored_answer WHERE key = :key AND call_id = :id")
_KEPT = text("SELECT key FROM stored_answer WHERE call_id = :id")
_BOOKED = text("SELECT * FROM call WHERE id = :id AND amount_atoms > 0")
_FAILED = text(
    "SELECT p.id, p.error FROM onchain_payment p JOIN call c ON c.id = p.id"
    " WHERE p.state = 'failed' AND c.amount_atoms > 0 AND c.side = 'served'"
)


async def undo_unpaid(store: Store) -> int:
    """Undo every call whose payment has failed in the meantime; how many."""
    failed = await asyncio.to_thread(_failed, store.engine)
    for payment_id, error in failed:
        await undo_call(store, payment_id, error or "settlement_failed")
    return len(failed)


async def undo_call(store: Store, payment_id: str, code: str) -> None:
    """The call is one that was refused for the reason `code`, its payment identifier is free
    again, and the minute of a stream that it bought is taken back. Undone already: nothing
    happens."""
    found = await asyncio.to_thread(_find, store.engine, payment_id)
    if found is None:
        return
    record, keys = found
    unpaid = structs.replace(record, status=402, amount_atoms=0, bytes_out=0, error=code)
    writes = [Write(_UNPAID, {"id": payment_id, "error": code}), *minute_back(record.path)]
    writes += [Write(_FORGET, {"key": key, "id": payment_id}, rows=None) for key in keys]
    try:
        await store.commit(Batch(writes, replaced(record, unpaid)))
    except StoreConflict:
        return  # somebody else has done it


def _failed(engine: Engine) -> list[tuple[str, str | None]]:
    with engine.connect() as connection:
        return [(row.id, row.error) for row in connection.execute(_FAILED)]


def _find(engine: Engine, payment_id: str) -> tuple[CallRecord, list[str]] | None:
    """The call as it is booked, and where its answer is kept. Reads all kept answers, but not
    where the journal would wait for it."""
    with engine.connect() as connection:
        row = connection.execute(_BOOKED, {"id": payment_id}).one_or_none()
        if row is None:
            return None
        keys = list(connection.execute(_KEPT, {"id": payment_id}).scalars())
    return CallRecord.of(row), keys
