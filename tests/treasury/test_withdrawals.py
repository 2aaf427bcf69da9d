"""Money leaves the wallet as confirmed: exactly, once, and never more than there is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError

from finance import withdrawals
from finance.errors import RpcUnavailable, StoreUnavailable, WithdrawalRefused
from finance.operations import Token
from finance.wallet.signer import Signer
from finance.withdrawal import DATA_FEE_WEI, Stage
from finance.withdrawals import (
    Withdrawals,
    WithdrawalView,
    find_withdrawal,
    recent_withdrawals,
)
from node.jobs.withdrawn import withdrawn_job
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.seller_world import give_usdc
from tests.treasury.test_arrivals import unreachable
from tests.treasury.wallet_world import ETHER, NETWORK, SOMEBODY, WalletWorld


@pytest.fixture
def own_chain() -> Iterator[DevchainProcess]:
    """Its blocks can be taken away without taking those of others."""
    with DevchainProcess() as process:
        yield process


def receiver() -> str:
    return Signer.random().address


async def mined(world: WalletWorld, view: WithdrawalView) -> WithdrawalView:
    def look() -> WithdrawalView | None:
        found = find_withdrawal(world.engine, view.id)
        return found if found is not None and found.ended else None

    found = await world.until(look)
    assert isinstance(found, WithdrawalView)
    return found


async def test_usdc_arrives_to_the_atom(world: WalletWorld) -> None:
    to = receiver()
    view = await mined(world, await world.withdraw(Token.USDC, 1_234_567, to))
    assert view.stage in (Stage.MINED, Stage.FINAL) and view.tx_hash
    assert world.usdc_of(to) == 1_234_567
    assert world.usdc_of(world.wallet.address) == world.atoms - 1_234_567


async def test_eth_arrives_to_the_wei_and_gas_is_all_that_is_missing(world: WalletWorld) -> None:
    to, before = receiver(), world.eth_of(world.wallet.address)
    view = await mined(world, await world.withdraw(Token.ETH, 123_456_789_012_345_678, to))
    assert world.eth_of(to) == 123_456_789_012_345_678
    after = world.eth_of(world.wallet.address)
    assert view.fee_wei and after == before - 123_456_789_012_345_678 - view.fee_wei


async def test_all_usdc_leaves_nothing(world: WalletWorld) -> None:
    to = receiver()
    quote = await world.withdrawals.quote(Token.USDC, to, None)
    assert (quote.amount, quote.left) == (world.atoms, 0)
    await mined(world, await world.withdraw(Token.USDC, quote.amount, to))
    assert world.usdc_of(world.wallet.address) == 0 and world.usdc_of(to) == world.atoms


async def test_all_eth_keeps_the_gas_of_its_own_transaction(world: WalletWorld) -> None:
    to = receiver()
    quote = await world.withdrawals.quote(Token.ETH, to, None)
    assert quote.amount == 10 * ETHER - quote.fee.worst_wei - DATA_FEE_WEI
    view = await mined(world, await world.withdraw(Token.ETH, quote.amount, to))
    assert view.stage is not Stage.FAILED, view.error
    assert world.eth_of(to) == quote.amount


async def test_a_confirmation_clicked_many_times_at_once_sends_one_transaction(
    world: WalletWorld,
) -> None:
    to, id_ = receiver(), secrets.token_hex(8)
    views = await asyncio.gather(
        *(world.withdraw(Token.USDC, 1_000_000, to, id_) for _ in range(20))
    )
    again = await mined(world, await world.withdraw(Token.USDC, 1_000_000, to, id_))
    assert {view.id for view in views} == {id_} and again.tx_hash
    assert len(world.rows("SELECT id FROM chain_tx WHERE purpose = 'withdraw_usdc'")) == 1
    assert world.usdc_of(to) == 1_000_000


async def test_what_another_process_gave_up_as_never_sent_is_not_sent(
    world: WalletWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown as failed with nothing sent, it would be confirmed once more, and paid twice."""
    to, id_, send = receiver(), secrets.token_hex(8), world.sender.send

    async def starts_meanwhile(*args: Any, **more: Any) -> int:
        await Withdrawals(world.store, world.sender, world.rpc, NETWORK).start()
        return await send(*args, **more)

    monkeypatch.setattr(world.sender, "send", starts_meanwhile)
    with pytest.raises(WithdrawalRefused, match="Nothing was sent"):
        await world.withdraw(Token.USDC, 1_000_000, to, id_)
    found = find_withdrawal(world.engine, id_)
    assert found is not None and found.stage is Stage.FAILED
    assert "Nothing was sent" in (found.error or "") and world.usdc_of(to) == 0


