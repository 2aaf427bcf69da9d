"""Law 4. Terms are the seller's: what a payment says about them is compared, never believed."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from finance.networks import NETWORKS
from finance.store import Batch, Write
from finance.x402.digest import channel_id
from finance.x402.exact import sign_authorization
from finance.x402.text import checksum
from finance.x402.wire import decode_required
from node.usage.set_aside import show_calls_of
from tests.http.conftest import CHAIN_ID, PRICE, Market
from tests.http.plans_world import BELOW, Seller
from tests.laws.worlds import Shop

ELSEWHERE = checksum(b"\x77" * 20)


async def test_a_payment_that_accepts_a_lower_price_buys_nothing(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/echo", amount=1, changes={"amount": "1"})
    assert answer.status_code == 402
    assert (market.upstream.total, await market.charged(payer)) == (0, 0)


async def test_a_payment_on_other_terms_buys_nothing(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    changes: list[dict[str, Any]] = [
        {"pay_to": ELSEWHERE},
        {"asset": ELSEWHERE},
        {"network": "eip155:8453"},
        {"amount": str(PRICE + 1)},
        {"max_timeout_seconds": 3600},
    ]
    answers = [await market.buy(payer, "/v1/api/echo", changes=each) for each in changes]
    assert [answer.status_code for answer in answers] == [402] * len(changes)
    assert (market.upstream.total, await market.charged(payer)) == (0, 0)


@pytest.mark.parametrize("paths", [("/Echo", "/echo"), ("/echo", "/Echo")])
async def test_a_path_with_two_prices_costs_the_dearer(
    market: Market, paths: tuple[str, str]
) -> None:
    """An upstream may take both for one, so nobody chooses the cheaper by its spelling."""
    market.sell()
    for path, atoms in zip(paths, (9_000, 3_000), strict=True):
        market.price("GET", path, atoms)
    for asked in ("/v1/api/echo", "/v1/api/ECHO"):
        assert {each.amount for each in (await market.offer(asked)).accepts} == {"9000"}


async def test_a_payment_for_another_listing_is_refused(market: Market) -> None:
    market.sell("cheap")
    market.sell("api")
    payer = await market.payer()
    required = await market.offer("/v1/cheap/echo")
    answer = await market.buy(payer, "/v1/api/echo", required=required)
    assert answer.status_code == 402
    assert (market.upstream.total, await market.charged(payer)) == (0, 0)


async def test_a_channel_that_pays_somebody_else_buys_nothing(market: Market) -> None:
    """Its vouchers could never be claimed, whatever is deposited in it."""
    market.sell()
    payer = await market.payer()
    theirs = msgspec.structs.replace(payer.config, receiver=payer.config.payer)
    foreign = channel_id(theirs, CHAIN_ID)
    sql = "UPDATE seller_channel SET channel_id = :id, receiver = payer"
    await _write(market, sql, id="0x" + foreign.hex())
    payer.config, payer.id = theirs, foreign
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 402
    assert (market.upstream.total, await market.charged(payer)) == (0, 0)


async def _write(market: Market, sql: str, **params: Any) -> None:
    await market.journal.commit(Batch([Write(text(sql), params)]))


async def test_a_voucher_that_bought_one_route_gets_no_answer_of_another(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    header = payer.voucher(await market.offer("/v1/api/echo"))
    first = await market.client.get(
        market.url + "/v1/api/echo", headers={"PAYMENT-SIGNATURE": header}
    )
    assert first.status_code == 200
    for method, path in (("GET", "/v1/api/echo/other"), ("POST", "/v1/api/echo")):
        answer = await market.client.request(
            method, market.url + path, headers={"PAYMENT-SIGNATURE": header}
        )
        assert answer.status_code == 402, (method, path)
        assert decode_required(answer.headers["payment-required"]).error is not None


async def test_an_authorization_to_another_receiver_buys_nothing(shop: Shop) -> None:
    payer = shop.payer()
    payment = shop.world.exact(payer)
    authorization = msgspec.structs.replace(payment.authorization, to=payer.address)
    stolen = sign_authorization(payer.key, authorization, shop.world.terms.token_domain)
    async with shop.open_gateway() as url:
        headers = await shop.header(url, stolen)
        answer = await shop.client.get(url + "/v1/api/echo", headers=headers)
    assert answer.status_code == 402
    assert shop.upstream.total == 0


async def test_a_free_plan_is_only_for_whoever_signs(planned: Seller) -> None:
    plan, owner, thief = planned.plan("Free", 0), planned.customer(), planned.customer()
    named = {"payer": owner.payer.hex, "signature": "0x" + "1b" * 65}
    answer = await planned.market.client.post(
        f"{planned.url}{BELOW}/plans/{plan.id}", json={"key_hash": thief.key_hash, **named}
    )
    assert answer.status_code == 403
    assert (await planned.take_free(plan, owner)).status_code == 200


@pytest.mark.parametrize("change", ["price_atoms = 2 * price_atoms", "retired_at = 1"])
async def test_a_payment_sent_again_finds_its_answer_though_the_plan_has_changed(
    planned: Seller, change: str
) -> None:
    plan, customer = planned.plan(), planned.customer()
    path, body = f"{BELOW}/plans/{plan.id}", {"key_hash": customer.key_hash}
    payment = await planned.payment(path, customer)
    first = await planned.pay(path, customer, body, payment)
    with planned.world.engine.begin() as connection:
        connection.execute(text(f"UPDATE plan SET {change}"))
    again = await planned.pay(path, customer, body, payment)
    assert (again.status_code, again.content) == (200, first.content)


async def test_a_plan_paid_on_another_network_serves_nobody_here(planned: Seller) -> None:
    """Whose node moved from a test network to the main one was paid nothing there."""
    engine, here = planned.world.engine, NETWORKS["devnet"]
    show_calls_of(engine, here, int(time.time()))
    customer = await planned.subscribe(planned.plan())
    statuses = []
    for network in (here, NETWORKS["base"], here):
        show_calls_of(engine, network, int(time.time()))
        await planned.gate.load()
        statuses.append((await planned.call(customer)).status_code)
    assert statuses == [200, 401, 200]
