"""Reads the chain forward and books what concerns us; back again when it reorganises.

Every range is read in one request together with the block before it and its last
block, so that a range is booked only if it continues the chain booked so far. Events
are stored, then handed on, then the cursor moves: after a crash they are handed on
again, so handlers must bear to see an event twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import OperationalError

from finance.chain.answers import Block, Log, read_bytes, read_logs
from finance.chain.endpoint import Question
from finance.chain.events import (
    BATCH_SETTLEMENT_HEX,
    CHANNEL_TOPICS,
    TRANSFER_TOPIC,
    SeenEvent,
    address_topic,
    decode_log,
)
from finance.chain.rpc import Rpc, block_question
from finance.chain.sightings import Sightings, known_channels
from finance.errors import FinanceError, RpcRefused, RpcUnavailable, StoreConflict
from finance.networks import Network
from finance.store import Store
from finance.x402.text import parse_address

__all__ = ["SeenEvent", "Watcher"]

_LOG = logging.getLogger(__name__)
_MAX_SPAN = 2000
_LAG_SECONDS = 3.0
_MOST_CONFLICTS = 5
_BALANCE_OF = bytes.fromhex("70a08231")

Handler = Callable[[SeenEvent], Awaitable[None]]
ReorgHandler = Callable[[Sequence[SeenEvent]], Awaitable[None]]


class Watcher:
    """Watches one chain for one wallet. `last_block` is booked, `head_block` was seen.

    Without a handler it books, but leaves the stored cursor to the node that has one:
    a second process that reads ahead must not swallow that node's events.
    """

    def __init__(
        self,
        rpc: Rpc,
        store: Store,
        network: Network,
        wallet: str,
        handler: Handler | None = None,
        on_reorg: ReorgHandler | None = None,
    ) -> None:
        self._rpc = rpc
        self._store = store
        self._network = network
        self._wallet = wallet.lower()
        self._handler = handler
        self._on_reorg = on_reorg
        self._sightings = Sightings(store, network.chain_id, self._wallet)
        self._read: list[tuple[int, str]] = []  # newest first
        self._span = _MAX_SPAN
        self._turn = asyncio.Lock()
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._missing_since: float | None = None
        self.head_block = 0
        self.caught_up_at = 0.0

    @property
    def last_block(self) -> int:
        """Everything up to this block is in the books."""
        return self._read[0][0] if self._read else 0

    @property
    def lag(self) -> int:
        """Blocks seen but not booked yet."""
        return max(0, self.head_block - self.last_block)

    async def start(self) -> None:
        """Watch in the background. Needs no RPC to start."""
        self._loop = asyncio.create_task(self._run(), name="watcher")

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def poke(self) -> None:
        """Look at once: something of ours was just mined."""
        self._wake.set()

    @property
    def first_block(self) -> int:
        """The block after which the books begin."""
        return self._read[-1][0] if self._read else 0

    async def catch_up(self) -> int:
        """Book everything up to the chain's head; its number. Raises ChainError."""
        async with self._turn:
            conflicts, reached = 0, False
            while not reached:
                try:
                    await self._open()
                    reached = await self._step()
                    conflicts = 0
                except StoreConflict:
                    # Another process (`farebox reconcile`) booked the same just now: read
                    # what is booked by now, and go on from there.
                    conflicts += 1
                    if conflicts > _MOST_CONFLICTS:
                        raise
            self.caught_up_at = time.time()
            return self.last_block

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.catch_up()
            except (FinanceError, OperationalError) as error:
                _LOG.warning("watcher, at block %s: %s", self.last_block, error)
            except Exception:
                # The loop that follows money must outlive a fault of ours.
                _LOG.exception("watcher, at block %s", self.last_block)
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.25, self._network.block_seconds / 2)):
                    await self._wake.wait()

    # The beginning

    async def _open(self) -> None:
        """Where the books left off, or their first row."""
        if not self._read:
            self._read = await asyncio.to_thread(self._sightings.cursors)
        if self._read:
            return
        head = await self._rpc.head()
        first = max(0, head.number - self._network.reorg_depth)
        block, balance = await self._opening(first)
        await self._sightings.open(block.number, block.block_hash, balance)
        self._read = [(block.number, block.block_hash)]

    async def _opening(self, number: int) -> tuple[Block, int]:
        """A block and the wallet's USDC after it, read in one request."""
        data = "0x" + (_BALANCE_OF + bytes(12) + parse_address(self._wallet)).hex()
        call = {"to": self._network.usdc, "data": data}
        ask = Question("eth_call", (call, hex(number)), read_bytes)
        before, balance, after = await self._rpc.ask_all(
            [block_question(number), ask, block_question(number)]
        )
        if not isinstance(before, Block) or before != after or not isinstance(balance, bytes):
            raise RpcUnavailable("the wallet's opening balance cannot be read now")
        return before, int.from_bytes(balance, "big")

    # One range

    async def _step(self) -> bool:
        """Book one range; whether the head is reached."""
        number, block_hash = self._read[0]
        head = await self._rpc.head()
        self.head_block = head.number
        if (head.number, head.block_hash) == (number, block_hash):
            return True
        last = min(head.number, number + self._span)
        if last <= number:
            return await self._same_or_shorter(number, block_hash)
        logs = await self._logs(number, block_hash, last)
        if logs is None:
            await self._rewind()
            return False
        found, end = logs
        await self._book(number + 1, end, found)
        return end.number >= head.number

    async def _same_or_shorter(self, number: int, block_hash: str) -> bool:
        """The head is not above what was read: an endpoint that lags, or another chain."""
        block = await self._rpc.block(number)
        if block is None and not self._is_missing_long():
            raise RpcUnavailable(f"no endpoint has block {number}, which was read before")
        self._missing_since = None
        if block is None or block.block_hash != block_hash:
            await self._rewind()
            return False
        return True

    def _is_missing_long(self) -> bool:
        """Whether the newest block is gone for longer than an endpoint lags behind."""
        now = time.monotonic()
        self._missing_since = self._missing_since or now
        return now - self._missing_since > max(_LAG_SECONDS, 3 * self._network.block_seconds)

    async def _logs(
        self, number: int, block_hash: str, last: int
    ) -> tuple[list[Log], Block] | None:
        """(logs, last block) after block `number`; None if that block is not `block_hash`.

        Ranges an endpoint refuses are halved.
        """
        while True:
            answers = await self._ask(number, last)
            before, end, *lists = answers
            if not any(isinstance(each, RpcRefused) for each in answers):
                break
            if last == number + 1:
                raise next(each for each in answers if isinstance(each, RpcRefused))
            self._span = max(1, (last - number) // 2)
            last = number + self._span
        self._span = min(_MAX_SPAN, self._span * 2)
        if not isinstance(before, Block) or before.block_hash != block_hash:
            return None
        logs = [log for each in lists for log in each]
        if not isinstance(end, Block) or not _fits(logs, number, end):
            raise RpcUnavailable("the chain moved while it was read")
        return logs, end

    async def _ask(self, number: int, last: int) -> list[Any]:
        wallet = address_topic(self._wallet)
        span = {"fromBlock": hex(number + 1), "toBlock": hex(last)}
        usdc = {"address": self._network.usdc, **span}
        queries: list[dict[str, Any]] = [
            {**usdc, "topics": [TRANSFER_TOPIC, wallet]},
            {**usdc, "topics": [TRANSFER_TOPIC, None, wallet]},
            {"address": BATCH_SETTLEMENT_HEX, "topics": [list(CHANNEL_TOPICS)], **span},
        ]
        return await self._rpc.ask_all(
            [
                block_question(number),
                block_question(last),
                *(Question("eth_getLogs", (query,), read_logs) for query in queries),
            ]
        )

    async def _book(self, first: int, last: Block, logs: Sequence[Log]) -> None:
        events = await self._ours(logs)
        if events:
            stored = await asyncio.to_thread(self._sightings.stored, first, last.number)
            await self._sightings.book(events, stored)
            for event in events:
                if self._handler is not None:
                    await self._handler(event)
        await self._advance(last)

    async def _advance(self, last: Block) -> None:
        oldest = last.number - self._network.reorg_depth
        if self._handler is not None:
            await self._sightings.advance(last.number, last.block_hash, oldest)
        first = self._read[-1]
        kept = [each for each in self._read[:-1] if oldest <= each[0]]
        self._read = [(last.number, last.block_hash), *kept, first]

    async def _ours(self, logs: Sequence[Log]) -> list[SeenEvent]:
        """The events that concern us, in the chain's order, each once."""
        contracts = (self._network.usdc.lower(), BATCH_SETTLEMENT_HEX)
        asked = {(log.tx_hash, log.log_index): log for log in logs if log.address in contracts}
        decoded = (decode_log(log) for log in asked.values())
        events = [event for event in decoded if event is not None]
        ids = {event.channel_id for event in events if event.channel_id is not None}
        known = {event.channel_id for event in events if self._is_party(event)}
        if ids:
            known |= await asyncio.to_thread(known_channels, self._store.engine, ids)
        ours = [event for event in events if self._concerns_us(event, known)]
        return sorted(ours, key=lambda event: (event.block_number, event.log_index))

    def _is_party(self, event: SeenEvent) -> bool:
        config = event.args.get("config", {})
        return self._wallet in (config.get("payer"), config.get("receiver"))

    def _concerns_us(self, event: SeenEvent, known: set[str | None]) -> bool:
        if event.channel_id is not None:
            return event.channel_id in known
        parties = (event.args.get(name) for name in ("from", "to", "receiver"))
        return self._wallet in parties

    # Back

    async def _rewind(self) -> None:
        """Go back to the newest block read that is still on the chain."""
        fork = await self._fork()
        gone = await asyncio.to_thread(self._sightings.stored, fork[0] + 1)
        await self._sightings.take_back(gone)
        _LOG.warning("the chain reorganised above block %s: %s events gone", fork[0], len(gone))
        if self._on_reorg is not None and gone:
            await self._on_reorg([each.event for each in gone])
        if self._handler is not None:
            await self._sightings.advance(*fork, fork[0] - self._network.reorg_depth)
        self._read = [fork, *(each for each in self._read if each[0] < fork[0])]

    async def _fork(self) -> tuple[int, str]:
        for number, block_hash in self._read:
            block = await self._rpc.block(number)
            if block is not None and block.block_hash == block_hash:
                return number, block_hash
        # The very first is gone: another chain, or the opening balance no longer holds.
        number = self._read[-1][0]
        block = await self._rpc.block(number)
        if block is None:
            raise RpcUnavailable(f"the chain has no block {number}: is it another one?")
        _LOG.error("block %s, where the books begin, was replaced: reconcile", number)
        return number, block.block_hash


def _fits(logs: Sequence[Log], number: int, end: Block) -> bool:
    """Whether the logs lie in the range, and those of its last block in that very block."""
    return all(
        number < log.block_number <= end.number
        and (log.block_number < end.number or log.block_hash == end.block_hash)
        for log in logs
    )
