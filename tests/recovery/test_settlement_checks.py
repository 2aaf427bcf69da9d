"""What the chain would refuse is refused before the upstream works for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import coincurve
import msgspec
import pytest
import pytest_asyncio

from finance.chain.contracts import compile_vyper
from finance.errors import AuthorizationReused, PaymentRefused, RpcUnavailable
from finance.selling.reasons import DEPOSIT_BALANCE, EXACT_BALANCE
from finance.wallet.signer import Signer
from finance.x402 import codes, digest, vouchers
from finance.x402.exact import transfer_calldata
from finance.x402.text import to_hex
from finance.x402.values import VoucherPayment
from tests.chain_fixtures import DevchainProcess
from tests.recovery.faulty_rpc import Fault, FaultyRpc
from tests.recovery.seller_world import (
    NETWORK,
    USDC,
    Payer,
    World,
    give_usdc,
    send_as,
    usdc_of,
)

_WALLET_SOURCE = Path(__file__).parents[1] / "chain" / "wallet1271.vy"


class ContractPayer(Payer):
    """A contract wallet with USDC: its owner's key signs, EIP-1271 answers."""

    def __init__(self, chain: DevchainProcess, code: bytes) -> None:
        super().__init__(chain, atoms=0)
        owner = self.hex
        self.address = digest.address_of(coincurve.PrivateKey())
        self.hex = to_hex(self.address)
        chain.rpc("anvil_setCode", self.hex, to_hex(code))
        chain.rpc("anvil_setStorageAt", self.hex, "0x0", "0x" + owner[2:].rjust(64, "0"))
        give_usdc(chain, self.hex, 1_000_000)


@pytest.fixture(scope="module")
def wallet_code() -> bytes:
    return compile_vyper(_WALLET_SOURCE)


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world


async def test_used_authorization_is_refused(world: World) -> None:
    payment = world.exact(Payer(world.chain))
    send_as(world.chain, Signer.random(), USDC, transfer_calldata(payment))
    with pytest.raises(AuthorizationReused):
        await world.checks.check(payment, world.terms)


async def test_empty_purse_is_refused(world: World) -> None:
    payer = Payer(world.chain, atoms=10)
    with pytest.raises(PaymentRefused) as refused:
        await world.checks.check(world.exact(payer), world.terms)
    assert refused.value.code == EXACT_BALANCE
    with pytest.raises(PaymentRefused) as refused:
        await world.checks.check(world.deposit(payer, 9_000), world.terms)
    assert refused.value.code == DEPOSIT_BALANCE


async def test_forged_signature_is_refused(world: World) -> None:
    payment = world.exact(Payer(world.chain))
    thief = world.exact(Payer(world.chain))
    forged = msgspec.structs.replace(payment, signature=thief.signature)
    with pytest.raises(PaymentRefused) as refused:
        await world.checks.check(forged, world.terms)
    assert refused.value.code == codes.EXACT_SIGNATURE


async def test_checks_of_one_moment_share_one_read_and_each_gets_its_own_answer(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        poor = [Payer(chain, atoms=10) for _ in range(3)]
        rich = [Payer(chain) for _ in range(30)]
        payments = [world.exact(payer) for payer in [*poor, *rich]]
        faulty.seen.clear()
        results = await asyncio.gather(
            *(world.checks.check(each, world.terms) for each in payments), return_exceptions=True
        )
        assert [isinstance(each, PaymentRefused) for each in results] == [True] * 3 + [False] * 30
        assert faulty.seen.count("eth_call") == 1


async def test_deposit_check_tells_the_channel_as_it_stands(world: World) -> None:
    payer = Payer(world.chain)
    first = await world.open_channel(payer, 20_000)
    top_up = world.deposit(payer, 5_000, first.config, charged=1_000)
    state = await world.checks.check(top_up, world.terms)
    assert state is not None
    assert (state.balance, state.total_claimed, state.refund_nonce) == (20_000, 0, 0)


async def test_unreachable_chain_is_no_verdict(chain: DevchainProcess, tmp_path: Path) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as faulty,
        World(chain, tmp_path, rpc_url=faulty.url) as world,
    ):
        payment = world.exact(Payer(chain))
        faulty.faults["*"] = Fault.DROP
        with pytest.raises(RpcUnavailable):
            await world.checks.check(payment, world.terms)


async def test_contract_wallet_pays_exact_by_its_own_rules(
    world: World, wallet_code: bytes
) -> None:
    payer = ContractPayer(world.chain, wallet_code)
    payment = world.exact(payer)
    await world.checks.check(payment, world.terms)
    stranger = world.exact(Payer(world.chain))
    forged = msgspec.structs.replace(payment, signature=stranger.signature)
    with pytest.raises(PaymentRefused) as refused:
        await world.checks.check(forged, world.terms)
    assert refused.value.code == codes.EXACT_SIGNATURE
    together = [await world.owe(world.exact(Payer(world.chain))), await world.owe(payment)]
    await asyncio.gather(*(world.settlement.settle(each, 30) for each in together))
    # A contract's say stays by itself: it could spoil the others.
    assert len(world.transactions()) == 2
    assert usdc_of(world.chain, world.wallet.address) == 2_000


async def test_contract_wallet_pays_through_a_channel_and_is_claimed(
    world: World, wallet_code: bytes
) -> None:
    payer = ContractPayer(world.chain, wallet_code)
    config = msgspec.structs.replace(world.config(payer), payer_authorizer=bytes(20))
    deposit = world.deposit(payer, 20_000, config)
    await world.checks.check(deposit, world.terms)
    await world.settlement.settle(await world.owe(deposit), 30)
    key, chain_id = deposit.channel_id, NETWORK.chain_id
    good = vouchers.sign_voucher(payer.key, key, 7_000, chain_id)
    await world.checks.check(VoucherPayment(config, key, 7_000, good), world.terms)
    with pytest.raises(PaymentRefused) as refused:
        await world.checks.check(VoucherPayment(config, key, 7_001, good), world.terms)
    assert refused.value.code == codes.VOUCHER_SIGNATURE
    await world.charge(payer, key, 7_000)
    report = await world.claims.claim_all()
    assert report.claimed_atoms == 7_000


async def test_channel_unknown_to_the_books_begins_at_what_was_claimed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    """The database was lost; the chain and the keys were not."""
    wallet, receiver = Signer.random(), Signer.random()
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    payer = Payer(chain)
    async with World(chain, tmp_path / "old", wallet, receiver) as world:
        payment = await world.open_channel(payer, 20_000)
        await world.charge(payer, payment.channel_id, 6_000)
        await world.claims.claim_all()
    async with World(chain, tmp_path / "new", wallet, receiver) as world:
        channel = await world.channels.find(payment.config, payment.channel_id)
        assert channel is not None
        assert (channel.balance, channel.charged, channel.total_claimed) == (20_000, 6_000, 6_000)
        stranger = world.config(Payer(chain))
        assert await world.mirror.adopt(stranger) is None
