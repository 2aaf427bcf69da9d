"""A process that sends one payment and is killed somewhere on the way.

python -m tests.recovery.send_once DATABASE RPC_URL KEY TO
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from finance.chain.addresses import USDC_ADDRESS
from tests.recovery.sender_world import sender_world, transfer


async def _send(database: Path, url: str, key: str, to: str) -> None:
    async with sender_world(database, [url], key, stuck_seconds=60, timeout_seconds=60) as world:
        tx_id = await world.sender.send("t", "x", USDC_ADDRESS, transfer(to, 1))
        await world.sender.outcome(tx_id, 60)
        print("mined", flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_send(Path(sys.argv[1]), *sys.argv[2:5]))
