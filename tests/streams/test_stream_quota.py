"""An integrator's month of stream time: counted once, and at its end new ones are refused."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from sqlalchemy import update
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

from finance.errors import StoreUnavailable
from node.accounts.audit import COMMAND
from node.db.engine import writer
from node.proxy.gate import Gate
from node.usage.keys import create_key, revoke_key
from node.usage.metering import QuotaUsage
from node.usage.models import ConsumerKey, Side
from node.usage.quotas import Meter
from node.usage.stream_time import By, read_hours
from node.usage.tiers import UsageTiers, change_tiers
from tests.http.conftest import free_port, serving
from tests.http.proxy_world import SECRET, BuyerNode, Running
from tests.laws.conftest import buyer
from tests.streams.socket_world import node_serving, running_api
from tests.streams.test_gateway_events import Events

__all__ = ["buyer"]


def open_socket(ws: str, path: str = "echo", **headers: str) -> Any:
    sent = {"Authorization": f"Bearer {SECRET}", **headers}
    return connect(f"{ws}/call/api/{path}", additional_headers=sent, proxy=None)


def seconds_used(node: BuyerNode) -> int:
    return sum(row.used for row in node.rows(QuotaUsage) if row.meter == "stream_seconds")


def as_integrator(node: BuyerNode, stream_seconds: int) -> None:
    with writer(node.engine).begin() as connection:
        connection.execute(update(ConsumerKey).values(integrator=True))
    tiers = UsageTiers(free_stream_seconds=stream_seconds, pro_stream_seconds=10**9)
    change_tiers(node.engine, tiers, COMMAND, int(time.time()))


async def test_at_the_end_of_the_quota_new_streams_are_refused_and_open_ones_go_on(
    buyer: BuyerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_integrator(buyer, 3_600)
    async with running_api() as api:
        buyer.list("api", api.url)
        async with buyer.running() as proxy, node_serving(proxy.proxy) as ws:
            clock = _Clock(monkeypatch, proxy)
            async with open_socket(ws) as first:
                clock.ahead += 3_599
                await proxy.proxy._streams.tick()
                assert seconds_used(buyer) == 3_599
                async with open_socket(ws) as last:  # a second is left
                    await last.send("still")
                    assert await last.recv() == "still"
                while proxy.proxy._streams.live(Side.BOUGHT).total() > 1:
                    await asyncio.sleep(0.01)
                clock.ahead += 1
                await proxy.proxy._streams.tick()
                told = await _refused(ws)
                assert (told["code"], told["meter"]) == ("quota_exceeded", "stream_seconds")
                assert told["limit"] == 3_600 and told["resets_at"] > time.time()
                events = await proxy.call("api/x", headers={"Accept": "text/event-stream"})
                assert (events.status_code, events.json()["code"]) == (402, "quota_exceeded")
                assert "payment-required" not in events.headers
                await _refused_unannounced(buyer, proxy)
                clock.ahead += 60
                await first.send("drained")
                assert await first.recv() == "drained"
            await proxy.proxy._streams.tick()
    hours = read_hours(buyer.engine, Side.BOUGHT, 0, 2**40, By.KEY)
    assert {hour.of for hour in hours} == {"key-1"}
    assert sum(hour.seconds for hour in hours) == seconds_used(buyer) == 3_660


async def _refused_unannounced(node: BuyerNode, proxy: Running) -> None:
    """Events that nobody asked for by name are no way around the quota."""
    port, api = free_port(), Events()
    async with serving(api, port):
        node.list("events", f"http://127.0.0.1:{port}/base")
        await proxy.proxy.reload()
        for headers in ({}, {"accept": "Text/Event-Stream"}):
            events = await proxy.call("events/ticks", headers=headers)
            assert (events.status_code, events.json()["meter"]) == (402, "stream_seconds")
        async with asyncio.timeout(5):
            while api.gone != 1:  # the second was not even sent on
                await asyncio.sleep(0.01)
    calls = [call for call in node.calls if call.listing_id == "listing-events"]
    asked, _ = sorted(calls, key=lambda call: call.status)
    assert (asked.status, asked.error) == (200, "quota_exceeded")


async def test_an_internal_key_streams_without_a_quota(
    buyer: BuyerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_integrator(buyer, 0)
    with writer(buyer.engine).begin() as connection:
        connection.execute(update(ConsumerKey).values(integrator=False))
    async with running_api() as api:
        buyer.list("api", api.url)
        async with buyer.running() as proxy, node_serving(proxy.proxy) as ws:
            async with open_socket(ws) as socket:
                await socket.send("x")
                assert await socket.recv() == "x"
            await proxy.proxy._streams.tick()
    assert seconds_used(buyer) == 0


async def test_streams_of_a_key_end_when_it_is_revoked(buyer: BuyerNode) -> None:
    """Whoever found a secret and holds a line open is out, too; others stay."""
    other = create_key(buyer.engine, "other", 1).secret
    port, api = free_port(), Events()
    async with running_api() as sockets, serving(api, port):
        buyer.list("api", sockets.url)
        buyer.list("events", f"http://127.0.0.1:{port}/base")
        async with buyer.running() as proxy, node_serving(proxy.proxy) as ws:
            await proxy.proxy.reload()
            theirs = {"Authorization": f"Bearer {other}"}
            async with open_socket(ws) as mine, open_socket(ws, **theirs) as stays:
                asked = {"accept": "text/event-stream"}
                events = asyncio.create_task(proxy.call("events/ticks", headers=asked))
                while proxy.proxy._streams.live(Side.BOUGHT).total() < 3:
                    await asyncio.sleep(0.01)
                assert revoke_key(buyer.engine, "key-1", 2) == 1
                await proxy.proxy.reload()
                with pytest.raises(ConnectionClosed) as closed:
                    await asyncio.wait_for(mine.recv(), 5)
                assert closed.value.rcvd == Close(4402, "secret_invalid")
                assert "secret_invalid" in (await asyncio.wait_for(events, 5)).text
                await stays.send("still")
                assert await stays.recv() == "still"


async def test_what_the_key_or_the_listing_may_not_is_refused_at_the_handshake(
    buyer: BuyerNode,
) -> None:
    async with running_api() as api:
        buyer.list("api", api.url)
        async with buyer.running() as proxy, node_serving(proxy.proxy) as ws:
            assert (await _refused(ws, Authorization="Bearer no"))["status"] == 401
            assert (await _refused(ws, "%2e%2e/x"))["code"] == "path_ambiguous"
            with pytest.raises(InvalidStatus) as refused:
                await open_socket(ws, "refuse/418")
            assert refused.value.response.status_code == 418
            assert (await _refused(ws, "plain"))["body"] == "no socket here"


async def _refused(ws: str, path: str = "echo", **headers: str) -> dict[str, Any]:
    with pytest.raises(InvalidStatus) as refused:
        await open_socket(ws, path, **headers)
    body = refused.value.response.body or b""
    try:
        told: dict[str, Any] = json.loads(body)
    except ValueError:
        told = {"body": body.decode()}
    return told


class _Clock:
    """The streams' time, set ahead by a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, proxy: Running) -> None:
        self.ahead, self.base = 0, int(time.time())
        for name in ("_clock", "steady"):
            monkeypatch.setattr(proxy.proxy._streams, name, self)

    def __call__(self) -> float:
        return float(self.base + self.ahead)


async def test_a_quota_that_cannot_be_asked_is_said_so_and_leaves_no_stream_open(
    buyer: BuyerNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database is away, where processes share a quota."""
    as_integrator(buyer, 3_600)
    port, api = free_port(), Events()
    claim = Gate.claim

    async def away(self: Gate, key: Any, now: int, meter: Meter = Meter.CALLS) -> Any:
        if meter is Meter.STREAM_SECONDS:
            raise StoreUnavailable("the database refused")
        return await claim(self, key, now, meter)

    monkeypatch.setattr(Gate, "claim", away)
    async with serving(api, port):
        buyer.list("events", f"http://127.0.0.1:{port}/base")
        async with buyer.running() as proxy:
            for headers in ({}, {"accept": "text/event-stream"}):
                told = await proxy.call("events/ticks", headers=headers)
                assert (told.status_code, told.json()["code"]) == (503, "store_unavailable")
            async with asyncio.timeout(5):
                while api.gone != 1:
                    await asyncio.sleep(0.01)
