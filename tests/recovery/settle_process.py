"""A seller that settles what it owes, as a process that can die at a chosen commit.

    python -m tests.recovery.settle_process FOLDER RPC_URL WALLET_KEY COMMIT

It kills itself (SIGKILL) instead of making its commit number COMMIT, and prints `done`
if it gets to the end before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from finance.models import PaymentState
from finance.store import Batch
from finance.wallet.signer import Signer
from node.db.journal import Journal
from tests.recovery.seller_world import Chain, World


class Dying(Journal):
    """Dies instead of its nth commit."""

    left = int(sys.argv[4]) if len(sys.argv) > 4 else 0

    async def commit(self, batch: Batch) -> None:
        Dying.left -= 1
        if not Dying.left:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().commit(batch)


async def _settle() -> None:
    chain = Chain(sys.argv[2])
    wallet = Signer.from_hex(sys.argv[3])
    async with World(chain, Path(sys.argv[1]), wallet, journal=Dying) as world:
        while world.count(PaymentState.OWED) + world.count(PaymentState.SENT):
            await asyncio.sleep(0.02)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(_settle())
