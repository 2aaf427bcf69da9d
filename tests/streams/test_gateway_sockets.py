"""WebSockets through the gateway, with the official client and server at the ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from finance.x402.wire import decode_required, decode_response
from node.lines.websocket import MAX_MESSAGE_BYTES
from tests.http.conftest import PRICE, SECRET, Market
from tests.streams.socket_world import SocketMarket, socket_market


async def test_an_unpaid_handshake_sees_the_price_and_never_reaches_the_upstream(
    sockets: SocketMarket,
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await sockets.open("echo")
    response = refused.value.response
    assert response.status_code == 402
    required = decode_required(response.headers["payment-required"])
    assert {each.amount for each in required.accepts} == {str(PRICE)}
    assert json.loads(response.body or b"")["accepts"]
    assert sockets.api.seen == []
    assert sockets.market.rows("SELECT count(*) FROM call")[0][0] == 0


async def test_a_paid_handshake_is_charged_once_and_shows_its_receipt(
    sockets: SocketMarket,
) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "echo?a=1")
    assert payer.charged == PRICE  # durable before the 101 was here (law 2)
    assert connection.response is not None
    receipt = decode_response(connection.response.headers["payment-response"])
    assert receipt.success and receipt.charged_amount == PRICE
    await connection.send("hello")
    await connection.send(b"\x00\xff")
    assert [await connection.recv(), await connection.recv()] == ["hello", b"\x00\xff"]
    await connection.close()
    (call,) = sockets.market.rows("SELECT id, method, path, status, amount_atoms FROM call")
    assert call == (connection.response.headers["farebox-call-id"], "GET", "/echo", 101, PRICE)
    assert await sockets.market.charged(payer) == PRICE


async def test_a_stream_does_not_hold_its_channel(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    open_ones = [await sockets.paid(payer, "echo") for _ in range(3)]
    assert payer.charged == 3 * PRICE
    for connection in open_ones:
        await connection.send("x")
        assert await connection.recv() == "x"
        await connection.close()


async def test_large_and_fragmented_messages_arrive_whole(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "echo")
    large = os.urandom(MAX_MESSAGE_BYTES - 1)
    await connection.send(large)
    assert await connection.recv() == large
    await connection.send(["in ", "three ", "pieces"])
    assert await connection.recv() == "in three pieces"
    await connection.send("")
    assert await connection.recv() == ""
    await connection.close()
    parts = await sockets.paid(payer, "parts")
    await parts.send("é in fragments"[2:])
    assert await parts.recv() == "in fragments"
    await parts.close()


async def test_a_message_above_the_limit_closes_both_sides_with_1009(
    sockets: SocketMarket,
) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "idle")
    with pytest.raises(ConnectionClosed) as closed:
        await connection.send(bytes(MAX_MESSAGE_BYTES + 1))
        await connection.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    flood = await sockets.paid(payer, f"flood/{MAX_MESSAGE_BYTES + 1}")
    with pytest.raises(ConnectionClosed) as closed:
        await flood.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
CODES += [3000, 3999, 4000, 4402, 4999]


async def test_every_close_code_and_reason_arrives_from_both_sides(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    codes = (CODES + list(range(4001, 4100)))[:100]
    for index, code in enumerate(codes):
        reason = f"reason {index} é"
        if index % 2:
            connection = await sockets.paid(payer, f"close/{code}/reason-{index}")
            assert await connection.recv() == "last words"
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            rcvd = closed.value.rcvd
            assert rcvd is not None and (rcvd.code, rcvd.reason) == (code, f"reason-{index}")
        else:
            connection = await sockets.paid(payer, "echo")
            await connection.close(code, reason)
            await until(lambda: len(sockets.api.ended) > index)  # noqa: B023
            assert sockets.api.ended[-1] == (code, reason)
        await until(lambda: len(sockets.api.ended) > index)  # noqa: B023
    assert payer.charged == 100 * PRICE


async def test_an_upstream_that_breaks_off_is_told_as_a_bad_gateway(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "abort")
    assert await connection.recv() == "last words"
    with pytest.raises(ConnectionClosedError) as closed:
        await connection.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1014
    await sockets.market.gateway._streams.tick()
    found = sockets.market.rows("SELECT state, reason FROM stream_session")
    assert found == [("cut", "server_lost")]


async def test_a_buyer_that_is_gone_is_told_to_the_upstream_as_going_away(
    sockets: SocketMarket,
) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "echo")
    connection.transport.abort()
    await until(lambda: bool(sockets.api.ended))
    assert sockets.api.ended == [(1001, "")]
    await sockets.market.gateway._streams.tick()
    found = sockets.market.rows("SELECT state, reason FROM stream_session")
    assert found == [("cut", "caller_lost")]


async def test_a_close_without_a_code_stays_one(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "echo")
    await connection.close(None)  # type: ignore[arg-type]
    await until(lambda: bool(sockets.api.ended))
    assert sockets.api.ended == [(1005, "")]


async def test_pings_are_answered_on_both_sides(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "ping")
    assert await connection.recv() == "the pong came"
    await asyncio.wait_for(await connection.ping(b"and you?"), 5)
    await connection.close()


async def test_a_slow_reader_slows_the_upstream_down_and_costs_no_memory(
    sockets: SocketMarket,
) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "flood/65536", max_queue=1)
    await connection.recv()
    await asyncio.sleep(0.5)
    sent, before = sockets.api.sent, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await asyncio.sleep(1)
    # What fits into sockets and a few messages; a gateway that buffers would take gigabytes.
    assert sockets.api.sent - sent < 2 * 1024 * 1024 and sockets.api.sent < 64 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    for _ in range(100):
        assert len(await connection.recv()) == 65536
    connection.transport.abort()


async def test_an_upstream_that_does_not_read_slows_the_buyer_down(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "deaf")
    sent = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            while True:
                await connection.send(bytes(65536))
                sent += 65536
    assert sent < 64 * 1024 * 1024
    connection.transport.abort()


@pytest.mark.parametrize("status", [301, 401, 403, 404, 426, 503])
async def test_an_upstream_that_refuses_the_upgrade_costs_nothing(
    sockets: SocketMarket, status: int
) -> None:
    payer = await sockets.market.payer()
    with pytest.raises(InvalidStatus) as refused:
        await sockets.paid(payer, f"refuse/{status}")
    response = refused.value.response
    assert (response.status_code, response.body) == (status, b"refused")
    assert response.headers["x-why"] == "refused" and "payment-response" not in response.headers
    await sockets.market.settled()
    assert await sockets.market.charged(payer) == 0
    assert (await sockets.paid(payer, "echo")).response is not None  # the voucher is good again


async def test_an_upstream_without_websocket_costs_nothing(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    with pytest.raises(InvalidStatus) as refused:
        await sockets.paid(payer, "plain")
    assert refused.value.response.status_code == 502
    assert json.loads(refused.value.response.body or b"")["code"] == "upgrade_refused"
    assert await sockets.market.charged(payer) == 0


async def test_a_wrong_voucher_opens_nothing(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    required = await sockets.market.offer("/v1/api/echo")
    for payment in (payer.voucher(required, 5 * PRICE), "nonsense", payer.voucher(required)[:-9]):
        with pytest.raises(InvalidStatus) as refused:
            await sockets.open("echo", payment)
        assert refused.value.response.status_code == 402
        assert "payment-required" in refused.value.response.headers
    assert sockets.api.seen == [] and await sockets.market.charged(payer) == 0


async def test_a_voucher_opens_one_stream_and_no_plain_call_beside_it(
    sockets: SocketMarket,
) -> None:
    payer = await sockets.market.payer()
    required = await sockets.market.offer("/v1/api/echo")
    voucher = payer.voucher(required)
    first = await sockets.open("echo", voucher)
    with pytest.raises(InvalidStatus) as refused:
        await sockets.open("echo", voucher)
    assert refused.value.response.status_code == 402
    plain = await sockets.market.client.get(
        sockets.market.url + "/v1/api/echo", headers={"PAYMENT-SIGNATURE": voucher}
    )
    assert plain.status_code == 402
    assert len(sockets.api.seen) == 1 and await sockets.market.charged(payer) == PRICE
    await first.close()


async def test_twenty_handshakes_with_one_voucher_open_one_stream(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    voucher = payer.voucher(await sockets.market.offer("/v1/api/echo"))

    async def attempt() -> bool:
        try:
            connection = await sockets.open("echo", voucher)
        except InvalidStatus:
            return False
        await connection.close()
        return True

    opened = await asyncio.gather(*(attempt() for _ in range(20)))
    assert sum(opened) == 1 and len(sockets.api.seen) == 1
    assert await sockets.market.charged(payer) == PRICE


async def test_subprotocols_are_negotiated_with_the_upstream(sockets: SocketMarket) -> None:
    payer = await sockets.market.payer()
    connection = await sockets.paid(payer, "echo", subprotocols=["chat.v1", "chat.v2"])
    assert connection.subprotocol == "chat.v2"
    await connection.close()
    connection = await sockets.paid(payer, "echo", subprotocols=["other"])
    assert connection.subprotocol is None
    await connection.close()


async def test_payments_stay_here_and_the_upstream_gets_its_own_credential(
    market: Market,
) -> None:
    secret = {"credential_kind": "header", "credential_name": "x-api-key"}
    async with socket_market(market, **secret, credential_secret=SECRET.hex()) as sockets:
        payer = await market.payer()
        headers = {"X-Mine": "1", "X-Api-Key": "guess", "X-Forwarded-For": "1.2.3.4"}
        connection = await sockets.paid(payer, "echo?q=1", headers=headers)
        (seen,) = sockets.api.seen
        assert seen.path == "/base/echo?q=1"
        assert seen.headers.get_all("x-api-key") == [SECRET.decode()]
        assert seen.headers["x-mine"] == "1" and seen.headers["x-forwarded-for"] == "127.0.0.1"
        assert "payment-signature" not in seen.headers
        assert seen.headers["host"] == sockets.api.url.removeprefix("http://")
        assert connection.response is not None
        assert SECRET.decode() not in str(connection.response.headers)
        await connection.close()


async def test_what_is_paused_or_unknown_is_refused_with_the_same_problems(
    sockets: SocketMarket,
) -> None:
    async def refused(path: str = "echo") -> tuple[int, str]:
        with pytest.raises(InvalidStatus) as problem:
            await sockets.open(path)
        response = problem.value.response
        return response.status_code, json.loads(response.body or b"")["code"]

    sockets.market.paused = True
    assert await refused() == (503, "node_paused")
    sockets.market.paused = False
    sockets.market.listings[0].paused = True
    sockets.market.reload()
    assert await refused() == (503, "listing_paused")
    sockets.market.listings.clear()
    sockets.market.reload()
    assert await refused() == (404, "no_such_listing")


async def test_demo_mode_says_that_it_has_no_streams(market: Market) -> None:
    async with socket_market(market, mode="demo") as sockets:
        with pytest.raises(InvalidStatus) as refused:
            await sockets.open("echo")
        body = json.loads(refused.value.response.body or b"")
        assert (body["code"], body["status"]) == ("demo_without_streams", 404)
        assert sockets.api.seen == []


async def test_a_free_listing_needs_no_payment(market: Market) -> None:
    async with socket_market(market, price_atoms=0) as sockets:
        async with sockets.open("echo") as connection:
            await connection.send("free")
            assert await connection.recv() == "free"
        await market.settled()
        assert market.rows("SELECT status, amount_atoms FROM call") == [(101, 0)]


async def test_a_long_description_does_not_make_handshakes_impossible(market: Market) -> None:
    parameter = {"name": "q", "in": "query", "schema": {"type": "string", "enum": []}}
    parameter["schema"]["enum"] = [f"a long word of many {n}" for n in range(130)]  # type: ignore[index]
    operation = {"parameters": [parameter], "responses": {"200": {"description": "OK"}}}
    spec = {"openapi": "3.1.0", "info": {"title": "x", "version": "1"}}
    spec["paths"] = {"/echo": {"get": operation}}  # type: ignore[assignment]
    async with socket_market(market, spec=json.dumps(spec)) as sockets:
        market.price("GET", "/echo", PRICE)
        with pytest.raises(InvalidStatus) as refused:
            await sockets.open("echo")
        response = refused.value.response
        assert len(response.headers["payment-required"]) < 3_000
        payer = await market.payer()
        connection = await sockets.open(
            "echo", payer.voucher(decode_required(response.headers["payment-required"]))
        )
        await connection.close()
        assert await market.charged(payer) == PRICE


async def until(condition: object, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
