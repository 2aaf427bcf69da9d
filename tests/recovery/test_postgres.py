"""Two gateway processes on one PostgreSQL: what one has taken, the other cannot take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from finance.errors import StoreConflict, StoreUnavailable
from finance.ledger import Account, entry
from finance.models import PaymentKind
from finance.money import MAX_ATOMS
from finance.selling.channels import Channel, charge_writes, open_channel
from finance.selling.reservations import Authorization, find_known, owe, release, reserve
from finance.store import Batch, Write
from finance.x402.offers import Terms
from finance.x402.values import (
    ChannelConfig,
    ExactPayment,
    TransferAuthorization,
)
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.usage.calls import CallRecord
from node.usage.models import Side
from tests.recovery.cutting_relay import Cut, CuttingRelay

ADDRESS = b"\x01" * 20
ZERO_WORD = bytes(32)
TERMS = Terms("l", "/", "GET", "https://x", 10, ADDRESS, ADDRESS, 1, ADDRESS, "USDC", "2")
CONFIG = ChannelConfig(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, 2**40 - 1, ZERO_WORD)
SIGNED = TransferAuthorization(ADDRESS, ADDRESS, 10, 0, MAX_ATOMS, ZERO_WORD)
PAYMENT = ExactPayment(SIGNED, b"s")
AUTHORIZATION = Authorization(
    PaymentKind.EXACT, 1, "0xt", "0xp", "0xn", "0xr", 10, 0, MAX_ATOMS, "0xs"
)

COUNT = text("UPDATE call_rollup SET calls = calls + 1 WHERE listing_id = :listing")


@pytest.fixture
def journals(postgres_url: str) -> Iterator[tuple[Journal, Journal]]:
    """Two processes' writers, each with connections of its own."""
    engines = open_engine(postgres_url), open_engine(postgres_url)
    upgrade(engines[0])
    journals = Journal(engines[0]), Journal(engines[1])
    yield journals
    for journal in journals:
        journal.close()
        journal.engine.dispose()


async def outcomes(*commits: tuple[Journal, list[Write]]) -> list[BaseException | None]:
    return await asyncio.gather(
        *(journal.commit(Batch(writes)) for journal, writes in commits), return_exceptions=True
    )


async def test_a_voucher_presented_to_two_processes_is_charged_by_one(
    journals: tuple[Journal, Journal],
) -> None:
    first, second = journals
    await first.commit(Batch([open_channel(ZERO_WORD, CONFIG, 1, 0)]))
    fund(first.engine, 1_000)
    channel = Channel(ZERO_WORD, CONFIG)
    for due in range(10, 310, 10):
        writes = [
            charge_writes(channel, 10, due, b"s", f"{process}:{due}", 2**33) for process in (1, 2)
        ]
        ends = await outcomes((first, writes[0]), (second, writes[1]))
        assert sorted(type(end) for end in ends if end) == [StoreConflict]
        channel.charged = due
    assert charged(first.engine) == (300, 300, 30)


async def test_an_authorization_presented_to_two_processes_buys_one_call(
    journals: tuple[Journal, Journal],
) -> None:
    taken = [reserve(AUTHORIZATION, PAYMENT, TERMS, f"call{n}", 2**33, 1) for n in range(50)]
    ends = await outcomes(*((journals[n % 2], [write]) for n, write in enumerate(taken)))
    winner = ends.index(None)
    assert ends.count(None) == 1
    assert all(isinstance(end, StoreConflict) for end in ends if end is not None)
    known = find_known(journals[1].engine, AUTHORIZATION)
    assert known is not None and known.id == f"call{winner}"


async def test_a_released_authorization_goes_to_one_of_two_processes(
    journals: tuple[Journal, Journal],
) -> None:
    first, second = journals
    await first.commit(Batch([reserve(AUTHORIZATION, PAYMENT, TERMS, "failed", 0, 1)]))
    await first.commit(Batch([release("failed", 1)]))
    again = [reserve(AUTHORIZATION, PAYMENT, TERMS, call, 2, 1) for call in ("a", "b")]
    ends = await outcomes((first, [again[0]]), (second, [again[1]]))
    assert ends.count(None) == 1
    winner = "ab"[ends.index(None)]
    loser = "ab"[1 - ends.index(None)]
    assert isinstance((await outcomes((second, [owe(loser, "f", 3)])))[0], StoreConflict)
    assert await outcomes((second, [owe(winner, "f", 3)])) == [None]


async def test_counters_that_two_processes_take_in_another_order_lose_no_call(
    journals: tuple[Journal, Journal],
) -> None:
    """PostgreSQL ends a deadlock by undoing one of the two; nothing was wrong with either."""
    calls = [CallRecord(name, Side.SERVED, 0, name, "GET", "/", 200, 1) for name in "ab"]
    both = Batch([], [call.increment() for call in calls])
    await journals[0].commit(both)
    with journals[1].engine.connect() as other:
        other.execute(COUNT, {"listing": "b"})
        committed = asyncio.create_task(journals[0].commit(both))
        while not await asyncio.to_thread(_waits, journals[1].engine):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(other.execute, COUNT, {"listing": "a"})
        other.commit()
    await committed
    with journals[0].engine.connect() as connection:
        assert _one(connection, "SELECT min(calls), max(calls) FROM call_rollup") == (3, 3)


def _waits(engine: Engine) -> bool:
    with engine.connect() as connection:
        return _one(connection, "SELECT count(*) FROM pg_locks WHERE NOT granted") > (0,)


def fund(engine: Engine, atoms: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE seller_channel SET state = 'open', balance_atoms = :n"), {"n": atoms}
        )


def charged(engine: Engine) -> tuple[int, int, int]:
    """Of the channel's row; of the ledger: sum, and number of rows."""
    with engine.connect() as connection:
        row = _one(connection, "SELECT charged_atoms FROM seller_channel")
        return *row, *_one(connection, "SELECT sum(amount), count(*) FROM ledger_entry")


def _one(connection: Connection, query: str) -> tuple[int, ...]:
    return tuple(int(value) for value in connection.execute(text(query)).one())


@pytest.fixture
async def relayed(postgres_url: str) -> AsyncIterator[tuple[CuttingRelay, Journal]]:
    """A journal beyond a relay; `first` is committed."""
    with CuttingRelay(postgres_url) as relay:
        engine = open_engine(relay.url)
        upgrade(engine)
        journal = Journal(engine)
        await journal.commit(_batch("first"))
        yield relay, journal
        journal.close()
        engine.dispose()


async def test_a_commit_whose_acknowledgement_is_lost_has_been_made(
    relayed: tuple[CuttingRelay, Journal],
) -> None:
    """Its caller would give the call up for unpaid that its customer was charged for."""
    relay, journal = relayed
    relay.cut = Cut.AFTER
    await journal.commit(_batch("second"))
    assert relay.cut is Cut.NEVER
    await journal.commit(_batch("third"))
    assert _keys(journal.engine) == {"first", "second", "third"}


async def test_a_commit_that_the_server_never_heard_of_has_not_been_made(
    relayed: tuple[CuttingRelay, Journal],
) -> None:
    relay, journal = relayed
    relay.cut = Cut.BEFORE
    with pytest.raises(StoreUnavailable):
        await journal.commit(_batch("second"))
    assert _keys(journal.engine) == {"first"}


def _batch(key: str) -> Batch:
    return Batch([entry(key, Account.CHARGED, 1, 0)])


def _keys(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(text("SELECT key FROM ledger_entry")).scalars())
