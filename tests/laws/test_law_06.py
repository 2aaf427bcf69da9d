"""Law 6. One sender per key: no nonce twice, none left out, none stuck, gas under caps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from finance.chain import follower
from finance.chain import sender as senders
from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender, TxOutcome
from finance.errors import CallReverted, GasCapExceeded, RpcRefused, SettlementUnknown
from finance.models import TxState
from finance.wallet.signer import Signer
from finance.x402.digest import keccak
from finance.x402.text import to_hex
from tests.chain_fixtures import ChainProcess
from tests.laws.test_law_05 import RECEIPT, SEND, funded_key, somebody
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.seller_world import usdc_of
from tests.recovery.sender_world import DEVNET, SenderWorld, nonce_of, sender_world, transfer

ETHER = 10**18


async def test_transfers_sent_at_once_have_a_nonce_each(
    chain: ChainProcess, tmp_path: Path
) -> None:
    to = somebody()
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(tmp_path / "a.db", [proxy.url], funded_key(chain)) as world,
    ):
        sends = [
            world.sender.send("t", str(each), chain.usdc, transfer(to, 1)) for each in range(8)
        ]
        for tx_id in await asyncio.gather(*sends, return_exceptions=True):
            assert isinstance(tx_id, int), tx_id
            await world.sender.outcome(tx_id, 10)
        nonces = [row[0] for row in world.rows("SELECT nonce FROM chain_tx ORDER BY nonce")]
        assert nonces == list(range(8))
        # Not one was offered that the chain had to refuse.
        assert proxy.seen.count(SEND) == 8
    assert usdc_of(chain, to) == 8


async def test_a_refused_broadcast_holds_back_no_later_one(
    chain: ChainProcess, tmp_path: Path
) -> None:
    to = somebody()
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(tmp_path / "a.db", [proxy.url], funded_key(chain)) as world,
    ):
        proxy.refusals[SEND] = ["insufficient funds for gas * price + value"]
        with pytest.raises(RpcRefused):
            await world.sender.send("t", "refused", chain.usdc, transfer(to, 1))
        tx_id = await world.sender.send("t", "taken", chain.usdc, transfer(to, 2))
        with suppress(SettlementUnknown):
            await world.sender.outcome(tx_id, 4)
    assert usdc_of(chain, to) == 2


class ForgetfulRpc(FaultyRpc):
    """Takes the first transaction it is given, and never passes it on, however often."""

    forgotten: str | None = None

    def _refusal(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] != SEND:
            return super()._refusal(call)
        raw = call["params"][0]
        self.forgotten = self.forgotten or raw
        if raw != self.forgotten:
            return None
        tx_hash = to_hex(keccak(bytes.fromhex(raw[2:])))
        return {"jsonrpc": "2.0", "id": call["id"], "result": tx_hash}


@asynccontextmanager
async def got_through(
    chain: ChainProcess, tmp_path: Path, proxy: FaultyRpc
) -> AsyncIterator[SenderWorld]:
    """A transfer whose first try got stuck has arrived."""
    key, to = funded_key(chain), somebody()
    async with sender_world(tmp_path / "a.db", [proxy.url], key, stuck_seconds=0.5) as world:
        tx_id = await world.sender.send("t", "x", chain.usdc, transfer(to, 7))
        with suppress(SettlementUnknown):
            await world.sender.outcome(tx_id, 5)
        assert usdc_of(chain, to) == 7
        yield world


async def test_a_stuck_transfer_is_replaced_by_one_that_pays_more(
    chain: ChainProcess, tmp_path: Path
) -> None:
    async with ForgetfulRpc(chain.rpc_url) as proxy, got_through(chain, tmp_path, proxy) as world:
        query = "SELECT max_fee_wei FROM chain_tx_attempt ORDER BY max_fee_wei"
        first, second = world.rows(query)[:2]
        assert second[0] * 8 >= first[0] * 9


class PoorRpc(ForgetfulRpc):
    """Forgets the first transaction it is given until it has refused another: the wallet has no
    more to pay than the first one costs."""

    refused = 0

    def _refusal(self, call: dict[str, Any]) -> dict[str, Any] | None:
        if call["method"] != SEND or self.forgotten is None:
            return super()._refusal(call)
        if call["params"][0] == self.forgotten:
            return None if self.refused else super()._refusal(call)
        self.refused += 1
        error = {"code": -32000, "message": "insufficient funds for gas * price + value"}
        return {"jsonrpc": "2.0", "id": call["id"], "error": error}


async def test_a_stuck_transfer_that_the_wallet_cannot_outbid_is_offered_as_it_was(
    chain: ChainProcess, tmp_path: Path
) -> None:
    async with PoorRpc(chain.rpc_url) as proxy, got_through(chain, tmp_path, proxy):
        assert proxy.refused


async def test_what_the_chain_would_refuse_is_not_paid_for(
    chain: ChainProcess, tmp_path: Path
) -> None:
    key = funded_key(chain)
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], key) as world:
        with pytest.raises(CallReverted):
            await world.sender.send("t", "x", chain.usdc, transfer(somebody(), 10**15))
    assert nonce_of(chain, Signer.from_hex(key).address) == 0


async def test_gas_above_the_cap_of_a_transaction_is_not_paid(
    chain: ChainProcess, tmp_path: Path
) -> None:
    caps, key = GasCaps(ETHER, 1_000, ETHER), funded_key(chain)
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], key, caps=caps) as world:
        with pytest.raises(GasCapExceeded):
            await world.sender.send("t", "x", chain.usdc, transfer(somebody(), 1))
    assert nonce_of(chain, Signer.from_hex(key).address) == 0


async def test_gas_above_the_cap_of_a_day_is_not_paid(chain: ChainProcess, tmp_path: Path) -> None:
    key, to, data = funded_key(chain), somebody(), tmp_path / "a.db"
    async with sender_world(data, [chain.rpc_url], key) as world:
        for each in range(5):
            tx_id = await world.sender.send("t", str(each), chain.usdc, transfer(to, 1))
            await world.sender.outcome(tx_id, 10)
        worst = _worst_of_last(world)
    # Room for one more, had nothing been paid today.
    caps = GasCaps(ETHER, ETHER, worst * 3 // 2)
    async with sender_world(data, [chain.rpc_url], key, caps=caps) as world:
        with pytest.raises(GasCapExceeded):
            await world.sender.send("t", "one more", chain.usdc, transfer(to, 1))
        assert world.tx("one more").state == TxState.REJECTED
    assert usdc_of(chain, to) == 5


async def test_the_cap_of_a_day_counts_what_another_process_has_on_its_way(
    chain: ChainProcess, tmp_path: Path
) -> None:
    key, to = funded_key(chain), [somebody() for _ in range(3)]
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(tmp_path / "a.db", [proxy.url], key) as world,
    ):
        tx_id = await world.sender.send("t", "paid", chain.usdc, transfer(to[0], 1))
        paid = (await world.sender.outcome(tx_id, 10)).fee_wei
        caps = GasCaps(ETHER, ETHER, paid + _worst(world) * 3 // 2)
        other = Sender(world.rpc, Signer.from_hex(key), DEVNET, world.journal, caps)
        await other.start()
        proxy.answers[RECEIPT] = lambda call, result: None
        await world.sender.send("t", "on its way", chain.usdc, transfer(to[1], 1))
        with pytest.raises(GasCapExceeded):
            await other.send("t", "one more", chain.usdc, transfer(to[2], 1))
        await other.stop()
    assert [usdc_of(chain, each) for each in to] == [1, 1, 0]


def _worst(world: SenderWorld) -> int:
    """What the last transaction could have cost at most."""
    query = "SELECT gas_limit * max_fee_wei FROM chain_tx t JOIN chain_tx_attempt a"
    return int(world.rows(f"{query} ON a.tx_id = t.id ORDER BY t.id DESC")[0][0])


def _worst_of_last(world: SenderWorld) -> int:
    """The same, where it is less than all that was paid."""
    worst = _worst(world)
    assert -world.gas_booked() > worst
    return worst


async def test_what_was_put_off_counts_on_the_day_it_is_paid(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """The cap was reached yesterday; today the same is sent under the same name."""
    key, to, data = funded_key(chain), somebody(), tmp_path / "a.db"
    caps = GasCaps(ETHER, ETHER, 1)
    async with sender_world(data, [chain.rpc_url], key, caps=caps) as world:
        for each in range(5):
            with pytest.raises(GasCapExceeded):
                await world.sender.send("t", str(each), chain.usdc, transfer(to, 1))
        with world.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE chain_tx SET created_at = created_at - 86400")
    async with sender_world(data, [chain.rpc_url], key) as world:
        for each in range(5):
            tx_id = await world.sender.send("t", str(each), chain.usdc, transfer(to, 1))
            await world.sender.outcome(tx_id, 10)
        worst = _worst_of_last(world)
    caps = GasCaps(ETHER, ETHER, worst * 3 // 2)
    async with sender_world(data, [chain.rpc_url], key, caps=caps) as world:
        with pytest.raises(GasCapExceeded):
            await world.sender.send("t", "one more", chain.usdc, transfer(to, 1))
    assert usdc_of(chain, to) == 5


async def test_a_sender_can_be_stopped_right_after_it_has_sent(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """What it was doing is in its rows: a shutdown must not wait for ever."""
    key, to = funded_key(chain), somebody()
    for each in range(2):
        async with asyncio.timeout(10):
            async with sender_world(tmp_path / "a.db", [chain.rpc_url], key) as world:
                await world.sender.send("t", str(each), chain.usdc, transfer(to, 1))
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], key) as world:
        for each in range(2):
            await world.sender.outcome(world.tx(str(each)).id, 10)
    assert usdc_of(chain, to) == 2


async def test_two_processes_with_one_key_both_learn_how_their_transactions_end(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """The second one starts while the first one's is on its way, and follows it as well."""
    to, key = somebody(), funded_key(chain)
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(tmp_path / "a.db", [proxy.url], key) as world,
    ):
        proxy.answers[RECEIPT] = lambda call, result: None
        first = await world.sender.send("t", "x", chain.usdc, transfer(to, 7))
        caps = GasCaps.default(DEVNET)
        other = Sender(world.rpc, Signer.from_hex(key), DEVNET, world.journal, caps)
        await other.start()
        proxy.heal()
        second = await other.send("t", "y", chain.usdc, transfer(to, 8))
        waiting = [(world.sender, first), (other, first), (other, second)]
        ends = await asyncio.gather(
            *(sender.outcome(tx_id, 8) for sender, tx_id in waiting), return_exceptions=True
        )
        await other.stop()
        assert [getattr(end, "state", end) for end in ends] == 3 * [TxState.MINED]
        assert all(end.logs for end in ends if isinstance(end, TxOutcome))
    assert usdc_of(chain, to) == 15