async def test_what_is_being_sent_is_not_given_up_by_a_process_that_starts(
    world: WalletWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_, never_sent = secrets.token_hex(8), withdrawals._never_sent
    view = await world.withdraw(Token.USDC, 1_000_000, receiver(), id_)
    # It looked a moment before the intent to send was written.
    monkeypatch.setattr(withdrawals, "_never_sent", lambda *asked: [*never_sent(*asked), id_])
    await Withdrawals(world.store, world.sender, world.rpc, NETWORK).start()
    assert (await mined(world, view)).stage is not Stage.FAILED


async def test_a_used_confirmation_sends_nothing_else(world: WalletWorld) -> None:
    id_ = secrets.token_hex(8)
    await mined(world, await world.withdraw(Token.USDC, 1_000_000, receiver(), id_))
    other = receiver()
    with pytest.raises(WithdrawalRefused) as refused:
        await world.withdraw(Token.USDC, 1_000_000, other, id_)
    assert refused.value.code == "withdrawal_conflict" and world.usdc_of(other) == 0


async def test_two_withdrawals_at_once_never_take_more_than_there_is(world: WalletWorld) -> None:
    to = receiver()
    world.chain.rpc("evm_setAutomine", False)
    try:
        results = await asyncio.gather(
            *(world.withdraw(Token.USDC, 3_000_000, to) for _ in range(5)), return_exceptions=True
        )
    finally:
        world.chain.rpc("evm_setAutomine", True)
        world.chain.rpc("evm_mine")
    made = [each for each in results if isinstance(each, WithdrawalView)]
    refused = [each for each in results if isinstance(each, WithdrawalRefused)]
    assert len(made) == 1 and len(refused) == 4
    assert {each.code for each in refused} == {"balance_short"}
    await mined(world, made[0])
    assert world.usdc_of(to) == 3_000_000


async def test_eth_on_its_way_is_not_sent_twice(world: WalletWorld) -> None:
    to = receiver()
    world.chain.rpc("evm_setAutomine", False)
    try:
        first = await world.withdraw(Token.ETH, 6 * ETHER, to)
        with pytest.raises(WithdrawalRefused) as refused:
            await world.withdraw(Token.ETH, 6 * ETHER, to)
    finally:
        world.chain.rpc("evm_setAutomine", True)
        world.chain.rpc("evm_mine")
    assert refused.value.code == "balance_short"
    await mined(world, first)
    assert world.eth_of(to) == 6 * ETHER


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        ("5.000001", "balance_short"),
        ("0", "amount_invalid"),
        ("-1", "amount_invalid"),
        ("1e3", "amount_invalid"),
        ("0.0000001", "amount_invalid"),
        ("1_0", "amount_invalid"),
        ("", "amount_invalid"),
        ("9999999999999999", "amount_invalid"),
    ],
)
async def test_amounts_that_cannot_be_sent_are_refused(
    world: WalletWorld, amount: str, code: str
) -> None:
    with pytest.raises(WithdrawalRefused) as refused:
        await world.withdrawals.quote(Token.USDC, SOMEBODY, amount)
    assert (refused.value.code, refused.value.field) == (code, "amount")


async def test_usdc_without_gas_says_so(world: WalletWorld) -> None:
    world.set_eth(0)
    with pytest.raises(WithdrawalRefused) as refused:
        await world.withdrawals.quote(Token.USDC, SOMEBODY, "1")
    assert refused.value.code == "gas_short" and "ETH" in str(refused.value)


