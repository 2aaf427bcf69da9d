"""Money that somebody sent to the wallet, noticed once each.

USDC leaves an event. ETH leaves none: what the balance has more than our own transactions
explain, between two looks, has arrived. What it has less, a reorg took back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select, text

from finance.chain.events import BATCH_SETTLEMENT_HEX, SeenEvent
from finance.errors import StoreConflict
from finance.ledger import transfer_key
from finance.models import ChainTx, ChainTxAttempt, TxState
from finance.money import Usdc, Wei
from finance.networks import Network
from finance.operations import Arrival, EthSighting, Token
from finance.store import Batch, Store, Write
from finance.x402.text import checksum, parse_address

_ARRIVALS = Arrival.__table__  # type: ignore[attr-defined]
_SIGHTINGS = EthSighting.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_ATTEMPTS = ChainTxAttempt.__table__  # type: ignore[attr-defined]
_INSERT = insert(_ARRIVALS)
# Guarded by what the decision was made on; the first look has nothing to guard.
_SEE = text(
    "INSERT INTO eth_sighting (wallet, chain_id, block_number, balance_wei, nonce)"
    " VALUES (:wallet, :chain_id, :block, :balance, :nonce)"
    " ON CONFLICT (wallet, chain_id) DO UPDATE SET block_number = excluded.block_number,"
    " balance_wei = excluded.balance_wei, nonce = excluded.nonce"
    " WHERE eth_sighting.block_number = :seen"
)

Announce = Callable[[str], Write]
"""A sentence to a line of the event log."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The wallet's ETH as of a block; `nonce` counts its transactions by then."""

    block: int
    balance: int
    nonce: int


@dataclass(frozen=True, slots=True)
class Outgo:
    """One mined transaction of ours, in wei."""

    value: int
    fee: int


def unexplained(before: Sighting, after: Sighting, ours: Sequence[Outgo]) -> int | None:
    """Wei that came in between two looks; None while not all of ours are in the books."""
    if len(ours) != after.nonce - before.nonce:
        return None
    return after.balance - before.balance + sum(each.value + each.fee for each in ours)


class Arrivals:
    """Notices what comes into one wallet (lower-case hex)."""

    def __init__(self, store: Store, network: Network, wallet: str, announce: Announce) -> None:
        self._store, self._network, self._wallet = store, network, wallet.lower()
        self._announce = announce

    async def note_transfer(self, event: SeenEvent) -> bool:
        """A USDC transfer the watcher saw: whether it is a new arrival. Seen twice is once."""
        to, source = event.args.get("to"), event.args.get("from")
        if event.name != "Transfer" or to != self._wallet or source == BATCH_SETTLEMENT_HEX:
            return False
        value = int(event.args["value"])
        if not value or await asyncio.to_thread(_is_ours, self._store.engine, event.tx_hash):
            return False  # nothing, or a sale that we settled ourselves
        row = {
            **self._row(Token.USDC, value, event.block_number),
            "key": transfer_key(event.tx_hash, event.log_index, self._wallet),
            "source": source,
            "tx_hash": event.tx_hash,
        }
        giver = checksum(parse_address(str(source)))
        return await self._store_once(row, f"Received {Usdc(value)} USDC from {giver}.", ())

    async def note_eth(self, after: Sighting) -> bool:
        """A look at the wallet's ETH: whether some has arrived since the one before, or was
        taken back by a reorg."""
        chain_id = self._network.chain_id
        before = await asyncio.to_thread(_last, self._store.engine, self._wallet, chain_id)
        if before is None:
            await self._store.commit(Batch([self._see(after, after.block)]))
            return False
        if after.block <= before.block:
            return False
        if (after.balance, after.nonce) == (before.balance, before.nonce):
            return False  # nothing to write down, block by block
        return await self._compare(before, after)

    async def _compare(self, before: Sighting, after: Sighting) -> bool:
        span = self._network.chain_id, before.block, after.block
        ours = await asyncio.to_thread(_outgoes, self._store.engine, self._wallet, *span)
        wei = unexplained(before, after, ours)
        see = self._see(after, before.block)
        if wei is None and after.block - before.block < 2 * self._network.reorg_depth:
            return False  # a transaction of ours is not booked yet: look again
        if not wei:
            await self._store.commit(Batch([see]))
            return False
        row = {
            **self._row(Token.ETH, wei, after.block),
            "key": f"eth:{self._network.chain_id}:{self._wallet}:{after.block}",
            "source": "",
            "tx_hash": None,
        }
        gone = f"The chain took back {Wei(-wei)} ETH that had been received." if wei < 0 else ""
        return await self._store_once(row, gone or f"Received {Wei(wei)} ETH.", (see,))

    def _row(self, token: Token, amount: int, block: int) -> dict[str, Any]:
        return {
            "chain_id": self._network.chain_id,
            "token": token.value,
            "amount": str(amount),
            "block_number": block,
            "at": int(time.time()),
        }

    def _see(self, sighting: Sighting, seen: int) -> Write:
        values = {
            "wallet": self._wallet,
            "chain_id": self._network.chain_id,
            "block": sighting.block,
            "balance": str(sighting.balance),
            "nonce": sighting.nonce,
            "seen": seen,
        }
        return Write(_SEE, values)

    async def _store_once(self, row: dict[str, Any], sentence: str, also: Sequence[Write]) -> bool:
        try:
            await self._store.commit(Batch([Write(_INSERT, row), *also, self._announce(sentence)]))
        except StoreConflict:
            return False  # known, or another process was quicker
        return True


def _is_ours(engine: Engine, tx_hash: str) -> bool:
    query = select(_ATTEMPTS.c.tx_hash).where(_ATTEMPTS.c.tx_hash == tx_hash)
    with engine.connect() as connection:
        return connection.execute(query).first() is not None


def _last(engine: Engine, wallet: str, chain_id: int) -> Sighting | None:
    query = select(_SIGHTINGS).where(
        _SIGHTINGS.c.wallet == wallet, _SIGHTINGS.c.chain_id == chain_id
    )
    with engine.connect() as connection:
        row = connection.execute(query).first()
    return None if row is None else Sighting(row.block_number, int(row.balance_wei), row.nonce)


def _outgoes(engine: Engine, wallet: str, chain_id: int, after: int, upto: int) -> list[Outgo]:
    """Ours in these blocks; a reverted one cost its fee only."""
    query = select(_TX.c.value_wei, _TX.c.fee_wei, _TX.c.state).where(
        _TX.c.sender == wallet,
        _TX.c.chain_id == chain_id,
        _TX.c.block_number > after,
        _TX.c.block_number <= upto,
    )
    with engine.connect() as connection:
        return [
            Outgo(0 if row.state == TxState.REVERTED else int(row.value_wei), row.fee_wei or 0)
            for row in connection.execute(query)
        ]
