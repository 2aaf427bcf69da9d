"""Looks at channels that an endpoint answers wrongly."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from finance.errors import RpcUnavailable
from finance.selling import mirror
from tests.chain_fixtures import DevchainProcess
from tests.recovery.seller_world import Payer, World


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


@pytest.mark.parametrize("named", [2**40, 2**255])
async def test_an_endpoint_that_once_named_a_block_that_is_not_there_stops_no_look_for_ever(
    chain: DevchainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    async with World(chain, tmp_path) as world:
        opened = await world.open_channel(Payer(chain), 20_000)
        key = "0x" + opened.channel_id.hex()
        multicall = world.rpc.multicall

        async def from_the_future(calls: Sequence[Any]) -> list[tuple[bool, bytes]]:
            _, *results = await multicall(calls)
            return [(True, named.to_bytes(32, "big")), *results]

        monkeypatch.setattr(world.rpc, "multicall", from_the_future)
        with suppress(RpcUnavailable):
            await world.mirror.sync([key])
        monkeypatch.setattr(world.rpc, "multicall", multicall)
        for clock in (time.monotonic, time.time):
            later = clock() + mirror.NEWEST_SECONDS + 1
            monkeypatch.setattr(time, clock.__name__, lambda later=later: later)
        state = (await world.mirror.sync([key]))[key]
    assert state.balance == 20_000
    assert 0 < state.block_number < 2**40
