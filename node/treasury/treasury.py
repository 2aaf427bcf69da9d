"""Everything an operator does with money, as the pages and the JSON API use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from finance.arrivals import Arrivals
from finance.buying.buyer import Buyer
from finance.buying.closing import Closings
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.networks import Network
from finance.selling.channels import SellerChannels
from finance.selling.claims import Claims
from finance.selling.refunds import Refunds
from finance.store import Store, Write
from finance.wallet.keystore import Keystore
from finance.withdrawals import Withdrawals
from finance.x402.text import checksum, parse_address
from node.alerts.rules import Alarm
from node.egress import EgressPolicy
from node.preferences import read_preference
from node.purse import Purse
from node.treasury.choices import ClaimTerms
from node.treasury.claiming import SellingDesk
from node.treasury.guard import Guard
from node.treasury.reconciling import Reconciler
from node.treasury.refund_request import RefundRequests
from node.usage.events import event


@dataclass(frozen=True, slots=True)
class Watch:
    """What looks at the wallet. It stands before the gateway, which asks it."""

    purse: Purse
    guard: Guard


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
    selling: SellingDesk
    closings: Closings
    reconciler: Reconciler
    claims: Claims
    keystore: Keystore

    async def start(self) -> None:
        """After the sender and the proxy: take up what a former run left."""
        await self.reload()
        await self.withdrawals.start()
        await self.closings.start()
        await self.reconciler.start()

    async def stop(self) -> None:
        """Their rows say where to go on."""
        await self.reconciler.stop()
        await self.selling.stop()
        await self.closings.stop()

    async def reload(self) -> None:
        """Take over what the operator chose."""
        await self.guard.reload()
        terms = await asyncio.to_thread(read_preference, self.engine, ClaimTerms)
        self.claims.policy = terms.policy


def build_watch(store: Store, rpc: Rpc, network: Network, wallet: str, alarm: Alarm) -> Watch:
    """Nothing runs yet."""
    purse = Purse(rpc, network, wallet, Arrivals(store, network, wallet, _arrived))
    return Watch(purse, Guard(store.engine, alarm, purse.seen))


def build_treasury(
    store: Store,
    rpc: Rpc,
    sender: Sender,
    network: Network,
    watch: Watch,
    claims: Claims,
    channels: SellerChannels,
    refunds: Refunds,
    buyer: Buyer,
    keystore: Keystore,
    egress: Callable[[], EgressPolicy],
) -> Treasury:
    """Nothing runs yet."""
    ask = RefundRequests(store.engine, network, egress)
    return Treasury(
        engine=store.engine,
        store=store,
        network=network,
        address=checksum(parse_address(sender.address)),
        purse=watch.purse,
        guard=watch.guard,
        withdrawals=Withdrawals(store, sender, rpc, network),
        selling=SellingDesk(store, claims, channels, refunds),
        closings=Closings(buyer, sender, rpc, ask, _closed),
        reconciler=Reconciler(store, network, sender.address),
        claims=claims,
        keystore=keystore,
    )


def _arrived(sentence: str) -> Write:
    return event("received", "info", sentence, int(time.time()))


def _closed(sentence: str) -> Write:
    return event("channel_closing", "info", sentence, int(time.time()))
