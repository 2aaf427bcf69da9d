"""One journaled sender per key: every transaction of ours leaves the node here.

What is wanted is stored first, then simulated, then given a nonce and signed, and the
signed bytes are stored before they are broadcast (finance.models.TxState). From there
on only the chain says how it ended: what timed out is offered again, byte for byte,
and what is stuck is replaced under the same nonce, so it cannot happen twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from finance.chain.answers import read_quantity
from finance.chain.endpoint import Question
from finance.chain.fees import Fees, GasCaps, gas_limit_up, read_fees, require_within_caps
from finance.chain.follower import Follower
from finance.chain.predecessors import follow_predecessors
from finance.chain.refusals import Refusal, read_refusal
from finance.chain.rpc import Rpc
from finance.chain.transactions import (
    DAY_SECONDS,
    Attempt,
    Tx,
    TxOutcome,
    assign,
    find_intent,
    gas_on_its_way,
    gas_spent_since,
    insert_attempt,
    insert_intent,
    move,
    nonces_from,
    reopen,
    sign,
    unassign,
    unix_now,
)
from finance.errors import (
    ChainError,
    FinanceError,
    GasCapExceeded,
    RpcRefused,
    RpcUnavailable,
    StoreConflict,
    StoreUnavailable,
)
from finance.models import TxState
from finance.networks import Network
from finance.store import Batch, Store, Write
from finance.wallet.signer import Signer

__all__ = ["Sender", "TxOutcome"]

_LOG = logging.getLogger(__name__)
_LAUNCHES = 5
_OFFER_SECONDS = 1.0
_LOOK_SECONDS = 0.15
_IDLE_SECONDS = 60.0  # how often one that has nothing to do looks for what others have left


class Sender:
    """Sends for one key on one chain. No other code may broadcast for that key."""

    def __init__(
        self,
        rpc: Rpc,
        signer: Signer,
        network: Network,
        store: Store,
        caps: GasCaps,
        stuck_seconds: float | None = None,
    ) -> None:
        self._rpc = rpc
        self._signer = signer
        self._network = network
        self._store = store
        self._caps = caps
        self._own = store.engine, network.chain_id, signer.address
        self._stuck_seconds = stuck_seconds or max(20.0, 8 * network.block_seconds)
        self._follower = Follower(rpc, network, store, signer.address)
        self._sending: dict[tuple[str, str], asyncio.Task[int]] = {}
        # Between the choice of a nonce and the end of its first broadcast: what was
        # certainly refused gives its nonce back before another is handed out.
        self._launching = asyncio.Lock()
        self._wake = self._follower.wake
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def address(self) -> str:
        return self._signer.address

    def when_taken_back(self, act: Callable[[str], Awaitable[None]]) -> None:
        """Await `act` with the hash of each mined transaction whose block is gone."""
        self._follower.when_taken_back.append(act)

    async def start(self) -> None:
        """Pick up everything a former run left unfinished, and follow it. Needs no RPC."""
        for tx in await self._follower.unfinished():
            if tx.state is TxState.INTENDED:
                await self._reject(tx, "interrupted before anything was signed")
            else:
                self._follower.add(tx)
        others = follow_predecessors(self._rpc, self._network, self._store, self._follower)
        self._tasks = [
            asyncio.create_task(self._run(), name=f"sender {self.address}"),
            asyncio.create_task(others, name=f"predecessors of {self.address}"),
        ]

    async def stop(self) -> None:
        """Finish what is being sent, then stop following; the rows say where to go on."""
        await asyncio.gather(*self._sending.values(), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send(
        self,
        purpose: str,
        ref: str,
        to: str,
        data: bytes,
        value: int = 0,
        before_broadcast: Callable[[int], Sequence[Write]] | None = None,
    ) -> int:
        """Broadcast a transaction once per (purpose, ref); its id. Does not wait for mining.

        `before_broadcast(tx_id)` are writes committed together with the signed bytes, so
        that no broadcast is unknown to the books. Raises, with nothing broadcast and the
        row rejected (it may be sent again under the same ref): CallReverted, RpcRefused
        (the chain does not want it), GasCapExceeded, RpcUnavailable, StoreConflict.
        """
        key = (purpose, ref)
        task = self._sending.get(key)
        if task is None:
            task = asyncio.create_task(self._send(key, to, data, value, before_broadcast))
            self._sending[key] = task
            task.add_done_callback(lambda _: self._sending.pop(key, None))
        # A caller that gives up must not stop a broadcast half-way.
        return await asyncio.shield(task)

    async def outcome(self, tx_id: int, timeout: float) -> TxOutcome:
        """How the transaction ended, `confirmations` deep.

        Raises SettlementUnknown after `timeout` seconds: it may still be mined, and is
        followed on. Never send its contents again under another ref.
        """
        return await self._follower.outcome(tx_id, timeout)

    # From intent to broadcast

    async def _send(
        self,
        key: tuple[str, str],
        to: str,
        data: bytes,
        value: int,
        before_broadcast: Callable[[int], Sequence[Write]] | None,
    ) -> int:
        tx = await self._intend(key, to, data, value)
        if tx.state is not TxState.INTENDED:
            return tx.id
        try:
            gas_limit = await self._simulate(tx)
            also = before_broadcast(tx.id) if before_broadcast else ()
            async with self._launching:
                tx.launching = True
                await self._launch(tx, gas_limit, also)
        except (ChainError, StoreConflict) as error:
            await self._reject(tx, str(error))
            raise
        finally:
            tx.launching = False
        self._wake.set()
        return tx.id

    async def _intend(self, key: tuple[str, str], to: str, data: bytes, value: int) -> Tx:
        """The row of this key: new, opened again, or as far as it has come."""
        tx = await self._find(key)
        if tx is None:
            row = insert_intent(self._network.chain_id, self.address, *key, to, data, value)
            await self._store.commit(Batch([row]))
            tx = await self._find(key)
            assert tx is not None
        elif tx.state in (TxState.INTENDED, TxState.REJECTED):
            await self._store.commit(Batch([reopen(tx.id, self.address, to, data, value)]))
            tx = Tx(tx.id, to, data, value, TxState.INTENDED)
        return tx

    async def _find(self, key: tuple[str, str]) -> Tx | None:
        return await asyncio.to_thread(find_intent, self._store.engine, *key)

    async def _simulate(self, tx: Tx) -> int:
        """Gas to allow for. Raises CallReverted when the chain would refuse it now."""
        call = {
            "from": self._signer.address,
            "to": tx.to,
            "data": "0x" + tx.data.hex(),
            "value": hex(tx.value_wei),
        }
        return gas_limit_up(
            await self._rpc.ask(Question("eth_estimateGas", (call,), read_quantity))
        )

    async def _launch(self, tx: Tx, gas_limit: int, also: Sequence[Write]) -> None:
        """Nonce, signature, first broadcast; raises only if nothing was broadcast."""
        fees, taken = await read_fees(self._rpc), 0
        refusal: RpcRefused | None = None
        for _ in range(_LAUNCHES):
            await self._require_caps(tx, fees, gas_limit)
            nonce = await self._sign_at_least(taken, tx, gas_limit, fees, also)
            also = ()
            result = await self._rpc.broadcast(tx.attempts[-1].raw)
            kind = read_refusal(result)
            if kind is Refusal.OPEN:
                tx.accepted = result.accepted
                await self._mark_broadcast(tx)
                return
            await self._give_nonce_back(tx)
            if not result.refusals:
                raise RpcUnavailable("no endpoint could be reached for the broadcast")
            refusal = result.refusals[-1]
            match kind:
                case Refusal.NONCE:
                    taken = nonce + 1
                case Refusal.FEES:
                    fees = (await read_fees(self._rpc)).at_least(fees.bumped())
                case Refusal.FINAL:
                    raise refusal
        assert refusal is not None
        raise refusal

    async def _require_caps(self, tx: Tx, fees: Fees, gas_limit: int) -> None:
        """All that may still be mined counts as spent, at its worst."""
        today = unix_now() // DAY_SECONDS * DAY_SECONDS
        # In this order: what is mined in between is counted twice, not left out.
        others = await asyncio.to_thread(gas_on_its_way, *self._own, tx.id)
        spent = await asyncio.to_thread(gas_spent_since, *self._own, today)
        require_within_caps(self._caps, fees, gas_limit, spent + others)

    async def _sign_at_least(
        self, nonce: int, tx: Tx, gas_limit: int, fees: Fees, also: Sequence[Write]
    ) -> int:
        """Sign under the first nonce from `nonce` on that is free; which one. Of two processes
        with this key that choose the same the second takes the next."""
        while True:
            nonce = await self._free_nonce(nonce)
            try:
                await self._sign_first(tx, nonce, gas_limit, fees, also)
            except StoreConflict:
                if nonce not in await asyncio.to_thread(nonces_from, *self._own, nonce):
                    raise
            else:
                return nonce

    async def _free_nonce(self, at_least: int) -> int:
        """The lowest nonce no transaction of ours has and the chain still takes.

        The lowest, not the next after our highest: a nonce left out would hold back
        everything behind it.
        """
        nonce = max(at_least, await self._rpc.nonce(self._signer.address, "pending"))
        stored = await asyncio.to_thread(nonces_from, *self._own, nonce)
        used = self._follower.used_nonces() | stored
        while nonce in used:
            nonce += 1
        return nonce

    async def _sign_first(
        self, tx: Tx, nonce: int, gas_limit: int, fees: Fees, also: Sequence[Write]
    ) -> None:
        attempt = self._sign(tx, nonce, gas_limit, fees)
        await self._store.commit(Batch([*assign(tx, nonce, gas_limit, attempt), *also]))
        tx.state, tx.nonce, tx.gas_limit, tx.attempts = TxState.SIGNED, nonce, gas_limit, [attempt]
        tx.signed_at = tx.offered_at = time.monotonic()
        # From here on it may be on the chain, whatever happens to us.
        self._follower.add(tx)

    def _sign(self, tx: Tx, nonce: int, gas_limit: int, fees: Fees) -> Attempt:
        return sign(self._signer, self._network.chain_id, tx, nonce, gas_limit, fees)

    async def _mark_broadcast(self, tx: Tx) -> None:
        if tx.state is not TxState.SIGNED:
            return
        try:
            await self._store.commit(Batch([move(tx, TxState.BROADCAST)]))
        except (StoreConflict, StoreUnavailable) as error:
            # The follower found it mined meanwhile, or the next offer marks it.
            _LOG.info("transaction %s is broadcast, not marked so: %s", tx.id, error)
            return
        if tx.state is TxState.SIGNED:
            tx.state = TxState.BROADCAST

    async def _give_nonce_back(self, tx: Tx) -> None:
        await self._store.commit(Batch(unassign(tx, TxState.INTENDED)))
        self._follower.live.pop(tx.id, None)
        tx.state, tx.nonce, tx.attempts = TxState.INTENDED, None, []

    async def _reject(self, tx: Tx, why: str) -> None:
        if tx.state is TxState.INTENDED:
            await self._store.commit(Batch(unassign(tx, TxState.REJECTED, why[:500])))
            self._follower.tell(TxOutcome(tx.id, TxState.REJECTED, error=why))

    # Until the end

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                if self._follower.live or self._follower.settling:
                    await self._follower.look()
                    await self._push()
                else:
                    await self._follower.adopt()
            except FinanceError as error:
                _LOG.warning("sender %s: %s", self._signer.address, error)
            except Exception:
                # The loop that follows money must outlive a fault of ours.
                _LOG.exception("sender %s", self._signer.address)
            await self._pause()

    async def _pause(self) -> None:
        # Not wait_for: on Python 3.11 it swallows a cancellation that meets a wake-up,
        # and `stop` would wait for ever.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pause_seconds()):
                await self._wake.wait()

    def _pause_seconds(self) -> float:
        """Until the next look."""
        if self._follower.live:
            slow = self._network.block_seconds > 1
            return self._network.block_seconds / 4 if slow else _LOOK_SECONDS
        return self._network.block_seconds if self._follower.settling else _IDLE_SECONDS

    async def _push(self) -> None:
        """Offer again what may have been lost; outbid what is stuck."""
        now = time.monotonic()
        for tx in sorted(self._follower.live.values(), key=lambda each: each.nonce or 0):
            if tx.nonce is None or tx.launching:
                continue
            if tx.nonce < self._follower.chain_nonce:
                await self._look_for_thief(tx, now)
            elif tx.nonce == self._follower.chain_nonce and self._is_stuck(tx, now):
                await self._replace(tx)
            elif now - tx.offered_at >= self._offer_seconds(tx):
                await self._offer(tx)

    def _is_stuck(self, tx: Tx, now: float) -> bool:
        return now - tx.signed_at >= self._stuck_seconds and not tx.too_dear

    def _offer_seconds(self, tx: Tx) -> float:
        """A second while we do not know that anybody has it, else a while."""
        return self._stuck_seconds / 4 if tx.accepted else _OFFER_SECONDS

    async def _look_for_thief(self, tx: Tx, now: float) -> None:
        """Its nonce is used and it has no receipt: lagging endpoints, or another transaction."""
        if now - tx.offered_at >= self._stuck_seconds / 4:
            tx.offered_at = now
            await self._follower.displaced(tx)

    async def _offer(self, tx: Tx) -> None:
        """The same bytes again, harmless however often; of those the wallet can still pay for."""
        tx.offered_at, tx.too_dear = time.monotonic(), False
        for attempt in reversed(tx.attempts):
            result = await self._rpc.broadcast(attempt.raw)
            tx.accepted = result.accepted
            if result.refusals:
                _LOG.info("transaction %s is not taken: %s", tx.id, result.refusals[-1])
            if not result.refusals or read_refusal(result) is not Refusal.FINAL:
                break
            tx.too_dear = True
        if tx.accepted:
            await self._mark_broadcast(tx)

    async def _replace(self, tx: Tx) -> None:
        """Same nonce, same contents, at least 12.5 % higher fees; all attempts stay watched."""
        tx.signed_at = tx.offered_at = time.monotonic()
        fees = (await read_fees(self._rpc)).at_least(tx.attempts[-1].fees.bumped())
        try:
            async with self._launching:
                await self._require_caps(tx, fees, tx.gas_limit)
        except GasCapExceeded as error:
            _LOG.warning("transaction %s is stuck and stays so: %s", tx.id, error)
            await self._offer(tx)
            return
        assert tx.nonce is not None
        attempt = self._sign(tx, tx.nonce, tx.gas_limit, fees)
        outbid = [move(tx, tx.state), insert_attempt(tx.id, attempt)]
        if not await self._follower.commit(tx, outbid):
            return
        tx.attempts.append(attempt)
        await self._offer(tx)
