"""The drill: a node is backed up while it sells, its disk is thrown away, it is restored
elsewhere, and it goes on. Then the same with the node that buys."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finance.ledger import Account
from node.demo.processes import run_command
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import PRICE, Errand, Market, open_market, transfer
from tests.recovery.node_home import NodeHome, until

PASSWORD = "a password for backups only"
CALLS = 60


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def test_nodes_go_on_from_their_backups_after_their_disks_are_gone(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        await asyncio.gather(*(_set_password(node, tmp_path) for node in market.nodes))
        await market.buy_many(_errands("before", 16))
        await market.all_settled()
        await _drill_seller(market, tmp_path)
        await _drill_buyer(market, tmp_path)
        await market.all_settled()
        await market.claim_all()
        # Claimed with vouchers that the restored buyer did not know: the chain tells it.
        await until("the buyer knows what was claimed", lambda: _balanced(market.buyer), 90)
        await market.reconcile()
        assert not await _events(market.seller, "wallet_elsewhere")
        await _old_node_is_noticed(market)


async def _drill_seller(market: Market, folder: Path) -> None:
    old = market.seller
    calls = _errands("during", CALLS)
    selling = asyncio.create_task(market.buy_many(calls))
    await until("sales are under way", lambda: _sold(market, "during", 5))
    file = await _back_up(old, folder)
    at_backup = await _charged(old)  # a little later than the snapshot: at most this is in it
    await selling
    await market.buy_many(_errands("after", 6), at_once=2)
    spent = -await market.buyer.booked(Account.SPENT)
    market.seller = await _restore_elsewhere(old, file, folder, "seller-restored")
    inside, _ = await asyncio.gather(_inside(market.seller, file, folder), market.seller.start())
    assert inside["listings"] == 1 and inside["wallet"].lower() == old.address
    more = _errands("restored", 12)
    await market.buy_many(more, at_once=2)
    assert all(each.cost_atoms == PRICE for each in more)
    assert -await market.buyer.booked(Account.SPENT) <= spent + len(more) * PRICE, "charged twice"
    lost = spent + len(more) * PRICE - await _charged(market.seller)
    assert lost <= spent - at_backup + CALLS * PRICE, "more is lost than what came after"
    assert await _events(market.seller, "restored")
    await until("its books are held against the chain", lambda: _checked(market.seller))


async def _drill_buyer(market: Market, folder: Path) -> None:
    old = market.buyer
    file = await _back_up(old, folder)
    await market.buy_many(_errands("unknown", 8), at_once=2)
    charged = await _charged(market.seller)
    market.buyer = await _restore_elsewhere(old, file, folder, "buyer-restored")
    await market.buyer.start()
    more = _errands("again", 10)
    await market.buy_many(more, at_once=2)
    assert all(each.cost_atoms == PRICE for each in more), "the key and the listing are there"
    assert await _charged(market.seller) == charged + len(more) * PRICE
    await until("its channels are held against the chain", lambda: _checked(market.buyer))
    sold = dict(await market.seller.rows("SELECT channel_id, charged_atoms FROM seller_channel"))
    bought = await market.buyer.rows("SELECT channel_id, charged_atoms FROM buyer_channel")
    assert all(sold[key] >= atoms for key, atoms in bought)


async def _old_node_is_noticed(market: Market) -> None:
    """Somebody else sends with the wallet, as the old node would."""
    await market.seller.stop()
    transfer(market.chain, market.seller.keys.wallet, market.buyer.address, 1)
    await market.seller.start()
    found = await until("it says so", lambda: _events(market.seller, "wallet_elsewhere"))
    assert "stop it now" in found[0][0]


async def _set_password(home: NodeHome, folder: Path) -> None:
    password = folder / "backup-password"
    password.write_text(PASSWORD)
    await _run(home, "backup", "password", "--password-file", str(password))


async def _back_up(home: NodeHome, folder: Path) -> Path:
    """As an operator does it, on the machine of the running node; the file leaves the disk."""
    made = await _run(home, "backup", "create")
    assert made["state"] == "good"
    file = folder / f"{home.name}.farebox"
    shutil.copy(made["file"], file)
    return file


async def _restore_elsewhere(old: NodeHome, file: Path, folder: Path, name: str) -> NodeHome:
    """Power off, disk gone; another machine under the same address, not started yet."""
    await old.kill_9()
    shutil.rmtree(old.data_dir)
    new = replace(old, name=name, part=None, starts=0)
    options = ("--yes", "--password-file", str(folder / "backup-password"))
    restored = await _run(new, "backup", "restore", str(file), *options)
    assert restored["restored"] == str(new.data_dir)
    return new


async def _inside(home: NodeHome, file: Path, folder: Path) -> dict[str, Any]:
    options = ("--password-file", str(folder / "backup-password"))
    found = await _run(home, "backup", "verify", str(file), *options)
    assert found["good"]
    return found


async def _run(home: NodeHome, *arguments: str) -> dict[str, Any]:
    found = await run_command(arguments, home.environment)
    assert isinstance(found, dict)
    return found


def _errands(name: str, count: int) -> list[Errand]:
    return [Errand(f"{name}-{each}") for each in range(count)]


async def _sold(market: Market, name: str, count: int) -> bool:
    return sum(each.startswith(name) for each in market.api.served) >= count


async def _charged(home: NodeHome) -> int:
    return await home.number("SELECT SUM(charged_atoms) FROM seller_channel")


async def _events(home: NodeHome, type_: str) -> list[Any]:
    return await home.rows("SELECT message FROM event WHERE type = :type", type=type_)


async def _balanced(home: NodeHome) -> bool:
    return (await home.reconcile()).balanced


async def _checked(home: NodeHome) -> bool:
    rows = await home.rows("SELECT value FROM preference WHERE name = 'restored'")
    return bool(rows) and '"checked_at":0' not in rows[0][0]
