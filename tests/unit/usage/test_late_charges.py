"""A charge that is proved late is booked whatever becomes of its call's row meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, func, select
from sqlmodel import Session, col

from finance.models import Purchase
from finance.store import Batch
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.usage.calls import CallRecord
from node.usage.late_charges import late_charges
from node.usage.models import Call, CallRollup, Side

GAVE_UP = CallRecord("a", Side.BOUGHT, 1000, "x", "GET", "/y", 504, 9, key_id="k", error="late")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = open_engine(database_url)
    upgrade(engine)
    with Session(writer(engine)) as session:
        words = {"key_id": "k", "fingerprint": "", "listing_id": "x", "payment_header": ""}
        asked = {"url": "", "method": "GET", "path": "/y", "route": "GET /*", "created_at": 1}
        session.add(Purchase(call_id="a", scheme="batch-settlement", **words, **asked))
        session.commit()
    yield engine
    engine.dispose()


@pytest.mark.parametrize("order", ["before it is read", "after it is read", "never"])
def test_a_proof_and_the_end_of_its_call_meet_in_any_order(engine: Engine, order: str) -> None:
    journal = Journal(engine)
    end = Batch([GAVE_UP.write()], [GAVE_UP.increment()])

    async def meet() -> None:
        if order == "before it is read":
            await journal.commit(end)
        proof = await late_charges(engine)("a", 1_000)
        if order == "after it is read":
            await journal.commit(end)
        await journal.commit(proof)

    asyncio.run(meet())
    journal.close()
    with engine.connect() as connection:
        status, atoms = connection.execute(select(col(Call.status), col(Call.amount_atoms))).one()
        summed = connection.scalar(select(func.sum(col(CallRollup.amount_atoms))))
    assert (status, atoms, summed) == (502 if order == "never" else 504, 1_000, 1_000)
