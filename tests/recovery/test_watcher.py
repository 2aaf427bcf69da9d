"""What the watcher books: every transfer once, whatever restarts, reorgs or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finance.chain.watcher import SeenEvent, Watcher
from finance.errors import RpcUnavailable
from finance.reconcile import reconcile
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.sender_world import (
    DEVNET,
    SenderWorld,
    fresh_address,
    sender_world,
    transfer,
    usdc_of,
)


class Seen:
    """A handler that remembers, and fails when told to."""

    def __init__(self) -> None:
        self.events: list[SeenEvent] = []
        self.gone: list[SeenEvent] = []
        self.failing = False

    async def handle(self, event: SeenEvent) -> None:
        if self.failing:
            raise RpcUnavailable("the handler cannot read the chain now")
        self.events.append(event)

    async def reorganised(self, events: Any) -> None:
        self.gone += events


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(accounts=3) as process:
        yield process


@asynccontextmanager
async def _world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[SenderWorld]:
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], chain.keys[0]) as world:
        yield world


def _watcher(world: SenderWorld, seen: Seen | None = None) -> Watcher:
    address = world.sender.address
    if seen is None:
        return Watcher(world.rpc, world.journal, DEVNET, address)
    return Watcher(world.rpc, world.journal, DEVNET, address, seen.handle, seen.reorganised)


async def _pay(world: SenderWorld, chain: DevchainProcess, ref: str, to: str, atoms: int) -> None:
    tx_id = await world.sender.send("t", ref, chain.usdc, transfer(to, atoms))
    await world.sender.outcome(tx_id, 10)


def _booked(world: SenderWorld) -> int:
    (row,) = world.rows("SELECT SUM(amount) FROM ledger_entry WHERE account = 'wallet'")
    return int(row[0])


async def test_transfers_in_and_out_are_booked_once_and_the_books_balance(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    seen = Seen()
    async with (
        _world(chain, tmp_path) as world,
        sender_world(tmp_path / "b.db", [chain.rpc_url], chain.keys[1]) as other,
    ):
        watcher = _watcher(world, seen)
        await watcher.catch_up()
        await _pay(world, chain, "out", fresh_address(1), 7)
        await _pay(other, chain, "in", world.sender.address, 11)
        await _pay(world, chain, "self", world.sender.address, 13)
        await _pay(other, chain, "elsewhere", fresh_address(1), 17)
        await watcher.catch_up()
        await _watcher(world, seen).catch_up()  # a restart
        assert [event.args["value"] for event in seen.events] == [7, 11, 13]
        assert _booked(world) == usdc_of(chain, world.sender.address)
        report = await reconcile(world.journal, world.rpc, world.sender.address, DEVNET, watcher)
        assert (report.differences, report.open) == ((), ())
        assert report.checked >= 10


async def test_two_processes_that_book_at_once_book_everything_once(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """`farebox reconcile` beside a running node."""
    seen = Seen()
    async with _world(chain, tmp_path) as world:
        await _watcher(world, seen).catch_up()
        for number in range(12):
            await _pay(world, chain, f"n{number}", fresh_address(1), number + 1)
            both = _watcher(world, seen), _watcher(world), _watcher(world)
            await asyncio.gather(*(each.catch_up() for each in both))
        assert {event.args["value"] for event in seen.events} == set(range(1, 13))
        assert _booked(world) == usdc_of(chain, world.sender.address)


async def test_an_event_is_handed_on_again_when_its_handler_failed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    seen = Seen()
    async with _world(chain, tmp_path) as world:
        watcher = _watcher(world, seen)
        await watcher.catch_up()
        await _pay(world, chain, "x", fresh_address(1), 7)
        seen.failing = True
        with pytest.raises(RpcUnavailable):
            await watcher.catch_up()
        seen.failing = False
        await _watcher(world, seen).catch_up()  # as after a crash
        assert [event.name for event in seen.events] == ["Transfer"]
        assert _booked(world) == usdc_of(chain, world.sender.address)


async def test_a_second_process_that_reads_ahead_swallows_no_event(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    seen = Seen()
    async with _world(chain, tmp_path) as world:
        await _watcher(world, seen).catch_up()
        await _pay(world, chain, "x", fresh_address(1), 7)
        assert (await reconcile(world.journal, world.rpc, world.sender.address, DEVNET)).balanced
        await _watcher(world, seen).catch_up()
        assert len(seen.events) == 1
        assert _booked(world) == usdc_of(chain, world.sender.address)


async def test_a_reorganised_transfer_is_taken_back_and_booked_where_it_came_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    seen = Seen()
    async with (
        _world(chain, tmp_path) as world,
        sender_world(tmp_path / "b.db", [chain.rpc_url], chain.keys[1]) as other,
    ):
        watcher = _watcher(world, seen)
        await watcher.catch_up()
        await _pay(other, chain, "stays", world.sender.address, 5)
        await watcher.catch_up()
        snapshot = chain.rpc("evm_snapshot")
        await _pay(world, chain, "x", fresh_address(1), 7)
        await watcher.catch_up()
        chain.rpc("evm_revert", snapshot)
        chain.rpc("anvil_mine", 3)
        await watcher.catch_up()
        assert [event.args["value"] for event in seen.gone] == [7]
        async with asyncio.timeout(10):
            while not usdc_of(chain, fresh_address(1)):
                await asyncio.sleep(0.1)
        mine = world.sender.address
        report = await reconcile(world.journal, world.rpc, mine, DEVNET, watcher)
        async with asyncio.timeout(10):
            while report.differences:  # its gas is booked by the sender
                await asyncio.sleep(0.2)
                report = await reconcile(world.journal, world.rpc, mine, DEVNET, watcher)
        assert _booked(world) == usdc_of(chain, world.sender.address)


async def test_ranges_an_endpoint_refuses_are_read_in_pieces(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with _world(chain, tmp_path) as world:
        await _watcher(world, Seen()).catch_up()
        for number in range(4):
            chain.rpc("anvil_mine", 5)
            await _pay(world, chain, str(number), fresh_address(1), 1)
        async with FaultyRpc(chain.rpc_url) as proxy:
            proxy.refusals["eth_getLogs"] = ["query exceeds max block range"] * 9
            seen = Seen()
            async with sender_world(tmp_path / "a.db", [proxy.url], chain.keys[0]) as behind:
                await _watcher(behind, seen).catch_up()
                assert len(seen.events) == 4
                assert _booked(behind) == usdc_of(chain, world.sender.address)


async def test_a_chain_it_cannot_read_leaves_the_books_as_they_are(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(tmp_path / "a.db", [proxy.url], chain.keys[0]) as world,
    ):
        watcher = _watcher(world, Seen())
        await watcher.catch_up()
        before = watcher.last_block
        await _pay(world, chain, "x", fresh_address(1), 7)
        proxy.answers["eth_getLogs"] = lambda call, result: [{"address": "0x"}]
        with pytest.raises(RpcUnavailable):
            await watcher.catch_up()
        assert (watcher.last_block, watcher.lag) == (before, 1)
        proxy.heal()
        await asyncio.sleep(0)
        await watcher.catch_up()
        assert _booked(world) == usdc_of(chain, world.sender.address)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("DELETE FROM ledger_entry WHERE key LIKE 'transfer:%'", "transfer"),
        ("UPDATE ledger_entry SET amount = amount + 1 WHERE key LIKE 'opening:%'", "wallet_usdc"),
        ("UPDATE ledger_entry SET amount = amount - 1 WHERE account = 'gas'", "gas_ledger_wei"),
        ("UPDATE chain_tx SET fee_wei = fee_wei + 1", "gas_wei"),
    ],
)
async def test_one_atom_that_is_wrong_in_the_books_is_found(
    chain: DevchainProcess, tmp_path: Path, damage: str, kind: str
) -> None:
    async with _world(chain, tmp_path) as world:
        watcher = _watcher(world, Seen())
        await watcher.catch_up()
        await _pay(world, chain, "x", fresh_address(1), 7)
        await watcher.catch_up()
        with world.engine.execution_options(write=True).begin() as connection:
            connection.exec_driver_sql(damage)
        report = await reconcile(world.journal, world.rpc, world.sender.address, DEVNET, watcher)
        found = {each.kind: each for each in report.differences}
        assert kind in found
        assert replace(found[kind], books=0, chain=0) != found[kind]