async def test_processes_with_one_key_that_send_at_one_moment_all_send(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds its nonce taken has nothing broadcast yet: it takes the next one."""
    to, key = somebody(), funded_key(chain)
    chosen, sign, waited = asyncio.Barrier(2), Sender._sign_first, set[int]()

    async def sign_once_both_have_chosen(self: Sender, *what: Any) -> None:
        if id(self) not in waited:
            waited.add(id(self))
            await chosen.wait()
        await sign(self, *what)

    monkeypatch.setattr(Sender, "_sign_first", sign_once_both_have_chosen)
    async with sender_world(tmp_path / "a.db", [chain.rpc_url], key) as world:
        other = Sender(
            world.rpc, Signer.from_hex(key), DEVNET, world.journal, GasCaps.default(DEVNET)
        )
        await other.start()
        both = (world.sender, other)
        sends = [
            each.send("t", str(number), chain.usdc, transfer(to, 1))
            for number, each in enumerate(both)
        ]
        sent = await asyncio.gather(*sends, return_exceptions=True)
        for each, tx_id in zip(both, sent, strict=True):
            assert isinstance(tx_id, int), tx_id
            await each.outcome(tx_id, 10)
        await other.stop()
    assert usdc_of(chain, to) == 2


@asynccontextmanager
async def _survivor(
    chain: ChainProcess, folder: Path, to: str
) -> AsyncIterator[tuple[Sender, int]]:
    """A sender whose fellow has died: that had signed a transfer of 7 to `to`, which never
    arrived. And the transfer's id."""
    key = funded_key(chain)
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        sender_world(folder / "a.db", [proxy.url], key) as dead,
        Rpc([chain.rpc_url], DEVNET.chain_id) as rpc,
    ):
        alive = Sender(rpc, Signer.from_hex(key), DEVNET, dead.journal, GasCaps.default(DEVNET))
        await alive.start()
        proxy.faults[SEND] = Fault.DROP
        left = await dead.sender.send("t", "x", chain.usdc, transfer(to, 7))
        await dead.sender.stop()
        yield alive, left
        await alive.stop()


