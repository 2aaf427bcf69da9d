"""A seller at work on the chain, as a process that can die at a chosen commit."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from finance.models import PaymentState
from finance.store import Batch
from finance.wallet.signer import Signer
from node.db.journal import Journal
from tests.recovery.forked import Forked
from tests.recovery.seller_world import Chain, World

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
    """Let another process do `work` with the world's money: `settle` (all that is owed), `claim`
    (all vouchers) or `refund:CHANNEL`. It kills itself instead of making this commit of its own;
    whether it came to that."""
    keys = [signer.private.to_hex() for signer in (world.wallet, world.receiver)]
    arguments = world.folder, world.chain.rpc_url, *keys, commit, work
    other = Forked(world.folder / "other.log", _work, *arguments)
    async with asyncio.timeout(_SECONDS):
        await other.wait()
    assert other.exit_code in (0, -signal.SIGKILL), other.tail()
    return other.exit_code != 0


def _work(folder: Path, rpc_url: str, wallet: str, receiver: str, commit: int, work: str) -> None:
    keys = Signer.from_hex(wallet), Signer.from_hex(receiver)
    Dying.left = commit
    asyncio.run(_do(work, World(Chain(rpc_url), folder, *keys, journal=Dying)))


async def _do(work: str, its_world: World) -> None:
    async with its_world as world:
        if work == "settle":
            while world.count(PaymentState.OWED) + world.count(PaymentState.SENT):
                await asyncio.sleep(0.02)
        elif work == "claim":
            await world.claims.claim_all()
        else:
            channel = await world.channels.get(work.removeprefix("refund:"))
            assert channel is not None
            await world.refunds.refund(channel, None)
