"""What wallets that were replaced have left on its way (`farebox wallet import --replace`).

Their keys are gone: nothing can be outbid any more. What they signed is offered as it was,
and followed to its end like what is our own.
"""

from __future__ import annotations

import asyncio
import logging

from finance.chain.follower import Follower
from finance.chain.rpc import Rpc
from finance.chain.transactions import other_senders
from finance.networks import Network
from finance.store import Store

_LOG = logging.getLogger(__name__)
_BLOCKS = 8


async def follow_predecessors(rpc: Rpc, network: Network, store: Store, own: Follower) -> None:
    """Returns once nothing of theirs is open; `own` follows the wallet that took their place."""
    left: list[Follower] | None = None
    while left is None or left:
        try:
            if left is None:
                left = await _load(rpc, network, store, own)
            for each in left:
                await _tend(rpc, each)
            left = [each for each in left if each.live or each.settling]
        except Exception as error:
            # What follows money must outlive an outage, and a fault of ours.
            _LOG.warning("what replaced wallets left cannot be followed now: %r", error)
        await asyncio.sleep(_BLOCKS * network.block_seconds)


async def _load(rpc: Rpc, network: Network, store: Store, own: Follower) -> list[Follower]:
    found = []
    chain_id, address = network.chain_id, own.address
    for sender in await asyncio.to_thread(other_senders, store.engine, chain_id, address):
        follower = Follower(rpc, network, store, sender)
        follower.when_taken_back = own.when_taken_back
        for tx in await follower.unfinished():
            if tx.attempts:
                follower.add(tx)
        found.append(follower)
    return found


async def _tend(rpc: Rpc, follower: Follower) -> None:
    await follower.look()
    for tx in list(follower.live.values()):
        for attempt in reversed(tx.attempts):
            await rpc.broadcast(attempt.raw)
        if tx.nonce is not None and tx.nonce < follower.chain_nonce:
            await follower.displaced(tx)
