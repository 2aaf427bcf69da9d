"""A whole node, started on one network and then on another, over the same data directory."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

from node.usage.calls import CallRecord
from node.usage.models import Side
from tests.chain_fixtures import DevchainProcess
from tests.conftest import book_calls
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.market_world import new_home
from tests.recovery.node_home import NodeHome
from tests.treasury.market_console import database, program


class MovedHome(NodeHome):
    """The same node with another chain in its configuration."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "FAREBOX_CHAIN_ID": "31338"}


async def test_a_node_that_moved_shows_the_revenue_of_the_network_it_is_on(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    now = int(time.time())
    sold = CallRecord(
        "c1", Side.SERVED, now * 1000, "lst_1", "GET", "/", 200, 5, amount_atoms=5_000_000
    )
    async with AsyncExitStack() as stack:
        home = await new_home("seller", chain, tmp_path, stack)
        await home.start()
        with database(home) as engine:
            book_calls(engine, sold)
        assert await _revenue(home) == 5_000_000
        await home.stop()
        other = stack.enter_context(DevchainProcess(chain_id=31338))
        relay = await stack.enter_async_context(FaultyRpc(other.rpc_url))
        ports = home.gateway_port, home.console_port
        moved = MovedHome(home.name, home.folder, relay, *ports, home.keys, starts=1)
        stack.push_async_callback(moved.stop)
        await moved.start()
        assert await _revenue(moved) == 0
        await moved.stop()
        await home.start()
        assert await _revenue(home) == 5_000_000


async def _revenue(home: NodeHome) -> int:
    async with program(home) as api, api.get("/api/dashboard?side=seller") as answer:
        page = await answer.json()
        assert answer.status == 200, page
        return int(page["last_24h"]["amount_atoms"])
