"""A call paid by voucher: what the buyer gets, what the seller has in the books."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import msgspec

from finance.selling.channels import charge_writes, stream_writes
from finance.store import Batch
from finance.x402 import codes
from finance.x402.receipt import read_states
from finance.x402.values import VoucherPayment
from finance.x402.wire import (
    decode_payment,
    decode_required,
    decode_response,
    encode_payment,
)
from tests.http.conftest import PRICE, Market

BUSY = "invalid_batch_settlement_evm_channel_busy"
MISMATCH = "invalid_batch_settlement_evm_cumulative_amount_mismatch"
ANOTHER = 4711  # the number of a process


async def test_an_unpaid_call_sees_the_price_and_costs_nothing(market: Market) -> None:
    market.sell()
    answer = await market.client.post(market.url + "/v1/api/anything", content=b"{not json")
    assert answer.status_code == 402
    required = decode_required(answer.headers["payment-required"])
    assert [entry.scheme for entry in required.accepts] == ["batch-settlement", "exact"]
    assert {entry.amount for entry in required.accepts} == {str(PRICE)}
    assert answer.headers["cache-control"] == "no-store"
    await market.settled()
    assert market.upstream.total == 0
    assert market.rows("SELECT count(*) FROM call")[0][0] == 0


async def test_a_paid_call_is_delivered_and_booked(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/echo?b=2&a=%20x")
    assert answer.status_code == 200
    receipt = decode_response(answer.headers["payment-response"])
    assert receipt.success and receipt.charged_amount == PRICE and receipt.transaction == ""
    assert receipt.channel_state is not None
    assert receipt.channel_state.charged_cumulative_amount == PRICE
    assert answer.headers["cache-control"] == "no-store"
    assert len(answer.headers["farebox-call-id"]) == 32
    assert market.upstream.seen["path"] == "/base/echo"
    assert market.upstream.seen["query"] == "b=2&a=%20x"
    assert await market.charged(payer) == PRICE
    (call,) = market.rows("SELECT id, status, amount_atoms, scheme, payer FROM call")
    assert call[0] == answer.headers["farebox-call-id"]
    assert call[1:4] == (200, PRICE, "batch-settlement")


async def test_a_voucher_sent_fifty_times_at_once_buys_one_call(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    answers = await asyncio.gather(
        *(market.client.get(market.url + "/v1/api/echo", headers=headers) for _ in range(50))
    )
    statuses = Counter(answer.status_code for answer in answers)
    ids = {a.headers["farebox-call-id"] for a in answers if a.status_code == 200}
    assert len(ids) == 1, statuses
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE
    for answer in answers:
        if answer.status_code == 402:
            assert decode_required(answer.headers["payment-required"]).error == BUSY
            assert answer.headers["retry-after"] == "1"


async def test_a_call_that_is_being_bought_is_not_sold_again_at_another_price(
    market: Market,
) -> None:
    listing = market.sell()
    payer = await market.payer()
    url = market.url + "/v1/api/slow/0.5"
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/slow/0.5"))}
    first = asyncio.create_task(market.client.get(url, headers=headers))
    while not market.upstream.total:
        await asyncio.sleep(0.01)
    listing.price_atoms = 2 * PRICE
    market.reload()
    meanwhile = await market.client.get(url, headers=headers)
    assert decode_required(meanwhile.headers["payment-required"]).error == BUSY
    bought = await first
    again = await market.client.get(url, headers=headers)
    assert (again.status_code, again.content) == (200, bought.content)
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


async def test_a_call_is_charged_over_what_it_was_signed_for_or_not_at_all(market: Market) -> None:
    """While it is made, a long answer that another process gave before is taken back: its buyer
    would find a sum in the receipt that is not the old one plus the price."""
    market.sell()
    payer, channels = await market.payer(), market.seller.channels
    channel = await channels.get(payer.key_hex)
    assert channel is not None
    given = charge_writes(channel, PRICE, PRICE, bytes(65), "given-before", int(time.time()))
    await market.journal.commit(Batch(stream_writes(given, PRICE, ANOTHER)))
    await channels.reload(payer.key_hex)
    payer.charged = PRICE
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/slow/0.5"))}
    call = asyncio.create_task(market.client.get(market.url + "/v1/api/slow/0.5", headers=headers))
    while not market.upstream.total:
        await asyncio.sleep(0.01)
    assert await channels.reverse_broken_streams(lambda owners: owners & {ANOTHER}) == 1
    required = decode_required((await call).headers["payment-required"])
    state, _ = read_states(required.accepts[0].extra)
    assert state is not None and state.charged_cumulative_amount == 0
    payer.charged = 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200
    assert await market.charged(payer) == PRICE


async def test_the_same_call_again_gets_the_stored_answer_without_a_second_charge(
    market: Market,
) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    first = await market.client.get(market.url + "/v1/api/echo", headers=headers)
    again = await market.client.get(market.url + "/v1/api/echo", headers=headers)
    assert again.status_code == 200 and again.content == first.content
    for name in ("payment-response", "farebox-call-id", "cache-control"):
        assert again.headers[name] == first.headers[name]
    assert market.upstream.total == 1
    assert await market.charged(payer) == PRICE


async def test_a_stranger_who_names_a_channel_is_not_shown_its_voucher(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    paid = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    await market.client.get(market.url + "/v1/api/echo", headers=paid)
    payment = decode_payment(payer.voucher(required))
    assert isinstance(payment.payload, VoucherPayment)
    guess = msgspec.structs.replace(
        payment.payload, max_claimable=5 * PRICE, signature=bytes(64) + b"\x1b"
    )
    forged = {"PAYMENT-SIGNATURE": encode_payment(payment.accepted, guess).decode()}
    answer = await market.client.get(market.url + "/v1/api/echo", headers=forged)
    assert answer.status_code == 402
    offer = decode_required(answer.headers["payment-required"])
    assert offer.error == codes.VOUCHER_SIGNATURE
    assert "voucherState" not in offer.accepts[0].extra


async def test_a_used_voucher_for_another_call_gets_the_corrective_offer(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    required = await market.offer("/v1/api/echo")
    headers = {"PAYMENT-SIGNATURE": payer.voucher(required)}
    await market.client.get(market.url + "/v1/api/echo", headers=headers)
    for request in (
        market.client.get(market.url + "/v1/api/echo?other=1", headers=headers),
        market.client.post(market.url + "/v1/api/echo", headers=headers),
    ):
        answer = await request
        assert answer.status_code == 402
        corrective = decode_required(answer.headers["payment-required"])
        assert corrective.error == MISMATCH
        extra = corrective.accepts[0].extra
        assert extra["channelState"]["chargedCumulativeAmount"] == str(PRICE)
        assert extra["voucherState"]["signedMaxClaimable"] == str(PRICE)
    assert market.upstream.total == 1
