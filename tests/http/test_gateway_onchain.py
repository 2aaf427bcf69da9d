"""Calls paid by authorizations that move money on a real chain."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.ledger import Account
from finance.models import ChannelState, PaymentState
from finance.wallet.signer import Signer
from finance.x402 import vouchers
from finance.x402.digest import channel_id
from finance.x402.settlement_calls import deposit_calldata
from finance.x402.values import (
    ChannelConfig,
    ChannelPayment,
    ExactPayment,
    PaymentRequired,
    RefundPayment,
    VoucherPayment,
)
from finance.x402.wire import decode_required, decode_response, encode_payment
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import CHAIN_ID, PRICE, Market, open_market
from tests.http.conftest import Payer as ChannelPayer
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.seller_world import DELAY, Payer, World, send_as, usdc_of

ECHO = "/v1/api/echo"


@pytest.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


@asynccontextmanager
async def open_seller(world: World, max_timeout_seconds: int = 20) -> AsyncIterator[Market]:
    async with open_market(
        world.store,
        world.wallet.address_bytes,
        world.receiver.address_bytes,
        channels=world.channels,
        checks=world.checks,
        settlement=world.settlement,
        refunds=world.refunds,
        withdraw_delay_seconds=DELAY,
        max_timeout_seconds=max_timeout_seconds,
    ) as market:
        market.sell()
        yield market


@pytest.fixture
async def market(world: World) -> AsyncIterator[Market]:
    async with open_seller(world) as market:
        yield market


def header(
    required: PaymentRequired,
    payload: ExactPayment | ChannelPayment,
    extensions: dict[str, Any] | None = None,
) -> dict[str, str]:
    scheme = "exact" if isinstance(payload, ExactPayment) else "batch-settlement"
    accepted = next(entry for entry in required.accepts if entry.scheme == scheme)
    signed = encode_payment(accepted, payload, required.resource, extensions)
    return {"PAYMENT-SIGNATURE": signed.decode()}


async def get(market: Market, headers: dict[str, str], path: str = ECHO) -> httpx.Response:
    return await market.client.get(market.url + path, headers=headers)


async def test_an_exact_call_is_answered_once_its_money_has_arrived(
    market: Market, world: World
) -> None:
    payment = world.exact(Payer(world.chain))
    answer = await get(market, header(await market.offer(ECHO), payment))
    assert answer.status_code == 200
    receipt = decode_response(answer.headers["payment-response"])
    assert receipt.success and receipt.transaction.startswith("0x")
    assert usdc_of(world.chain, world.wallet.address) == PRICE
    assert world.booked(Account.EXACT) == PRICE


async def test_one_authorization_sent_fifty_times_at_once_buys_one_call(
    market: Market, world: World
) -> None:
    headers = header(await market.offer(ECHO), world.exact(Payer(world.chain)))
    answers = await asyncio.gather(*(get(market, headers) for _ in range(50)))
    statuses = Counter(answer.status_code for answer in answers)
    ids = {a.headers["farebox-call-id"] for a in answers if a.status_code == 200}
    assert len(ids) == 1 and set(statuses) <= {200, 409}, statuses
    assert market.upstream.total == 1
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_the_same_exact_call_again_gets_the_stored_answer(
    market: Market, world: World
) -> None:
    headers = header(await market.offer(ECHO), world.exact(Payer(world.chain)))
    first, again = await get(market, headers), await get(market, headers)
    assert (again.status_code, again.content) == (200, first.content)
    for name in ("payment-response", "farebox-call-id", "cache-control"):
        assert again.headers[name] == first.headers[name]
    other = await get(market, headers, ECHO + "?other=1")
    assert other.status_code == 402
    error = decode_required(other.headers["payment-required"]).error
    assert error == "invalid_exact_evm_nonce_already_used"
    assert market.upstream.total == 1


async def test_an_exact_payment_for_a_failed_call_can_be_used_again(
    market: Market, world: World
) -> None:
    payment = world.exact(Payer(world.chain))
    headers = header(await market.offer("/v1/api/status/500"), payment)
    failed = await get(market, headers, "/v1/api/status/500")
    assert failed.status_code == 500 and "payment-response" not in failed.headers
    assert (await get(market, headers, "/v1/api/break/1000")).status_code == 502
    assert world.count(PaymentState.RELEASED) == 1
    await market.settled()
    failures = market.rows("SELECT status, error, scheme FROM call")
    assert {*map(tuple, failures)} == {
        (500, "upstream_status", "exact"),
        (502, "upstream_failed", "exact"),
    }
    assert (await get(market, headers)).status_code == 200
    assert usdc_of(world.chain, world.wallet.address) == PRICE


async def test_a_payer_without_money_is_refused_before_the_upstream_works(
    market: Market, world: World
) -> None:
    headers = header(await market.offer(ECHO), world.exact(Payer(world.chain, atoms=PRICE - 1)))
    answer = await get(market, headers)
    assert answer.status_code == 402
    error = decode_required(answer.headers["payment-required"]).error
    assert error == "invalid_exact_evm_insufficient_balance"
    assert market.upstream.total == 0
    assert market.rows("SELECT count(*) FROM onchain_payment")[0][0] == 0


async def test_a_deposit_opens_a_channel_and_pays_its_first_call(
    market: Market, world: World
) -> None:
    payer = Payer(world.chain)
    deposit = world.deposit(payer, 10 * PRICE)
    required = await market.offer(ECHO)
    headers = header(required, deposit)
    answer = await get(market, headers)
    assert answer.status_code == 200, answer.text
    receipt = decode_response(answer.headers["payment-response"])
    assert receipt.success and receipt.amount == 10 * PRICE and receipt.charged_amount == PRICE
    again = await get(market, headers)
    assert again.content == answer.content
    channel = ChannelPayer(payer.key, deposit.config, deposit.channel_id, PRICE)
    voucher = await market.buy(channel, ECHO)
    assert voucher.status_code == 200
    assert world.channel(deposit.channel_id).charged_atoms == 2 * PRICE
    assert market.upstream.total == 2


async def test_a_deposit_tops_an_open_channel_up(market: Market, world: World) -> None:
    payer = Payer(world.chain)
    required = await market.offer(ECHO)
    first = world.deposit(payer, PRICE)
    assert (await get(market, header(required, first))).status_code == 200
    second = world.deposit(payer, 5 * PRICE, first.config, charged=PRICE)
    answer = await get(market, header(required, second))
    assert answer.status_code == 200
    row = world.channel(first.channel_id)
    assert (row.balance_atoms, row.charged_atoms) == (6 * PRICE, 2 * PRICE)


async def test_a_deposit_sent_fifty_times_at_once_is_taken_once(
    market: Market, world: World
) -> None:
    payer = Payer(world.chain)
    deposit = world.deposit(payer, 10 * PRICE)
    headers = header(await market.offer(ECHO), deposit)
    answers = await asyncio.gather(*(get(market, headers) for _ in range(50)))
    assert len({a.headers["farebox-call-id"] for a in answers if a.status_code == 200}) == 1
    assert market.upstream.total == 1
    assert world.channel(deposit.channel_id).charged_atoms == PRICE


async def test_a_payer_gets_back_what_the_channel_has_left(market: Market, world: World) -> None:
    payer = Payer(world.chain)
    deposit = world.deposit(payer, 10 * PRICE)
    required = await market.offer(ECHO)
    await get(market, header(required, deposit))
    refund = RefundPayment(
        deposit.config, deposit.channel_id, PRICE, sign(payer, deposit.config, PRICE)
    )
    before = usdc_of(world.chain, payer.hex)
    answer = await get(market, header(required, refund))
    assert answer.status_code == 200, answer.text
    receipt = decode_response(answer.headers["payment-response"])
    assert receipt.success and receipt.amount == 9 * PRICE
    assert usdc_of(world.chain, payer.hex) == before + 9 * PRICE
    assert usdc_of(world.chain, world.wallet.address) == PRICE
    assert market.upstream.total == 1


async def test_a_channel_that_its_payer_fills_by_itself_is_open(
    market: Market, world: World
) -> None:
    """Its first deposit came with a call that failed, and the payer took it to the chain."""
    payer, failing = Payer(world.chain), "/v1/api/status/500"
    deposit = world.deposit(payer, 10 * PRICE)
    failed = await get(market, header(await market.offer(failing), deposit), failing)
    assert failed.status_code == 500
    data = deposit_calldata(deposit)
    send_as(world.chain, Signer(payer.key), BATCH_SETTLEMENT_ADDRESS, data)
    required, config, id_ = await market.offer(ECHO), deposit.config, deposit.channel_id
    voucher = VoucherPayment(config, id_, PRICE, sign(payer, config, PRICE))
    assert (await get(market, header(required, voucher))).status_code == 200
    assert world.channel(id_).state == ChannelState.OPEN
    refund = RefundPayment(config, id_, PRICE, sign(payer, config, PRICE))
    assert (await get(market, header(required, refund))).status_code == 200


async def test_a_channel_is_free_again_though_its_refund_met_a_database_that_failed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with (
        FaultyRpc(chain.rpc_url) as proxy,
        World(chain, tmp_path, rpc_url=proxy.url) as world,
        open_seller(world) as market,
    ):
        payer = Payer(chain)
        deposit = world.deposit(payer, 10 * PRICE)
        required = await market.offer(ECHO)
        await get(market, header(required, deposit))
        rename = "ALTER TABLE {} RENAME TO {}"

        def fail(_: Any, result: Any) -> Any:
            proxy.heal()
            with world.engine.begin() as connection:
                connection.exec_driver_sql(rename.format("seller_channel", "gone"))
            return result

        proxy.answers["eth_call"] = fail
        config, id_ = deposit.config, deposit.channel_id
        refund = RefundPayment(config, id_, PRICE, sign(payer, config, PRICE))
        refused = await get(market, header(required, refund))
        assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
        with world.engine.begin() as connection:
            connection.exec_driver_sql(rename.format("gone", "seller_channel"))
        voucher = VoucherPayment(config, id_, 2 * PRICE, sign(payer, config, 2 * PRICE))
        assert (await get(market, header(required, voucher))).status_code == 200
        world.assert_books_balance()


async def test_a_payment_identifier_buys_once_and_refuses_another_payment(
    market: Market, world: World
) -> None:
    required = await market.offer(ECHO)
    named = {"payment-identifier": {"info": {"required": False, "id": "order-0123456789abcdef"}}}
    payer = Payer(world.chain)
    first = header(required, world.exact(payer), named)
    answer = await get(market, first)
    assert answer.status_code == 200
    assert (await get(market, first)).content == answer.content
    other = await get(market, header(required, world.exact(payer), named))
    assert other.status_code == 409
    assert other.json()["code"] == "payment_identifier_conflict"
    assert market.upstream.total == 1
    assert usdc_of(world.chain, world.wallet.address) == PRICE


def sign(payer: Payer, config: ChannelConfig, amount: int) -> bytes:

    return vouchers.sign_voucher(payer.key, channel_id(config, CHAIN_ID), amount, CHAIN_ID)
