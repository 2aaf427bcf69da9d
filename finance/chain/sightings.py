"""What the watcher saw, in the database: events, how far it read, and the ledger rows.

An event is stored with the ledger row it means, in one commit. When its block is
reorganised away both are taken back, and booked again if it returns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, bindparam, insert, select, text, update

from finance.actions import Action, action_of
from finance.chain.bookings import next_turns
from finance.chain.events import SeenEvent, read_args
from finance.ledger import Account, entry, transfer_key
from finance.models import (
    BuyerChannel,
    ChainCursor,
    ChainEvent,
    ChainTx,
    ChainTxAttempt,
    LedgerEntry,
    SellerChannel,
)
from finance.store import Batch, Store, Write

_EVENTS = ChainEvent.__table__  # type: ignore[attr-defined]
_CURSORS = ChainCursor.__table__  # type: ignore[attr-defined]
_SELLER = SellerChannel.__table__  # type: ignore[attr-defined]
_LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
_BUYER = BuyerChannel.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_ATTEMPT = ChainTxAttempt.__table__  # type: ignore[attr-defined]

_INSERT_EVENT = insert(_EVENTS)
_SET_ORPHANED = (
    update(_EVENTS)
    .where(_EVENTS.c.id == bindparam("event"), _EVENTS.c.orphaned == bindparam("was"))
    .values(orphaned=bindparam("now_orphaned"))
)
# The same words on SQLite and PostgreSQL.
_SET_CURSOR = text(
    "INSERT INTO chain_cursor (chain_id, block_number, block_hash)"
    " VALUES (:chain_id, :block_number, :block_hash)"
    " ON CONFLICT (chain_id, block_number) DO UPDATE SET block_hash = excluded.block_hash"
)
_FORGET_CURSORS = text("DELETE FROM chain_cursor WHERE chain_id = :chain_id")
_DROP_CURSORS = text(
    "DELETE FROM chain_cursor WHERE chain_id = :chain_id"
    " AND (block_number < :oldest OR block_number > :newest)"
    # The first one stays: the books begin there.
    " AND block_number > (SELECT MIN(block_number) FROM chain_cursor WHERE chain_id = :chain_id)"
)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its row's id and whether its block is gone."""

    id: int
    event: SeenEvent
    orphaned: bool


@dataclass(frozen=True, slots=True)
class Movement:
    """The ledger row an event means."""

    key: str
    account: Account
    amount: int


def movement_of(
    event: SeenEvent, wallet: str, sold: frozenset[str], bought: frozenset[str]
) -> Movement | None:
    """USDC in or out of `wallet`, a claim from a channel we `sold` through, or what comes
    back out of one we `bought` through (deposits are booked by who signed them)."""
    match event.name:
        case "Transfer":
            value = int(event.args["value"])
            amount = value * ((event.args["to"] == wallet) - (event.args["from"] == wallet))
            if not amount:
                return None  # anybody may transfer nothing out of any wallet
            key = transfer_key(event.tx_hash, event.log_index, wallet)
            return Movement(key, Account.WALLET, amount)
        case "Claimed" if event.channel_id in sold:
            key = f"claimed:{event.tx_hash}:{event.log_index}"
            return Movement(key, Account.CLAIMED, int(event.args["claimAmount"]))
        case "Refunded" | "WithdrawFinalized" if event.channel_id in bought:
            key = f"returned:{event.tx_hash}:{event.log_index}"
            return Movement(key, Account.DEPOSITED, -int(event.args["amount"]))
        case _:
            return None


