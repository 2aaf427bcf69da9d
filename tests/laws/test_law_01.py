"""Law 1. One payment, one service; one service, one charge."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from finance.chain.rpc import Rpc
from finance.errors import ChannelBusy
from finance.models import PaymentState
from finance.networks import NETWORKS
from finance.selling.channels import Channel, SellerChannels
from finance.selling.mirror import Mirror
from finance.wallet.signer import Keys, Signer
from finance.x402.exact import EXPIRY_BUFFER_SECONDS
from finance.x402.extensions import PAYMENT_IDENTIFIER
from finance.x402.values import ChannelConfig
from node.app import run
from node.db.engine import sqlite_url
from node.db.journal import Journal
from node.errors import AlreadyRunning, NodeError
from node.gateway.request import INLINE_BYTES
from node.gateway.stream_minutes import GRACE_SECONDS
from node.lock import hold_data_dir, hold_database
from node.settings import Settings
from node.usage.answers import forget_answers
from node.usage.quotas import Meter
from tests.http.conftest import PRICE, Market
from tests.http.plans_world import BELOW, ECHO, LISTING, Seller
from tests.laws.minutes import open_stream
from tests.laws.worlds import Shop, second_process, shared_market
from tests.recovery.seller_world import usdc_of

IDENTIFIER = {PAYMENT_IDENTIFIER: {"info": {"required": False, "id": "order-0123456789abcdef"}}}


async def test_a_voucher_sent_twenty_times_at_once_has_the_api_work_once(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    url = market.url + "/v1/api/slow/0.2"
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/slow/0.2"))}
    await asyncio.gather(*(market.client.get(url, headers=headers) for _ in range(20)))
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


def test_a_file_of_books_is_held_by_one_process(tmp_path: Path) -> None:
    """Another would take what this one has reserved for left by the dead, and sell it again."""
    first, keys = tmp_path / "first", Keys(*(Signer.random() for _ in range(3)), bytes(32))
    url = sqlite_url(first / "farebox.db")
    # An address of no machine: a node that starts all the same ends there.
    settings = Settings(
        data_dir=tmp_path / "second",
        network="devnet",
        database_url=url,
        gateway_bind="192.0.2.1:8402",
    )
    with hold_data_dir(first), hold_database(url, first), pytest.raises(NodeError) as ended:
        run(settings, keys)
    assert ended.value.code == AlreadyRunning.code


async def test_a_voucher_sent_to_two_processes_at_once_is_charged_once(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    path = "/v1/api/slow/0.3"
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer(path))}
    async with second_process(market) as second:
        answers = await asyncio.gather(
            *(market.client.get(url + path, headers=headers) for url in (market.url, second))
        )
    assert sorted(answer.status_code for answer in answers) == [200, 402]
    assert market.rows("SELECT SUM(amount) FROM ledger_entry") == [(PRICE,)]


async def test_a_voucher_sent_to_two_gateways_of_one_database_has_the_api_work_once(
    postgres_url: str,
) -> None:
    async with shared_market(postgres_url) as market:
        market.sell()
        payer = await market.payer()
        path = "/v1/api/slow/0.8"
        headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer(path))}
        async with second_process(market) as second:
            answers = await asyncio.gather(
                *(market.client.get(url + path, headers=headers) for url in (market.url, second))
            )
            assert sorted(answer.status_code for answer in answers) == [200, 402]
            assert market.upstream.total == 1
            # The other one knows what was charged, and sells on from there.
            payer.charged = await market.charged(payer)
            assert payer.charged == PRICE
            header = payer.voucher(await market.offer("/v1/api/echo"))
            url = second + "/v1/api/echo"
            more = await market.client.get(url, headers={"PAYMENT-SIGNATURE": header})
            assert more.status_code == 200
        assert await market.charged(payer) == 2 * PRICE


async def test_an_authorization_sent_to_two_processes_at_once_buys_one_call(shop: Shop) -> None:
    payment = shop.world.exact(shop.payer())
    async with shop.open_gateway() as one, shop.open_gateway() as two:
        requests = [
            shop.client.get(
                url + "/v1/api/slow/0.2",
                headers=await shop.header(url, payment, "/v1/api/slow/0.2"),
            )
            for url in (one, two)
        ]
        answers = await asyncio.gather(*requests)
    assert shop.upstream.total == 1
    assert Counter(answer.status_code for answer in answers)[200] == 1
    assert shop.world.count(PaymentState.CONFIRMED) == 1


async def test_an_authorization_that_has_bought_its_call_buys_no_other(shop: Shop) -> None:
    payment = shop.world.exact(shop.payer())
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        first = await shop.client.get(url + "/v1/api/echo", headers=headers)
        other = await shop.client.get(url + "/v1/api/echo?other=1", headers=headers)
        again = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert (first.status_code, other.status_code, again.status_code) == (200, 402, 200)
    assert again.content == first.content
    assert shop.upstream.total == 1


async def test_the_same_call_again_gets_its_stored_answer(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    url = market.url + "/v1/api/echo"
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/echo"))}
    first = await market.client.get(url, headers=headers)
    again = await market.client.get(url, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


async def test_a_call_that_was_bought_gets_its_answer_when_its_price_has_changed(
    market: Market,
) -> None:
    """A payer that does not know yet whether it was charged must not be sold the call again."""
    listing = market.sell()
    payer = await market.payer()
    url = market.url + "/v1/api/echo"
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/echo"))}
    first = await market.client.get(url, headers=headers)
    listing.price_atoms = 2 * PRICE
    market.reload()
    again = await market.client.get(url, headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    other = await market.client.get(url + "?q=other", headers=headers)
    assert (other.status_code, "payment-response" in other.headers) == (402, False)
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


@pytest.mark.parametrize("scheme", ["exact", "deposit"])
async def test_an_authorization_finds_its_answer_when_the_price_has_changed(
    shop: Shop, scheme: str
) -> None:
    payer = shop.payer()
    exact = scheme == "exact"
    payment = shop.world.exact(payer) if exact else shop.world.deposit(payer, 10 * PRICE)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        first = await shop.client.get(url + "/v1/api/echo", headers=headers)
        shop.reprice(2 * PRICE)
        other = await shop.client.get(url + "/v1/api/echo?other=1", headers=headers)
        again = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert (other.status_code, "payment-response" in other.headers) == (402, False)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["payment-response"] == first.headers["payment-response"]
    assert shop.upstream.total == 1


async def test_an_authorization_finds_its_answer_when_it_has_expired(shop: Shop) -> None:
    payment = shop.world.exact(shop.payer(), valid_for=EXPIRY_BUFFER_SECONDS + 3)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        first = await shop.client.get(url + "/v1/api/echo", headers=headers)
        expired = payment.authorization.valid_before - EXPIRY_BUFFER_SECONDS + 1
        await asyncio.sleep(expired - time.time())
        again = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert shop.upstream.total == 1


async def test_an_authorization_whose_answer_is_kept_no_more_buys_nothing_else(shop: Shop) -> None:
    payment = shop.world.exact(shop.payer())
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        await shop.client.get(url + "/v1/api/echo", headers=headers)
        assert forget_answers(shop.world.engine, int(time.time()) + 1) == 1
        again = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert (again.status_code, "payment-response" in again.headers) == (402, False)
    assert shop.upstream.total == 1


async def test_an_upload_sent_again_finds_its_answer_however_long_it_is(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    url, body = market.url + "/v1/api/echo", b"x" * (INLINE_BYTES + 1)
    for extensions in (None, IDENTIFIER):
        required = await market.offer("/v1/api/echo")
        headers = {"PAYMENT-SIGNATURE": payer.voucher(required, extensions=extensions)}
        first = await market.client.post(url, headers=headers, content=body)
        payer.charged += PRICE
        again = await market.client.post(url, headers=headers, content=body)
        other = await market.client.post(url, headers=headers, content=body + b"x")
        assert (again.status_code, again.content) == (200, first.content)
        assert other.status_code == (402 if extensions is None else 409)
    assert market.upstream.total == 2
    assert await market.charged(payer) == 2 * PRICE


async def test_an_upload_paid_on_chain_finds_its_answer_however_long_it_is(shop: Shop) -> None:
    payment, body = shop.world.exact(shop.payer()), b"x" * (INLINE_BYTES + 1)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, payment)
        path = url + "/v1/api/echo"
        first = await shop.client.post(path, headers=headers, content=body)
        again = await shop.client.post(path, headers=headers, content=body)
        other = await shop.client.post(path, headers=headers, content=body + b"x")
    assert (first.status_code, other.status_code) == (200, 402)
    assert (again.status_code, again.content) == (200, first.content)
    assert shop.upstream.total == 1


async def test_a_payment_identifier_with_another_payload_is_a_conflict(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    url = market.url + "/v1/api/echo"
    required = await market.offer("/v1/api/echo")
    statuses = []
    for due in (PRICE, 2 * PRICE):
        payment = payer.voucher(required, due, extensions=IDENTIFIER)
        answer = await market.client.get(url, headers={"PAYMENT-SIGNATURE": payment})
        statuses.append(answer.status_code)
    assert statuses == [200, 409]
    assert await market.charged(payer) == PRICE


async def test_an_identifier_that_bought_a_long_answer_buys_no_other(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    path = "/v1/api/stream/9/65536"
    required = await market.offer(path)
    statuses = []
    for due in (PRICE, 2 * PRICE):
        payment = payer.voucher(required, due, extensions=IDENTIFIER)
        answer = await market.client.get(market.url + path, headers={"PAYMENT-SIGNATURE": payment})
        statuses.append(answer.status_code)
        await _booked(market)
    assert statuses == [200, 409]
    assert await market.charged(payer) == PRICE


async def test_an_identifier_whose_long_answer_broke_off_is_free_again(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    path = "/v1/api/break/600000"
    payment = payer.voucher(await market.offer(path), extensions=IDENTIFIER)
    headers = {"PAYMENT-SIGNATURE": payment}
    with pytest.raises(httpx.RemoteProtocolError):
        await market.client.get(market.url + path, headers=headers)
    await _booked(market)
    answer = await market.client.get(market.url + "/v1/api/echo", headers=headers)
    assert answer.status_code == 200
    assert await market.charged(payer) == PRICE


async def _booked(market: Market) -> None:
    """The end of a long answer is booked after its last byte."""
    while market.gateway._desk.in_flight:
        await asyncio.sleep(0.005)


def test_a_call_that_gave_its_channel_back_early_takes_it_from_nobody(
    migrated_engine: Engine,
) -> None:
    """It frees the channel before its answer has left, and once more at its end; a call that
    has taken it in between keeps it, or its voucher would buy twice upstream."""
    network, journal = NETWORKS["devnet"], Journal(migrated_engine)
    mirror = Mirror(journal, Rpc(["http://127.0.0.1:9"], network.chain_id), network)
    config = ChannelConfig(*[bytes(20)] * 5, 900, bytes(32))
    channels, channel = SellerChannels(journal, mirror), Channel(bytes(32), config)
    first = channels.reserve(channel)
    channels.release(channel)
    second = channels.reserve(channel)
    channels.release(channel, first)
    with pytest.raises(ChannelBusy):
        channels.reserve(channel)
    channels.release(channel, second)
    channels.reserve(channel)
    journal.close()


async def test_no_minute_is_served_that_nobody_paid_beyond_the_grace(market: Market) -> None:
    async with open_stream(market) as stream:
        assert (await stream.pay()).status_code == 200
        await stream.pass_(120 + GRACE_SECONDS)
        assert await stream.ends()
    assert await market.charged(stream.payer) == 2 * PRICE


@pytest.mark.parametrize("step", [-3_600, 3_600])
async def test_a_clock_that_is_set_moves_no_end_of_a_stream(market: Market, step: int) -> None:
    async with open_stream(market) as stream:
        stream.set_wall_clock(step)
        await stream.pass_(59)
        assert (await stream.pay()).status_code == 200
        await stream.pass_(60 + GRACE_SECONDS)
        assert stream.goes_on
        await stream.pass_(1)
        assert await stream.ends()


async def test_a_minute_that_is_paid_is_served(market: Market) -> None:
    async with open_stream(market) as stream:
        for _ in range(3):
            assert (await stream.pay()).status_code == 200
            await stream.pass_(60)
        await stream.pass_(59)
        assert not await stream.ends()
    assert await market.charged(stream.payer) == 4 * PRICE


async def test_a_stream_of_a_plan_goes_on_though_nobody_pays_its_minutes(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan())
    async with open_stream(planned.market, customer.headers) as stream:
        await stream.pass_(120 + GRACE_SECONDS)
        assert not await stream.ends()
    assert await planned.market.charged(stream.payer) == 0


async def test_a_stream_of_a_plan_ends_with_what_is_paid_for_it(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan(grace_days=0))
    async with open_stream(planned.market, customer.headers) as stream:
        await stream.pass_(int(time.time()) + 32 * 86_400 - stream.clock.at)
        assert await stream.ends()


async def test_a_payment_beside_a_plan_that_serves_stays_unused(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan())
    payer = await planned.market.payer()
    header = payer.voucher(await planned.market.offer(ECHO))
    answer = await planned.call(customer, **{"PAYMENT-SIGNATURE": header})
    assert answer.status_code == 200 and "payment-response" not in answer.headers
    assert await planned.market.charged(payer) == 0
    assert (await planned.look(customer))["used"]["calls"] == 1
    # It is as good as it was.
    later = await planned.market.client.get(
        planned.url + ECHO, headers={"PAYMENT-SIGNATURE": header}
    )
    assert later.status_code == 200
    assert await planned.market.charged(payer) == PRICE


async def test_renewals_paid_at_once_buy_one_month(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan())
    path = f"{BELOW}/subscriptions/{customer.id}/renewal"
    payments = [await planned.payment(path, customer) for _ in range(4)]
    before = usdc_of(planned.world.chain, customer.payer.hex)
    await asyncio.gather(*(planned.pay(path, customer, None, each) for each in payments))
    assert before - usdc_of(planned.world.chain, customer.payer.hex) == 3_000_000
    count = "SELECT count(*) FROM subscription_period WHERE kind = 'renewal'"
    assert planned.rows(count) == [(1,)]


async def test_calls_at_once_never_pass_a_quota_together(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan(calls=20 * 31))
    left = (await planned.look(customer))["period"]["calls"]
    gate = planned.gate
    held = gate.find(customer.secret.encode(), LISTING)
    assert held is not None
    now = int(time.time())
    planned.gate.quotas.reserve(held.subject, Meter.CALLS, left - 10, left, now).commit()
    answers = await asyncio.gather(*(planned.call(customer) for _ in range(40)))
    assert Counter(answer.status_code for answer in answers) == {200: 10, 402: 30}