async def test_without_a_chain_nothing_is_sent_and_it_can_be_asked_again(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as relay,
        WalletWorld(chain, tmp_path, rpc_url=relay.url) as world,
    ):
        to, id_ = receiver(), secrets.token_hex(8)
        relay.faults["*"] = Fault.DROP
        with pytest.raises(RpcUnavailable):
            await world.withdraw(Token.USDC, 1_000_000, to, id_)
        relay.heal()
        assert not world.rows("SELECT id FROM withdrawal")
        await mined(world, await world.withdraw(Token.USDC, 1_000_000, to, id_))
        assert world.usdc_of(to) == 1_000_000
        await world.assert_books_equal_chain()


async def test_a_withdrawal_that_was_signed_goes_on_after_a_restart(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    to, wallet = receiver(), Signer.random()
    chain.rpc("anvil_setBalance", wallet.address, hex(10 * ETHER))
    async with WalletWorld(chain, tmp_path, wallet) as world:
        await world.watcher.catch_up()
        world.receive_usdc(2_000_000)
        chain.rpc("evm_setAutomine", False)
        view = await world.withdraw(Token.USDC, 2_000_000, to)
        assert view.stage in (Stage.SIGNED, Stage.SENT) and view.tx_hash
    chain.rpc("anvil_dropTransaction", view.tx_hash)
    chain.rpc("evm_setAutomine", True)
    async with WalletWorld(chain, tmp_path, wallet) as world:
        again = await mined(world, await world.withdraw(Token.USDC, 2_000_000, to, view.id))
        assert again.stage is not Stage.FAILED and world.usdc_of(to) == 2_000_000
        assert len(world.rows("SELECT id FROM chain_tx")) == 1
        await world.assert_books_equal_chain()


async def test_all_that_was_withdrawn_to_the_wallet_that_takes_its_place_is_free_there(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """The node ended before it was mined, and the chain forgot it meanwhile."""
    old, new = Signer.random(), Signer.random()
    for each in (old, new):
        chain.rpc("anvil_setBalance", each.address, hex(10 * ETHER))
    async with WalletWorld(chain, tmp_path, old) as world:
        await world.watcher.catch_up()
        world.receive_usdc(2_000_000)
        chain.rpc("evm_setAutomine", False)
        view = await world.withdraw(Token.USDC, 2_000_000, new.address)
    chain.rpc("anvil_dropTransaction", view.tx_hash)
    chain.rpc("evm_setAutomine", True)
    async with WalletWorld(chain, tmp_path, new) as world:
        view = await mined(world, view)
        assert view.stage is not Stage.FAILED
        assert (await world.withdrawals.available()).free_usdc == 2_000_000


async def test_a_withdrawal_that_was_never_signed_is_not_sent_by_a_restart(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    wallet, to = Signer.random(), receiver()
    chain.rpc("anvil_setBalance", wallet.address, hex(10 * ETHER))
    async with WalletWorld(chain, tmp_path, wallet) as world:
        with world.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO withdrawal VALUES"
                f" ('lost', 31337, 'ETH', '{to}', '5', 'u1', 'Ann', 1, NULL, 0)"
            )
    async with WalletWorld(chain, tmp_path, wallet) as world:
        view = find_withdrawal(world.engine, "lost")
        assert view is not None and view.stage is Stage.FAILED
        assert "Nothing was sent" in str(view.error) and world.eth_of(to) == 0


async def test_a_withdrawal_that_is_said_to_have_failed_has_moved_nothing(
    chain: DevchainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that starts takes what another is about to sign for lost: whoever reads that it
    failed sends it again."""
    async with WalletWorld(chain, tmp_path) as world:
        to, id_, asked, go_on = receiver(), secrets.token_hex(8), asyncio.Event(), asyncio.Event()
        send = world.sender.send

        async def late(*wanted: Any) -> int:
            asked.set()
            await go_on.wait()
            return await send(*wanted)

        monkeypatch.setattr(world.sender, "send", late)
        task = asyncio.create_task(world.withdraw(Token.USDC, 1_000_000, to, id_))
        await asked.wait()
        async with WalletWorld(chain, tmp_path, world.wallet) as beside:
            go_on.set()
            await asyncio.gather(task, return_exceptions=True)
            view = await mined(beside, _found(beside, id_))
        assert (view.stage is Stage.FAILED) == (world.usdc_of(to) == 0), view
        await world.assert_books_equal_chain()


async def test_a_withdrawal_that_was_signed_is_shown_as_far_as_the_chain_has_it(
    world: WalletWorld,
) -> None:
    """Whatever was noted of it in an outage: its transaction is the truth."""
    view = await world.withdraw(Token.USDC, 1_000_000, receiver())
    with world.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE withdrawal SET error = 'the database refused'")
    assert (await mined(world, view)).stage in (Stage.MINED, Stage.FINAL)


async def test_a_withdrawal_that_an_outage_kept_from_being_signed_ends(
    chain: DevchainProcess, tmp_path: Path, postgres_url: str
) -> None:
    """Without a restart: until then its money would be missing from what may be withdrawn."""
    outage, asked = ExitStack(), list[str]()

    def away_at_the_second(call: Any, gas: Any) -> Any:
        asked.append(gas)
        if len(asked) == 2:
            outage.enter_context(unreachable(postgres_url))
        return gas

    async with (
        FaultyRpc(chain.rpc_url) as relay,
        WalletWorld(chain, tmp_path, rpc_url=relay.url, database_url=postgres_url) as world,
    ):
        relay.answers["eth_estimateGas"] = away_at_the_second
        with outage, pytest.raises((SQLAlchemyError, StoreUnavailable)):
            await world.withdraw(Token.USDC, 1_000)
        job = withdrawn_job(world.withdrawals, world.store)
        await job()
        [view] = recent_withdrawals(world.engine, NETWORK.chain_id, 5)
        assert view.stage is Stage.REQUESTED, "another process may be sending it"
        with world.engine.begin() as connection:
            for table, at in (("withdrawal", "created_at"), ("chain_tx", "updated_at")):
                connection.exec_driver_sql(f"UPDATE {table} SET {at} = {at} - 3600")
        with suppress(StoreUnavailable):
            await job()  # perhaps by a connection of before the outage
        await job()
        assert _found(world, view.id).stage is Stage.FAILED
        assert (await world.withdrawals.available()).usdc_promised == 0


async def test_a_withdrawal_that_a_reorg_took_back_is_told_of_again(
    own_chain: DevchainProcess, tmp_path: Path
) -> None:
    """What the event log calls withdrawn, and the chain refuses the second time, has failed."""
    async with WalletWorld(own_chain, tmp_path) as world:
        job = withdrawn_job(world.withdrawals, world.store)
        view = await mined(world, await world.withdraw(Token.USDC, 1_000))
        await job()
        own_chain.rpc("evm_setAutomine", False)
        own_chain.rpc("anvil_reorg", 1)
        give_usdc(own_chain, world.wallet.address, 0)
        own_chain.rpc("evm_setAutomine", True)
        await world.until(lambda: _found(world, view.id).stage is Stage.FAILED)
        await job()
        lines = world.rows("SELECT type FROM event WHERE type LIKE 'withdraw%' ORDER BY id")
    assert [row[0] for row in lines] == ["withdrawn", "withdrawal_failed"]


def _found(world: WalletWorld, id_: str) -> WithdrawalView:
    view = find_withdrawal(world.engine, id_)
    assert view is not None
    return view


async def test_withdrawals_and_their_end_are_kept_on_postgresql_too(
    chain: DevchainProcess, tmp_path: Path, postgres_url: str
) -> None:
    async with WalletWorld(chain, tmp_path, database_url=postgres_url) as world:
        to, id_ = receiver(), secrets.token_hex(8)
        await world.withdraw(Token.USDC, 1_000, to, id_)
        view = await mined(world, await world.withdraw(Token.USDC, 1_000, to, id_))
        job = withdrawn_job(world.withdrawals, world.store)
        await job()
        await job()
        lines = world.rows("SELECT message FROM event WHERE type = 'withdrawn'")
        assert [row[0] for row in lines] == [f"Withdrew 0.001 USDC to {to}."]
        assert recent_withdrawals(world.engine, NETWORK.chain_id, 5) == [
            find_withdrawal(world.engine, view.id)
        ]
        assert world.usdc_of(to) == 1_000
        await world.assert_books_equal_chain()
