"""The wallet's balances for the screen, as last seen: pages never wait for the chain."""

from __future__ import annotations

import asyncio
import logging

from finance.balance import read_wallet
from finance.chain.rpc import Rpc
from finance.errors import ChainError
from finance.networks import Network
from node.usage.kpis import Balances

REFRESH_SECONDS = 10.0

_log = logging.getLogger(__name__)


class Purse:
    """`balances` is empty until the chain has answered once."""

    def __init__(self, rpc: Rpc, network: Network, address: str) -> None:
        self._rpc = rpc
        self._network = network
        self._address = address
        self.balances = Balances()

    async def follow(self) -> None:
        """Look every few seconds for as long as the node runs."""
        while True:
            try:
                self.balances = Balances(
                    *await read_wallet(self._rpc, self._network, self._address)
                )
            except ChainError as error:
                _log.warning("balances cannot be read now: %s", error)
            await asyncio.sleep(REFRESH_SECONDS)
