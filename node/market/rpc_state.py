"""Whether each RPC address answers right now, and with which chain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from finance.chain.rpc import Rpc
from finance.errors import ChainError
from finance.networks import Network

_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class RpcState:
    """One address. `name` is the host only: the rest of such an address may hold a key."""

    name: str
    block: int | None
    latency_us: int
    error: str = ""


async def look_at_rpc(network: Network) -> Sequence[RpcState]:
    """Ask every address at once; each has four seconds."""
    return await asyncio.gather(*(_look(url, network.chain_id) for url in network.rpc_urls))


async def _look(url: str, chain_id: int) -> RpcState:
    parts, started = urlsplit(url), time.perf_counter()
    name = parts.hostname or "?"
    name = f"{name}:{parts.port}" if parts.port else name
    block, error = None, ""
    try:
        async with asyncio.timeout(_SECONDS), Rpc([url], chain_id, _SECONDS) as rpc:
            block = await rpc.block_number()
    except (ChainError, TimeoutError) as failure:
        error = str(failure)[:300] or f"It did not answer within {_SECONDS:.0f} seconds."
    latency = int((time.perf_counter() - started) * 1_000_000)
    return RpcState(name, block, latency, error)
