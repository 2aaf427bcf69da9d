"""The wallet's balances as last seen, and what arrived in it: pages never wait for the chain.

It looks once per block that the watcher has booked, and at once when money moved.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from finance.arrivals import Arrivals, Sighting
from finance.balance import read_wallet
from finance.chain.events import SeenEvent
from finance.chain.rpc import Rpc
from finance.errors import ChainError, StoreConflict, StoreUnavailable
from finance.networks import Network
from node.treasury.guard import FRESH_SECONDS, Seen
from node.usage.kpis import Balances

# However quick blocks come, and however seldom.
LEAST_SECONDS = 1.0
MOST_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Purse:
    """`balances` is empty until the chain has answered once; `looked_at` is when it did."""

    def __init__(self, rpc: Rpc, network: Network, address: str, arrivals: Arrivals) -> None:
        self._rpc, self._network, self._address = rpc, network, address
        self._arrivals = arrivals
        self._wake = asyncio.Event()
        self.balances = Balances()
        self.looked_at = 0.0

    def seen(self, now: float) -> Seen:
        """The balances if they are of now, else nothing."""
        if now - self.looked_at > FRESH_SECONDS:
            return Seen(None, None)
        usdc, gas = self.balances.usdc, self.balances.gas
        return Seen(None if usdc is None else int(usdc), None if gas is None else int(gas))

    async def notice(self, event: SeenEvent) -> None:
        """A handler of the watcher: write down what arrived, look at the balance soon."""
        if event.name == "Transfer":
            await self._arrivals.note_transfer(event)
            self._wake.set()

    async def follow(self, block: Callable[[], int]) -> None:
        """Look for as long as the node runs; `block` is the newest one booked."""
        last, waited = -1, 0.0
        while True:
            newest = block()
            if newest != last or self._wake.is_set() or waited >= MOST_SECONDS:
                self._wake.clear()
                await self.look()
                last, waited = newest, 0.0
            pause = max(LEAST_SECONDS, self._network.block_seconds / 2)
            waited += pause
            # Not wait_for: on Python 3.11 it swallows a cancellation that meets a wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def look(self) -> None:
        """Once, now; without an answer everything stays as it was."""
        try:
            block = (await self._rpc.head()).number
            usdc, gas = await read_wallet(self._rpc, self._network, self._address, block)
            nonce = await self._rpc.nonce(self._address, block)
            self.balances, self.looked_at = Balances(usdc, gas), time.time()
            await self._arrivals.note_eth(Sighting(block, int(gas), nonce))
        except ChainError as error:
            _log.warning("balances cannot be read now: %s", error)
        except (StoreConflict, StoreUnavailable, SQLAlchemyError) as error:
            _log.warning("what arrived cannot be written down now: %s", error)