class Sightings:
    """Reads and writes what was seen on one chain for one wallet (lower-case hex)."""

    def __init__(self, store: Store, chain_id: int, wallet: str) -> None:
        self._store = store
        self._chain_id = chain_id
        self._wallet = wallet

    @property
    def opening_key(self) -> str:
        return f"opening:{self._chain_id}:{self._wallet}"

    async def book(self, seen: Sequence[SeenEvent], stored: Sequence[StoredEvent]) -> None:
        """Store what is new or has come back, with its ledger rows."""
        known = {each.event.place: each for each in stored}
        back = [known[e.place] for e in seen if e.place in known and known[e.place].orphaned]
        still = [e for e in seen if e.place in known and not known[e.place].orphaned]
        new = [event for event in seen if event.place not in known]
        writes = [self._insert(event) for event in new]
        writes += [_orphan(each, orphaned=False) for each in back]
        unbooked = await asyncio.to_thread(self._unbooked, still)
        moved = [*new, *(each.event for each in back), *unbooked]
        writes += await self._movements(moved, sign=1)
        if writes:
            await self._store.commit(Batch(writes))

    async def take_back(self, gone: Sequence[StoredEvent]) -> None:
        """Mark events as orphaned and reverse their ledger rows."""
        fresh = [each for each in gone if not each.orphaned]
        writes = [_orphan(each, orphaned=True) for each in fresh]
        writes += await self._movements([each.event for each in fresh], sign=-1)
        if writes:
            await self._store.commit(Batch(writes))

    async def _movements(self, events: Sequence[SeenEvent], sign: int) -> list[Write]:
        ids = {event.channel_id for event in events if event.channel_id is not None}
        sold, bought = await asyncio.to_thread(sides_of, self._store.engine, ids)
        moved = [(event, movement_of(event, self._wallet, sold, bought)) for event in events]
        rows = [(event, movement) for event, movement in moved if movement is not None]
        turns = await next_turns(self._store.engine, [movement.key for _, movement in rows])
        hashes = {event.tx_hash for event, _ in rows}
        purposes = await asyncio.to_thread(purposes_of, self._store.engine, hashes)
        return [
            self._entry(event, each, turns, sign, purposes.get(event.tx_hash, ""))
            for event, each in rows
        ]

    def _unbooked(self, events: Sequence[SeenEvent]) -> list[SeenEvent]:
        """Transfers of this wallet that were stored for one it replaced, and booked for that
        one only. Blocks."""
        ours = {
            transfer_key(event.tx_hash, event.log_index, self._wallet): event
            for event in events
            if event.name == "Transfer" and self._wallet in (event.args["from"], event.args["to"])
        }
        booked = select(_LEDGER.c.key).where(_LEDGER.c.key.in_(sorted(ours)))
        with self._store.engine.connect() as connection:
            for key in connection.scalars(booked):
                del ours[key]
        return list(ours.values())

    def _entry(
        self,
        event: SeenEvent,
        movement: Movement,
        turns: Mapping[str, str],
        sign: int,
        purpose: str,
    ) -> Write:
        action = None
        if movement.account is Account.WALLET:
            stands = action_of(movement.amount, event.args, purpose)
            action = stands if sign > 0 else Action.TAKEN_BACK
        return entry(
            turns[movement.key],
            movement.account,
            sign * movement.amount,
            int(time.time()),
            channel_id=event.channel_id,
            tx_hash=event.tx_hash,
            log_index=event.log_index,
            action=action,
        )

    async def open(self, block_number: int, block_hash: str, balance_atoms: int) -> None:
        """The first row of the books: what the wallet held after `block_number`."""
        now = int(time.time())
        opening = entry(self.opening_key, Account.WALLET, balance_atoms, now)
        forget = Write(_FORGET_CURSORS, {"chain_id": self._chain_id}, rows=None)
        await self._store.commit(Batch([opening, forget, self._cursor(block_number, block_hash)]))

    async def advance(self, block_number: int, block_hash: str, oldest: int) -> None:
        """All up to this block is booked; hashes below `oldest` and above it are forgotten."""
        keep = {"chain_id": self._chain_id, "oldest": oldest, "newest": block_number}
        writes = [self._cursor(block_number, block_hash), Write(_DROP_CURSORS, keep, rows=None)]
        await self._store.commit(Batch(writes))

    def _cursor(self, block_number: int, block_hash: str) -> Write:
        row = {"block_number": block_number, "block_hash": block_hash}
        return Write(_SET_CURSOR, {"chain_id": self._chain_id, **row}, rows=None)

    def _insert(self, event: SeenEvent) -> Write:
        return Write(
            _INSERT_EVENT,
            {
                "chain_id": self._chain_id,
                "block_number": event.block_number,
                "block_hash": event.block_hash,
                "tx_hash": event.tx_hash,
                "log_index": event.log_index,
                "name": event.name,
                "channel_id": event.channel_id,
                "args": event.args_json(),
                "orphaned": False,
                "seen_at": int(time.time()),
            },
        )

    def cursors(self) -> list[tuple[int, str]]:
        """Blocks read for this wallet, newest first. Blocks the caller.

        Those of a wallet that was replaced (`farebox wallet import`) say nothing about this one.
        """
        opening = select(_LEDGER.c.id).where(_LEDGER.c.key == self.opening_key)
        query = (
            select(_CURSORS.c.block_number, _CURSORS.c.block_hash)
            .where(_CURSORS.c.chain_id == self._chain_id)
            .order_by(_CURSORS.c.block_number.desc())
        )
        with self._store.engine.connect() as connection:
            if connection.execute(opening).first() is None:
                return []
            return [(number, block_hash) for number, block_hash in connection.execute(query)]

    def stored(self, first: int, last: int | None = None) -> list[StoredEvent]:
        """Events in these blocks, orphaned ones too. Blocks the caller."""
        query = select(_EVENTS).where(
            _EVENTS.c.chain_id == self._chain_id, _EVENTS.c.block_number >= first
        )
        if last is not None:
            query = query.where(_EVENTS.c.block_number <= last)
        with self._store.engine.connect() as connection:
            return [_stored(row) for row in connection.execute(query)]


