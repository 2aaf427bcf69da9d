"""A seller at work on the chain, as a process that can die at a chosen commit.

    python -m tests.recovery.seller_process FOLDER RPC_URL WALLET_KEY RECEIVER_KEY COMMIT WORK

WORK is `settle` (all that is owed), `claim` (all vouchers) or `refund:CHANNEL`. It kills
itself (SIGKILL) instead of making its commit number COMMIT, and prints `done` if it
gets to the end before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from finance.models import PaymentState
from finance.store import Batch
from finance.wallet.signer import Signer
from node.db.journal import Journal
from tests.recovery.seller_world import Chain, World

_ROOT = Path(__file__).parents[2]
_SECONDS = 60


class Dying(Journal):
    """Dies instead of its nth commit."""

    left = 0

    async def commit(self, batch: Batch) -> None:
        Dying.left -= 1
        if not Dying.left:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().commit(batch)


async def run_and_die(world: World, commit: int, work: str) -> bool:
    """Let another process do `work` with the world's money; whether it died of it."""
    keys = [signer.private.to_hex() for signer in (world.wallet, world.receiver)]
    arguments = [str(world.folder), world.chain.rpc_url, *keys, str(commit), work]
    command = [sys.executable, "-m", "tests.recovery.seller_process", *arguments]
    ended = await asyncio.to_thread(
        subprocess.run, command, cwd=_ROOT, capture_output=True, text=True, timeout=_SECONDS
    )
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0


async def _work() -> None:
    folder, rpc_url, wallet, receiver, commit, work = sys.argv[1:]
    keys = Signer.from_hex(wallet), Signer.from_hex(receiver)
    Dying.left = int(commit)
    async with World(Chain(rpc_url), Path(folder), *keys, journal=Dying) as world:
        if work == "settle":
            while world.count(PaymentState.OWED) + world.count(PaymentState.SENT):
                await asyncio.sleep(0.02)
        elif work == "claim":
            await world.claims.claim_all()
        else:
            channel = await world.channels.get(work.removeprefix("refund:"))
            assert channel is not None
            await world.refunds.refund(channel, None)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(_work())
