"""Money that arrives is noticed by itself, once, to the atom."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from finance.actions import Action
from finance.arrivals import Arrivals, Outgo, Sighting, unexplained
from finance.chain.rpc import Rpc
from finance.chain.watcher import SeenEvent, Watcher
from finance.history import Filter, read_history
from finance.operations import Token
from finance.store import Write
from finance.wallet.signer import Signer
from finance.withdrawals import find_withdrawal
from finance.x402.abi import calldata
from finance.x402.text import checksum, parse_address
from node.purse import Purse
from node.usage.events import event
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.market_world import transact
from tests.treasury.wallet_world import ETHER, NETWORK, SOMEBODY, WalletWorld


def announce(sentence: str) -> Write:
    return event("received", "info", sentence, int(time.time()))


def purse_of(world: WalletWorld) -> Purse:
    arrivals = Arrivals(world.store, NETWORK, world.wallet.address, announce)
    return Purse(world.rpc, NETWORK, world.wallet.address, arrivals)


def arrived(world: WalletWorld) -> list[Any]:
    return [tuple(row) for row in world.rows("SELECT token, amount, source FROM arrival")]


def send_eth(world: WalletWorld, wei: int) -> None:
    """Somebody sends ETH, as wallets do: it leaves no event."""
    sender = Signer.from_hex(world.chain.keys[8])
    transaction = {
        "type": 2,
        "chainId": NETWORK.chain_id,
        "nonce": int(world.chain.rpc("eth_getTransactionCount", sender.address, "latest"), 16),
        "to": checksum(parse_address(world.wallet.address)),
        "value": wei,
        "gas": 21_000,
        "maxFeePerGas": 10**11,
        "maxPriorityFeePerGas": 1,
    }
    raw, _ = sender.sign_transaction(transaction)
    world.chain.rpc("eth_sendRawTransaction", "0x" + raw.hex())


async def test_usdc_is_noticed_once_however_often_it_is_seen(world: WalletWorld) -> None:
    purse, seen = purse_of(world), list[SeenEvent]()

    async def handle(event: SeenEvent) -> None:
        seen.append(event)
        await purse.notice(event)

    watcher = Watcher(world.rpc, world.store, NETWORK, world.wallet.address, handle)
    await watcher.catch_up()
    world.receive_usdc(777)
    await watcher.catch_up()
    for event_ in seen:
        await purse.notice(event_)
    source = Signer.from_hex(world.chain.keys[9]).address
    assert arrived(world).count(("USDC", "777", source)) == 1
    lines = world.rows("SELECT message FROM event WHERE message LIKE '%0.000777 USDC%'")
    assert lines == [(f"Received 0.000777 USDC from {checksum(parse_address(source))}.",)]


async def test_eth_is_noticed_to_the_wei_beside_our_own_transactions(world: WalletWorld) -> None:
    purse = purse_of(world)
    await purse.look()
    view = await world.withdraw(Token.ETH, 3 * ETHER, SOMEBODY)
    send_eth(world, 2 * ETHER + 5)

    def mined() -> bool:
        found = find_withdrawal(world.engine, view.id)
        return found is not None and found.ended

    await world.until(mined)
    await purse.look()
    await purse.look()
    assert arrived(world) == [("ETH", str(2 * ETHER + 5), "")]
    assert purse.balances.gas == world.eth_of(world.wallet.address)


async def test_eth_that_a_reorg_takes_back_is_said_to_be_gone(world: WalletWorld) -> None:
    """And is not in the history twice once it has come again."""
    purse, start = purse_of(world), world.eth_of(world.wallet.address)
    await purse.look()
    before = world.chain.rpc("evm_snapshot")
    send_eth(world, 7)
    await purse.look()
    world.chain.rpc("evm_revert", before)
    world.chain.rpc("anvil_mine", 3)
    await purse.look()

    def moved(action: Action | None = None) -> list[int]:
        wanted = Filter(action=action, token=Token.ETH)
        return [line.amount for line in read_history(world.engine, wanted, None, 50).lines]

    assert world.eth_of(world.wallet.address) == start and moved() == [-7, 7]
    assert (moved(Action.RECEIVED), moved(Action.TAKEN_BACK)) == ([7], [-7])
    send_eth(world, 7)
    await purse.look()
    assert sum(moved()) == world.eth_of(world.wallet.address) - start == 7


async def test_what_we_send_is_no_arrival(world: WalletWorld) -> None:
    purse = purse_of(world)
    await purse.look()
    view = await world.withdraw(Token.USDC, 1_000, SOMEBODY)
    await world.until(lambda: (found := find_withdrawal(world.engine, view.id)) and found.ended)
    await purse.look()
    assert arrived(world) == []


async def test_nothing_that_a_stranger_transfers_is_no_movement(world: WalletWorld) -> None:
    """Anybody may make the token tell of 0 USDC out of the wallet, to an address that looks like
    one it has paid: so that somebody copies it from the history."""
    stranger = Signer.from_hex(world.chain.keys[8])
    names = ("address", "address", "uint256")
    data = calldata("transferFrom", names, world.wallet.address_bytes, stranger.address_bytes, 0)
    await world.watcher.catch_up()
    before = read_history(world.engine, Filter(), None, 50)
    transact(world.chain, stranger, world.chain.usdc, data)
    await world.watcher.catch_up()
    assert read_history(world.engine, Filter(), None, 50) == before


async def test_balances_are_followed_through_a_restart_of_the_database(
    chain: DevchainProcess, tmp_path: Path, postgres_url: str
) -> None:
    """Nothing that follows the wallet may end with it: the node would stop."""
    async with WalletWorld(chain, tmp_path, database_url=postgres_url) as world:
        purse = purse_of(world)
        following = asyncio.create_task(purse.follow(iter(range(10**9)).__next__))
        try:
            await world.until(lambda: world.rows("SELECT nonce FROM eth_sighting"))
            with unreachable(postgres_url):
                seen = purse.looked_at
                await world.until(lambda: following.done() or purse.looked_at > seen + 2)
            assert not following.done()
            send_eth(world, 7)
            await world.until(lambda: arrived(world) == [("ETH", "7", "")])
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@pytest.mark.parametrize("answer", ["0x", "0x" + "ff" * 32])
async def test_a_balance_that_cannot_be_one_is_not_believed(
    chain: DevchainProcess, tmp_path: Path, answer: str
) -> None:
    """Neither shown, nor a reason to pause, nor the end of what follows the wallet, and with it
    of the node."""
    async with (
        FaultyRpc(chain.rpc_url) as relay,
        WalletWorld(chain, tmp_path, rpc_url=relay.url) as world,
    ):
        purse = purse_of(world)
        await purse.look()
        before = purse.balances
        relay.answers["eth_call"] = lambda call, true: answer
        await purse.look()
        assert purse.balances == before and before.usdc == 5_000_000


class HighFlyer(FaultyRpc):
    """Says that the chain is higher than any will ever be, and answers as of there."""

    async def _forward(self, body: Any) -> Any:
        asked = json.dumps(body).replace(hex(2**80), "latest")
        answer = json.dumps(await super()._forward(json.loads(asked)))
        return json.loads(re.sub('"number": "[^"]+"', f'"number": "{2**80:#x}"', answer))


async def test_a_height_that_cannot_be_one_is_not_believed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with WalletWorld(chain, tmp_path) as world, HighFlyer(chain.rpc_url) as liar:
        arrivals = Arrivals(world.store, NETWORK, world.wallet.address, announce)
        async with Rpc([liar.url, chain.rpc_url], chain.chain_id) as rpc:
            purse = Purse(rpc, NETWORK, world.wallet.address, arrivals)
            await purse_of(world).look()
            send_eth(world, 7)
            await purse.look()
        assert arrived(world) == [("ETH", "7", "")]


@contextmanager
def unreachable(url: str) -> Iterator[None]:
    """The database ends every connection and takes no new one, as while its server restarts."""
    name = make_url(url).database
    server = make_url(url).set(database="postgres")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.exec_driver_sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        try:
            yield
        finally:
            connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    engine.dispose()


def test_a_transaction_of_ours_that_is_not_booked_yet_leaves_the_question_open() -> None:
    before, after = Sighting(5, 100, 7), Sighting(9, 60, 9)
    assert unexplained(before, after, [Outgo(30, 5)]) is None
    assert unexplained(before, after, [Outgo(30, 5), Outgo(10, 5)]) == 10
