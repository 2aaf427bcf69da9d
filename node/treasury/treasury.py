"""Everything an operator does with money, as the pages and the JSON API use it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Engine

from finance.arrivals import Arrivals
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.networks import Network
from finance.store import Store, Write
from finance.withdrawals import Withdrawals
from finance.x402.text import checksum, parse_address
from node.alerts.rules import Alarm
from node.purse import Purse
from node.treasury.guard import Guard
from node.usage.events import event


@dataclass(frozen=True, slots=True)
class Treasury:
    """The services; `address` is the wallet's, checksummed."""

    engine: Engine
    store: Store
    network: Network
    address: str
    purse: Purse
    guard: Guard
    withdrawals: Withdrawals

    async def start(self) -> None:
        """After the sender: take up what a former run left."""
        await self.guard.reload()
        await self.withdrawals.start()


def build_treasury(
    store: Store, rpc: Rpc, sender: Sender, network: Network, alarm: Alarm
) -> Treasury:
    """Nothing runs yet."""
    purse = Purse(rpc, network, sender.address, Arrivals(store, network, sender.address, _arrived))
    return Treasury(
        engine=store.engine,
        store=store,
        network=network,
        address=checksum(parse_address(sender.address)),
        purse=purse,
        guard=Guard(store.engine, alarm, purse.seen),
        withdrawals=Withdrawals(store, sender, rpc, network),
    )


def _arrived(sentence: str) -> Write:
    return event("received", "info", sentence, int(time.time()))
