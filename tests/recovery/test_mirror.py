"""Looks at channels that an endpoint answers wrongly."""

from __future__ import annotations

import asyncio
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


async def test_a_look_that_was_under_way_when_the_chain_went_back_hides_no_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DevchainProcess() as own:
        async with World(own, tmp_path) as world:
            opened = await world.open_channel(Payer(own), 20_000)
            key, before = "0x" + opened.channel_id.hex(), own.rpc("evm_snapshot")
            own.rpc("anvil_mine", hex(3))
            multicall, read, goes_on = world.rpc.multicall, asyncio.Event(), asyncio.Event()

            async def late(calls: Sequence[Any]) -> list[tuple[bool, bytes]]:
                results = await multicall(calls)
                read.set()
                await goes_on.wait()
                return results

            monkeypatch.setattr(world.rpc, "multicall", late)
            look = asyncio.create_task(world.mirror.sync([key]))
            await read.wait()
            monkeypatch.setattr(world.rpc, "multicall", multicall)
            own.rpc("evm_revert", before)
            back = asyncio.create_task(world.mirror.reorganised())
            await asyncio.sleep(0.2)
            goes_on.set()
            gone = (await look)[key].block_number
            await back
            state = (await world.mirror.sync([key]))[key]
    assert state.block_number < gone
