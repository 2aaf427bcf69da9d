"""Follows what was broadcast to its end, and back when the chain changes its mind.

One look is one JSON-RPC batch for all open transactions. A missing receipt is not
an answer: the transaction stays open. Every attempt is watched, any may be mined.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from finance.chain.answers import Block, Receipt
from finance.chain.bookings import next_turns
from finance.chain.rpc import Rpc, block_question, head_question, nonce_question, receipt_question
from finance.chain.transactions import (
    Tx,
    TxOutcome,
    find_tx,
    load_attempts,
    load_unfinished,
    mine,
    move,
    unassign,
    unix_now,
    unmine,
)
from finance.errors import RpcRefused, SettlementUnknown, StoreConflict
from finance.ledger import gas_key
from finance.models import TxState
from finance.networks import Network
from finance.store import Batch, Store, Write

_LOG = logging.getLogger(__name__)
_BATCH = 100
_MISSING_SECONDS = 3.0
# Longer than a first broadcast takes, with every endpoint silent.
ADOPT_SECONDS = 60.0


class Follower:
    """The transactions of one key that are on their way (`live`) or mined but not yet
    deeper than `reorg_depth` (`settling`)."""

    def __init__(self, rpc: Rpc, network: Network, store: Store, address: str) -> None:
        self._rpc = rpc
        self._network = network
        self._store = store
        self.address = address
        self.live: dict[int, Tx] = {}
        self.settling: dict[int, Tx] = {}
        self.chain_nonce = 0
        self.head: Block | None = None
        self._settled_head: Block | None = None
        self._waiting: dict[int, list[asyncio.Future[TxOutcome]]] = {}
        self.when_taken_back: list[Callable[[str], Awaitable[None]]] = []
        self.wake = asyncio.Event()  # there is something to look at

    async def unfinished(self) -> list[Tx]:
        """All of this key that is not final, also what other processes have sent."""
        recent = unix_now() - int(2 * self._network.reorg_depth * self._network.block_seconds)
        chain_id, engine = self._network.chain_id, self._store.engine
        return await asyncio.to_thread(load_unfinished, engine, chain_id, self.address, recent)

    async def adopt(self) -> None:
        """Follow what another process with this key has signed and may have left: it holds back
        whatever has a higher nonce. Not before that process is done with its first broadcast."""
        left = time.monotonic() - ADOPT_SECONDS
        for tx in await self.unfinished():
            known = tx.id in self.live or tx.id in self.settling
            if not known and tx.attempts and tx.signed_at <= left:
                self.add(tx)
                self.wake.set()

    def add(self, tx: Tx) -> None:
        settled = tx.state in (TxState.MINED, TxState.REVERTED)
        (self.settling if settled else self.live)[tx.id] = tx

    def used_nonces(self) -> set[int | None]:
        return {tx.nonce for tx in (*self.live.values(), *self.settling.values())}

    async def outcome(self, tx_id: int, timeout: float) -> TxOutcome:
        """See Sender.outcome."""
        future: asyncio.Future[TxOutcome] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tx_id, []).append(future)
        try:
            async with asyncio.timeout(timeout):
                return await self._known_outcome(tx_id) or await future
        except TimeoutError:
            raise SettlementUnknown(f"transaction {tx_id} is not confirmed yet") from None
        finally:
            waiting = [each for each in self._waiting.pop(tx_id, ()) if each is not future]
            if waiting:
                self._waiting[tx_id] = waiting

    async def _known_outcome(self, tx_id: int) -> TxOutcome | None:
        if tx_id not in self.live and tx_id not in self.settling:
            await self.adopt()
        if tx_id in self.live:
            return None
        tx = self.settling.get(tx_id)
        if tx is None:
            tx = await asyncio.to_thread(find_tx, self._store.engine, tx_id)
        if tx is None:
            raise SettlementUnknown(f"there is no transaction {tx_id}")
        return None if tx.outcome is None else await self._with_logs(tx.outcome)

    async def _with_logs(self, outcome: TxOutcome) -> TxOutcome:
        """Rows keep no logs: ask the chain again."""
        if outcome.logs or outcome.tx_hash is None:
            return outcome
        receipt = await self._rpc.receipt(outcome.tx_hash)
        if receipt is None:
            raise SettlementUnknown(f"the receipt of {outcome.tx_hash} cannot be read now")
        return replace(outcome, logs=receipt.logs)

    def tell(self, outcome: TxOutcome) -> None:
        """Wake everybody who waits for this transaction."""
        for future in self._waiting.pop(outcome.tx_id, ()):
            if not future.done():
                future.set_result(outcome)

    async def look(self) -> None:
        """Ask the chain once about everything, and store what it says. Raises ChainError."""
        watched = [(tx, each.tx_hash) for tx in self.live.values() for each in tx.attempts]
        answers = await self._ask(
            [head_question(), nonce_question(self.address, "latest")]
            + [receipt_question(tx_hash) for _, tx_hash in watched]
        )
        head, nonce, *receipts = answers
        if isinstance(head, RpcRefused) or isinstance(nonce, RpcRefused):
            return
        self.head, self.chain_nonce = head, nonce
        found = [
            (tx, receipt)
            for (tx, _), receipt in zip(watched, receipts, strict=True)
            if isinstance(receipt, Receipt) and self._is_deep_enough(head, receipt.block_number)
        ]
        await self._book(found)
        await self._settle(head)
        if self.live and min(tx.nonce or 0 for tx in self.live.values()) > nonce:
            await self.adopt()

    async def _ask(self, questions: Sequence[Any]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(questions), _BATCH):
            answers += await self._rpc.ask_all(questions[start : start + _BATCH])
        return answers

    def _is_deep_enough(self, head: Block, block_number: int) -> bool:
        return head.number - block_number + 1 >= self._network.confirmations

    async def _book(self, found: Sequence[tuple[Tx, Receipt]]) -> None:
        """Store the receipts whose block is the chain's own at its height."""
        blocks = await self._blocks(receipt.block_number for _, receipt in found)
        for tx, receipt in found:
            block = blocks.get(receipt.block_number)
            if block is not None and block.block_hash == receipt.block_hash:
                await self._mined(tx, receipt)

    async def _blocks(self, numbers: Iterable[int]) -> dict[int, Block]:
        wanted = sorted(set(numbers))
        answers = await self._ask([block_question(number) for number in wanted])
        pairs = zip(wanted, answers, strict=True)
        return {number: block for number, block in pairs if isinstance(block, Block)}

    async def _mined(self, tx: Tx, receipt: Receipt) -> None:
        key = gas_key(receipt.tx_hash)
        turns = await next_turns(self._store.engine, [key])
        if not await self.commit(tx, mine(tx, receipt, turns[key])):
            if tx.outcome is not None:
                self.tell(await self._with_logs(tx.outcome))
            return
        tx.state = TxState.MINED if receipt.succeeded else TxState.REVERTED
        tx.missing_since = None
        tx.outcome = outcome_of(tx, receipt)
        self.live.pop(tx.id, None)
        self.settling[tx.id] = tx
        self.tell(tx.outcome)

    async def commit(self, tx: Tx, writes: Sequence[Write]) -> bool:
        """Whether the row was as we know it. If not, another process with this key has moved it:
        then memory is what the row says."""
        try:
            await self._store.commit(Batch(list(writes)))
        except StoreConflict:
            row = await asyncio.to_thread(find_tx, self._store.engine, tx.id)
            assert row is not None
            tx.state, tx.outcome, tx.missing_since = row.state, row.outcome, None
            self.live.pop(tx.id, None)
            self.settling.pop(tx.id, None)
            if tx.state in (TxState.SIGNED, TxState.BROADCAST, TxState.MINED, TxState.REVERTED):
                self.add(tx)
            return False
        return True

    # Until the block is deep

    async def _settle(self, head: Block) -> None:
        missing = any(tx.missing_since for tx in self.settling.values())
        if not self.settling or (head == self._settled_head and not missing):
            return
        blocks = await self._blocks(tx.outcome.block_number for tx in self._settling_outcomes())
        for tx in self._settling_outcomes():
            assert tx.outcome is not None and tx.outcome.block_number is not None
            block = blocks.get(tx.outcome.block_number)
            if self._is_gone(tx, block):
                await self._unmined(tx)
            elif block is not None and head.number - block.number >= self._network.reorg_depth:
                await self._final(tx)
        self._settled_head = head

    def _settling_outcomes(self) -> list[Any]:
        return [tx for tx in self.settling.values() if tx.outcome is not None]

    def _is_gone(self, tx: Tx, block: Block | None) -> bool:
        """Another block at its height, or none for longer than an endpoint lags behind."""
        assert tx.outcome is not None
        if block is not None:
            tx.missing_since = None
            return block.block_hash != tx.outcome.block_hash
        now = time.monotonic()
        tx.missing_since = tx.missing_since or now
        patience = max(_MISSING_SECONDS, 3 * self._network.block_seconds)
        return now - tx.missing_since > patience

    async def _unmined(self, tx: Tx) -> None:
        assert tx.outcome is not None and tx.outcome.tx_hash is not None
        for act in self.when_taken_back:
            await act(tx.outcome.tx_hash)
        key = gas_key(tx.outcome.tx_hash)
        turns = await next_turns(self._store.engine, [key])
        if not await self.commit(tx, unmine(tx, tx.outcome, turns[key])):
            return
        _LOG.warning("transaction %s was reorganised away; it is sent again", tx.outcome.tx_hash)
        tx.state, tx.outcome, tx.missing_since, tx.offered_at = TxState.BROADCAST, None, None, 0.0
        tx.signed_at, tx.accepted = time.monotonic(), False
        self.settling.pop(tx.id, None)
        self.live[tx.id] = tx

    async def _final(self, tx: Tx) -> None:
        if tx.state is TxState.MINED:
            if not await self.commit(tx, [move(tx, TxState.FINAL)]):
                return
            tx.state = TxState.FINAL
        self.settling.pop(tx.id, None)

    async def displaced(self, tx: Tx) -> None:
        """Reject a transaction whose nonce another one took for good, below reorg depth."""
        # What took it may be itself: another process with this key has outbid it.
        tx.attempts = await asyncio.to_thread(load_attempts, self._store.engine, tx.id)
        depth = (self.head.number if self.head else 0) - self._network.reorg_depth
        if tx.nonce is None or depth < 0 or await self._rpc.nonce(self.address, depth) <= tx.nonce:
            return
        receipts = await self._ask([receipt_question(each.tx_hash) for each in tx.attempts])
        if any(receipt is not None for receipt in receipts):
            return
        why = f"nonce {tx.nonce} was used by another transaction of this key"
        if not await self.commit(tx, unassign(tx, TxState.REJECTED, why)):
            return
        tx.state = TxState.REJECTED
        self.live.pop(tx.id, None)
        self.tell(TxOutcome(tx.id, TxState.REJECTED, error=why))


def outcome_of(tx: Tx, receipt: Receipt) -> TxOutcome:
    state = TxState.MINED if receipt.succeeded else TxState.REVERTED
    return replace(
        TxOutcome(tx.id, state),
        tx_hash=receipt.tx_hash,
        block_number=receipt.block_number,
        block_hash=receipt.block_hash,
        gas_used=receipt.gas_used,
        fee_wei=receipt.fee_wei,
        logs=receipt.logs,
    )
