"""Moves the money of payments whose answer waits for it, many in one transaction.

`settle` is called with an owed payment and returns once its money has arrived. What
is owed at one moment goes together; no transaction waits for the one before. Nobody
has to wait: whatever is owed or sent is carried to its end, also after a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from finance.chain.bookings import next_turns
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.chain.transactions import unix_now
from finance.errors import FinanceError, SettlementFailed, SettlementUnknown
from finance.models import PaymentState
from finance.networks import Network
from finance.selling import settlement_books as books
from finance.selling.carrier import MOST_PER_TRANSACTION, Carrier
from finance.selling.mirror import Mirror, OnchainState
from finance.selling.owed import Owed, load_mined_in, load_open
from finance.store import Store

WINDOW_SECONDS = 0.03
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 5.0

_LOG = logging.getLogger(__name__)


class ChannelBook(Protocol):
    """The channels in memory (finance.selling.channels)."""

    async def reload(self, channel_id: str) -> None:
        """Make memory equal to the row, which somebody else has written."""
        ...

    def note_claimed(self, channel_id: str, total_claimed: int) -> None:
        """Tell memory of a claim that is in the row."""
        ...


@dataclass(frozen=True, slots=True)
class Settled:
    """The money arrived, by this event; `channel` is a deposit's, as mirrored after it."""

    tx_hash: str
    log_index: int
    channel: OnchainState | None


class Settlement:
    """One worker per process for all payments that move on-chain."""

    def __init__(
        self,
        store: Store,
        sender: Sender,
        rpc: Rpc,
        channels: ChannelBook,
        mirror: Mirror,
        network: Network,
    ) -> None:
        self._store = store
        self._network = network
        self._channels = channels
        self._carrier = Carrier(store, sender, rpc, mirror, network)
        # The watcher may not have read the block before it was replaced.
        sender.when_taken_back(lambda tx_hash: self.reorganised([tx_hash]))
        self._arrived: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[str, list[asyncio.Future[Settled]]] = defaultdict(list)
        self._open: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Pick up what a former run left owed or sent; needs no RPC. Start the sender first."""
        await self._pick_up(await asyncio.to_thread(self._load_open))
        self._spawn(self._gather())

    async def take_over(self, owners: Collection[int]) -> int:
        """Carry on what processes that are gone had owed or sent; how many payments."""
        rows = await asyncio.to_thread(self._load_open)
        left = [row for row in rows if row.owner in owners and row.id not in self._open]
        await self._pick_up(left)
        return len(left)

    def _load_open(self) -> list[Owed]:
        return load_open(self._store.engine, self._network.chain_id)

    async def _pick_up(self, rows: Sequence[Owed]) -> None:
        await self._carrier.remember(rows)
        for at in range(0, len(rows), MOST_PER_TRANSACTION):
            self._take([row.id for row in rows[at : at + MOST_PER_TRANSACTION]])

    async def stop(self) -> None:
        """Stop working; the rows say where to go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settle(self, payment_id: str, timeout: float) -> Settled:
        """Wait until an owed payment's money has arrived, at most `timeout` seconds.

        Raises SettlementFailed (it did not arrive and will not be tried again; the code
        is the errorReason) or SettlementUnknown (it is carried on; ask again later).
        """
        future: asyncio.Future[Settled] = asyncio.get_running_loop().create_future()
        self._waiting[payment_id].append(future)
        self._arrived.put_nowait(payment_id)
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            raise SettlementUnknown(f"payment {payment_id} is not settled yet") from None
        finally:
            self._leave(payment_id, future)

    async def reorganised(self, tx_hashes: Collection[str]) -> None:
        """These transactions' blocks are gone: their payments are on their way again."""
        rows = await asyncio.to_thread(load_mined_in, self._store.engine, tx_hashes)
        for row in rows:
            key = books.ledger_key(row)
            turns = await next_turns(self._store.engine, [key])
            await self._store.commit(books.reorganised(row, turns[key], unix_now()))
        await self._carrier.remember(rows)
        self._take([row.id for row in rows])

    def _leave(self, payment_id: str, future: asyncio.Future[Settled]) -> None:
        waiting = self._waiting.get(payment_id, [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop(payment_id, None)

    # Gathering

    async def _gather(self) -> None:
        """Put together what is owed at one moment."""
        loop = asyncio.get_running_loop()
        while True:
            ids = [await self._arrived.get()]
            end = loop.time() + WINDOW_SECONDS
            while len(ids) < MOST_PER_TRANSACTION and (left := end - loop.time()) > 0:
                # Not wait_for: on Python 3.11 it swallows a cancellation that meets an arrival.
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        ids.append(await self._arrived.get())
            self._take(ids)

    def _take(self, ids: Sequence[str]) -> None:
        new = sorted(set(ids) - self._open)
        if new:
            self._open.update(new)
            self._spawn(self._carry(new))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Carrying

    async def _carry(self, ids: Sequence[str]) -> None:
        """Step by step until every one of these payments is decided."""
        left, before, pause = list(ids), "", _FIRST_PAUSE_SECONDS
        while left:
            rows = await self._step(left)
            if rows is not None:
                left = await self._resolve(left, rows)
            now = repr([(row.id, row.state, row.tx_id) for row in rows or ()])
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if now == before else pause
            if left and now == before:
                await asyncio.sleep(pause)
            else:
                pause = _FIRST_PAUSE_SECONDS
            before = now

    async def _step(self, ids: Sequence[str]) -> list[Owed] | None:
        try:
            return await self._carrier.step(ids)
        except FinanceError as error:
            _LOG.warning("settling %d payments: %s; they stay open", len(ids), error)
        except Exception:
            # Money must outlive a fault of ours; the rows are as they were.
            _LOG.exception("settling %d payments", len(ids))
        return None

    async def _resolve(self, ids: Sequence[str], rows: Sequence[Owed]) -> list[str]:
        """Tell those who wait for decided payments; the ids of the others."""
        by_id = {row.id: row for row in rows}
        left = []
        for payment_id in ids:
            row = by_id.get(payment_id)
            if row is not None and row.state in (PaymentState.OWED, PaymentState.SENT):
                left.append(payment_id)
                continue
            if row is None or row.channel_id is None or await self._reload(row.channel_id):
                self._tell(payment_id, row)
            else:
                left.append(payment_id)
        return left

    async def _reload(self, channel_id: str) -> bool:
        try:
            await self._channels.reload(channel_id)
        except SQLAlchemyError as error:
            _LOG.warning("channel %s cannot be read now: %s", channel_id, error)
            return False
        return True

    def _tell(self, payment_id: str, row: Owed | None) -> None:
        self._open.discard(payment_id)
        self._carrier.forget(payment_id)
        for future in self._waiting.pop(payment_id, []):
            if future.done():
                continue
            if row is not None and row.state == PaymentState.CONFIRMED:
                future.set_result(Settled(row.tx_hash or "", row.log_index or 0, row.channel))
            else:
                future.set_exception(_failure(payment_id, row))


def _failure(payment_id: str, row: Owed | None) -> SettlementFailed:
    if row is None or row.state != PaymentState.FAILED:
        return SettlementFailed(f"payment {payment_id} is not owed")
    return SettlementFailed(f"payment {payment_id} was not taken by the chain", code=row.error)