def sides_of(engine: Engine, ids: set[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Which of these channels we are paid through, and through which we pay."""
    wanted = sorted(ids)
    sold = select(_SELLER.c.channel_id).where(_SELLER.c.channel_id.in_(wanted))
    bought = select(_BUYER.c.channel_id).where(_BUYER.c.channel_id.in_(wanted))
    with engine.connect() as connection:
        return (
            frozenset(connection.execute(sold).scalars()),
            frozenset(connection.execute(bought).scalars()),
        )


def purposes_of(engine: Engine, hashes: set[str]) -> dict[str, str]:
    """What those of these transactions that are ours were sent for, by hash (blocking). Each
    form of one is stored before it leaves, so the chain never knows one earlier."""
    query = (
        select(_ATTEMPT.c.tx_hash, _TX.c.purpose)
        .join(_TX, _TX.c.id == _ATTEMPT.c.tx_id)
        .where(_ATTEMPT.c.tx_hash.in_(sorted(hashes)))
    )
    with engine.connect() as connection:
        return {row.tx_hash: row.purpose for row in connection.execute(query)}


def known_channels(engine: Engine, ids: set[str]) -> frozenset[str]:
    """Which of these channels are ours, by our books or by an event seen before."""
    wanted, found = sorted(ids), set[str]()
    with engine.connect() as connection:
        for column in (_SELLER.c.channel_id, _BUYER.c.channel_id, _EVENTS.c.channel_id):
            found.update(connection.execute(select(column).where(column.in_(wanted))).scalars())
    return frozenset(found)


def _orphan(stored: StoredEvent, *, orphaned: bool) -> Write:
    return Write(
        _SET_ORPHANED, {"event": stored.id, "was": stored.orphaned, "now_orphaned": orphaned}
    )


def _stored(row: Any) -> StoredEvent:
    event = SeenEvent(
        name=row.name,
        channel_id=row.channel_id,
        args=read_args(row.args),
        block_number=row.block_number,
        block_hash=row.block_hash,
        tx_hash=row.tx_hash,
        log_index=row.log_index,
    )
    return StoredEvent(row.id, event, row.orphaned)