async def test_a_nonce_of_a_process_that_died_holds_back_no_other_process(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "ADOPT_SECONDS", 1.0)
    to = somebody()
    async with _survivor(chain, tmp_path, to) as (alive, _):
        second = await alive.send("t", "y", chain.usdc, transfer(to, 8))
        with suppress(SettlementUnknown):
            await alive.outcome(second, 8)
    assert usdc_of(chain, to) == 15


async def test_what_a_process_that_died_has_signed_is_sent_by_one_that_had_nothing_to_do(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it there is told how it ended."""
    monkeypatch.setattr(follower, "ADOPT_SECONDS", 1.0)
    to = somebody()
    async with _survivor(chain, tmp_path, to) as (alive, left):
        for _ in range(4):
            with suppress(SettlementUnknown):
                await alive.outcome(left, 2)
    assert usdc_of(chain, to) == 7


async def test_what_a_process_that_died_has_signed_is_sent_though_nobody_waits_for_it(
    chain: ChainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a withdrawal, of which nobody asks the other process how it ended."""
    monkeypatch.setattr(follower, "ADOPT_SECONDS", 1.0)
    monkeypatch.setattr(senders, "_IDLE_SECONDS", 0.5)
    to = somebody()
    async with _survivor(chain, tmp_path, to):
        with suppress(TimeoutError):
            async with asyncio.timeout(12):
                while usdc_of(chain, to) != 7:
                    await asyncio.sleep(0.05)
    assert usdc_of(chain, to) == 7


async def test_a_transaction_outbid_by_a_process_that_died_is_never_said_to_have_failed(
    chain: ChainProcess, tmp_path: Path
) -> None:
    """It was mined as the dead one had signed it last; the other knew its first form only."""
    to, key = somebody(), funded_key(chain)
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        FaultyRpc(chain.rpc_url) as mute,
        sender_world(tmp_path / "a.db", [proxy.url], key, stuck_seconds=1) as dead,
        Rpc([mute.url], DEVNET.chain_id) as rpc,
    ):
        signer, caps = Signer.from_hex(key), GasCaps.default(DEVNET)
        alive = Sender(rpc, signer, DEVNET, dead.journal, caps, stuck_seconds=4)
        mute.faults[SEND] = proxy.faults[SEND] = Fault.DROP
        proxy.answers[RECEIPT] = lambda call, result: None
        sent = await dead.sender.send("t", "x", chain.usdc, transfer(to, 7))
        await alive.start()
        assert len(dead.rows("SELECT * FROM chain_tx_attempt")) == 1
        async with asyncio.timeout(20):
            while len(dead.rows("SELECT * FROM chain_tx_attempt")) == 1:
                await asyncio.sleep(0.05)
            del proxy.faults[SEND]
            while usdc_of(chain, to) != 7:
                await asyncio.sleep(0.05)
        await dead.sender.stop()
        chain.rpc("anvil_mine", hex(DEVNET.reorg_depth + 1))
        outcome = await alive.outcome(sent, 15)
        await alive.stop()
        assert outcome.state in (TxState.MINED, TxState.FINAL)
        assert dead.gas_booked() == -outcome.fee_wei < 0
