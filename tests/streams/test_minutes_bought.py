"""Streams by the minute through proxy and gateway, on a real chain: paid as their time runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from catalog.models import Listing, PriceUnit
from finance.buying.models import SpendLimit
from finance.buying.policy import BuyingPolicy
from finance.errors import SettlementFailed, SettlementUnknown
from finance.models import PurchaseState
from node.db.engine import writer
from node.gateway.stream_minutes import GRACE_SECONDS
from node.gateway.unpaid import undo_unpaid
from node.proxy.errors import SellerFailed
from node.proxy.minutes import LEAD_SECONDS
from node.usage.models import ConsumerKey
from node.usage.stream_rows import StreamSession
from tests.http.conftest import PRICE, Market, free_port, serving
from tests.http.proxy_world import SECRET, BuyerNode, Running
from tests.http.test_gateway_onchain import market, world
from tests.recovery.seller_world import World
from tests.streams.compressed import Clock
from tests.streams.socket_world import SocketMarket, node_serving, socket_market
from tests.streams.test_gateway_events import Events

__all__ = ["market", "world"]

MINUTE = 60
MINUTES = 60 if os.environ.get("FAREBOX_SOAK") == "1" else 15


@dataclass
class Street:
    """A seller of streams by the minute, a buyer, and an app of the buyer's; one clock."""

    seller: SocketMarket
    buyer: BuyerNode
    proxy: Running
    ws: str
    clock: Clock
    opened: list[ClientConnection] = field(default_factory=list)

    @property
    def market(self) -> Market:
        return self.seller.market

    async def open(self, path: str = "echo") -> ClientConnection:
        headers = {"Authorization": f"Bearer {SECRET}"}
        connection = await connect(
            f"{self.ws}/call/api/{path}",
            additional_headers=headers,
            proxy=None,
            ping_interval=None,
            open_timeout=30,
        )
        self.opened.append(connection)
        return connection

    async def pass_(self, seconds: int) -> None:
        """So long passes; both nodes have looked, and what was due is paid or refused."""
        self.clock.at += seconds
        await self.proxy.proxy.minutes.look()
        while any(each.paying for each in self.proxy.proxy.minutes._bought.values()):
            await asyncio.sleep(0.01)
        await self.market.gateway.minutes.look()
        await self.proxy.proxy.minutes.look()

    def minutes_sold(self) -> int:
        sql = "SELECT count(*) FROM call WHERE path LIKE '/.farebox/streams/%' AND status = 200"
        return int(self.market.rows(sql)[0][0])

    def minutes_bought(self) -> int:
        return sum(
            each.path.startswith("/.farebox/streams/") and each.status == 200
            for each in self.buyer.calls
        )

    def charged(self) -> int:
        sql = "SELECT COALESCE(SUM(amount_atoms), 0) FROM call"
        return int(self.market.rows(sql)[0][0])


def sell_by_minute(market: Market, base: str) -> None:
    market.listings.clear()
    market.sell(base=base, price_unit=PriceUnit.MINUTE)


@contextlib.asynccontextmanager
async def street(
    market: Market, folder: Path, chain: Any, policy: BuyingPolicy | None = None
) -> AsyncIterator[Street]:
    market.listings.clear()
    home = folder / "buyer"
    home.mkdir(exist_ok=True)
    node = BuyerNode(home, chain)
    async with socket_market(market, price_unit=PriceUnit.MINUTE) as seller:
        node.list("api", market.url + "/v1/api")
        # What the catalog calls is plain HTTP; WebSockets go to the same gateway.
        with writer(node.engine).begin() as connection:
            base = seller.ws.replace("ws://", "http://") + "/v1/api"
            connection.execute(update(Listing).values(base_url=base))
        async with node.running(policy) as proxy, node_serving(proxy.proxy) as ws:
            clock = Clock.of(market.gateway._streams, proxy.proxy._streams)
            town = Street(seller, node, proxy, ws, clock)
            yield town
            for each in town.opened:
                each.transport.abort()
            await until(lambda: not proxy.proxy._streams._open)
    node.check_books()


@pytest.fixture
async def town(market: Market, world: World, tmp_path: Path, chain: Any) -> AsyncIterator[Street]:
    async with street(market, tmp_path, chain) as town:
        yield town


async def lives(connection: ClientConnection) -> bool:
    await connection.send("still there?")
    return await asyncio.wait_for(connection.recv(), 10) == "still there?"


async def closed_with(connection: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        async with asyncio.timeout(10):
            await connection.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_a_long_stream_is_paid_minute_by_minute_and_the_app_notices_nothing(
    town: Street,
) -> None:
    connection = await town.open()
    assert connection.response is not None
    assert not [name for name in connection.response.headers if "paid-until" in name.lower()]
    await town.pass_(MINUTE - LEAD_SECONDS - 1)
    assert town.minutes_sold() == 0  # not before it is due
    await town.pass_(1)
    assert town.minutes_sold() == 1
    for minute in range(2, MINUTES + 1):
        await town.pass_(MINUTE)
        assert town.minutes_sold() == minute
    assert await lives(connection)
    await connection.close()
    await until(lambda: not town.proxy.proxy._streams._open)
    await town.pass_(10 * MINUTE)
    assert town.minutes_bought() == town.minutes_sold() == MINUTES
    assert town.charged() == (MINUTES + 1) * PRICE == -town.buyer.booked("spent")
    minutes = [each for each in town.buyer.calls if each.path != "/echo"]
    assert {(each.key_id, each.listing_id) for each in minutes} == {("key-1", "listing-api")}
    await town.proxy.proxy._streams.tick()
    bought = town.buyer.rows(StreamSession)[0]
    assert (bought.minute_atoms, bought.paid_until) == (
        PRICE,
        bought.started_at + (MINUTES + 1) * MINUTE,
    )


async def test_a_limit_that_is_reached_ends_the_stream_when_what_is_paid_is_used_up(
    town: Street,
) -> None:
    town.buyer.add(SpendLimit(scope="day", subject="*", limit_atoms=30 * PRICE))
    await town.proxy.proxy.reload()
    connection = await town.open()
    with writer(town.buyer.engine).begin() as rows:
        rows.execute(update(SpendLimit).values(limit_atoms=3 * PRICE))
    await town.proxy.proxy.reload()
    for _ in range(2):
        await town.pass_(MINUTE)
    await town.pass_(MINUTE - LEAD_SECONDS - 1)
    assert await lives(connection)  # the third minute is paid and goes on to its end
    await town.pass_(LEAD_SECONDS + 2)
    code, reason = await closed_with(connection)
    assert (code, "limit" in reason) == (4402, True), reason
    assert town.charged() == 3 * PRICE
    await town.pass_(5 * MINUTE)
    assert town.charged() == 3 * PRICE


async def test_a_key_that_is_good_no_longer_pays_for_no_further_minute(town: Street) -> None:
    connection = await town.open()
    with writer(town.buyer.engine).begin() as rows:
        rows.execute(update(ConsumerKey).values(revoked_at=1))
    await town.proxy.proxy.reload()
    await town.pass_(MINUTE)
    await town.pass_(1)
    assert await closed_with(connection) == (4402, "secret_invalid")
    assert town.charged() == PRICE


async def test_a_seller_that_asks_for_more_than_the_first_minute_is_not_paid(
    town: Street,
) -> None:
    connection = await town.open()
    await town.market.gateway._streams.tick()
    with writer(town.market.journal.engine).begin() as rows:
        rows.execute(update(StreamSession).values(minute_atoms=PRICE + 1))
    await town.pass_(MINUTE)
    await town.pass_(1)
    assert await closed_with(connection) == (4402, "price_above_agreed")
    assert town.charged() == PRICE


async def test_a_minute_whose_answer_is_lost_is_asked_for_with_the_same_signature(
    town: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await town.open()
    calls = town.proxy.proxy._calls
    send, headers = calls._send, []

    async def losing(request: Any, header: bytes | None, *rest: Any) -> Any:
        answer = await send(request, header, *rest)
        if header is not None:
            headers.append(header)
            if len(headers) == 1:
                answer.close()
                raise SellerFailed("seller_failed", "lost on the way")
        return answer

    monkeypatch.setattr(calls, "_send", losing)
    await town.pass_(MINUTE - LEAD_SECONDS)
    await town.pass_(2)
    assert len(headers) == 2 and headers[0] == headers[1]
    assert town.minutes_sold() == 1 and town.charged() == 2 * PRICE
    await town.pass_(LEAD_SECONDS)
    assert await lives(connection)
    assert {each.state for each in town.buyer.purchases} == {PurchaseState.PAID}


async def test_a_seller_that_takes_no_minutes_any_more_ends_it_after_the_grace(
    town: Street,
) -> None:
    connection = await town.open()
    town.market.listings[0].paused = True
    town.market.reload()
    await town.pass_(MINUTE - LEAD_SECONDS)
    town.market.listings[0].paused = False
    town.market.reload()
    await town.pass_(2)  # a trouble that passes costs nothing
    assert town.minutes_sold() == 1 and await lives(connection)
    town.market.listings[0].paused = True
    town.market.reload()
    for _ in range(12):
        await town.pass_(6)
    await town.pass_(GRACE_SECONDS + 10)
    assert (await closed_with(connection))[0] == 4402
    assert town.charged() == 2 * PRICE


async def test_many_streams_at_once_each_pay_their_own_minutes(town: Street) -> None:
    opened = [await town.open() for _ in range(8)]
    for _ in range(3):
        await town.pass_(MINUTE)
    assert await asyncio.gather(*(lives(each) for each in opened)) == [True] * 8
    paths = Counter(each.path for each in town.buyer.calls if each.path != "/echo")
    assert len(paths) == 8 and set(paths.values()) == {3}
    assert town.charged() == 8 * 4 * PRICE == -town.buyer.booked("spent")


async def test_a_new_price_holds_for_new_streams_only(town: Street) -> None:
    connection = await town.open()
    town.market.listings[0].price_atoms = 5 * PRICE
    town.market.reload()
    await town.pass_(MINUTE)
    await town.pass_(MINUTE)
    assert town.charged() == 3 * PRICE and await lives(connection)
    dearer = await town.open()
    await town.pass_(MINUTE)
    assert await lives(dearer)
    assert town.charged() == (4 + 2 * 5) * PRICE


async def test_what_was_offered_by_the_call_is_never_paid_by_the_minute(town: Street) -> None:
    town.market.listings[0].price_unit = PriceUnit.CALL
    town.market.reload()
    first = await town.open()  # its offer is remembered
    town.market.listings[0].price_unit = PriceUnit.MINUTE
    town.market.reload()
    second = await town.open()
    await town.pass_(MINUTE)
    await town.pass_(GRACE_SECONDS)
    assert await closed_with(second) == (4402, "payment_due")
    assert await lives(first)
    assert town.charged() == 2 * PRICE
    third = await town.open()  # the terms are read anew
    await town.pass_(MINUTE)
    assert await lives(third)
    assert town.charged() == 4 * PRICE


async def test_each_minute_can_be_an_exact_payment_of_its_own(
    market: Market, world: World, tmp_path: Path, chain: Any
) -> None:
    policy = BuyingPolicy(prefer=("exact",))
    async with street(market, tmp_path, chain, policy) as town:
        connection = await town.open()
        for _ in range(2):
            await town.pass_(MINUTE)
        assert await lives(connection)
        assert {each.scheme for each in town.buyer.purchases} == {"exact"}
        assert town.charged() == 3 * PRICE == -town.buyer.booked("spent")


async def test_an_authorization_that_moves_no_money_buys_no_minute(
    market: Market, world: World, tmp_path: Path, chain: Any
) -> None:
    policy = BuyingPolicy(prefer=("exact",))
    async with street(market, tmp_path, chain, policy) as town:
        connection = await town.open()

        async def fail(payment_id: str, timeout: float) -> Any:
            # Overdue but for this minute, which has been looked at before it fails.
            town.clock.at += LEAD_SECONDS + GRACE_SECONDS
            await market.gateway.minutes.look()
            assert await lives(connection)
            raise SettlementFailed("The transfer was reverted.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(market.seller.settlement), "settle", lambda _, *a: fail(*a))
            await town.pass_(MINUTE - LEAD_SECONDS)
        until_ = market.rows("SELECT paid_until, started_at FROM stream_session")[0]
        assert until_[0] - until_[1] == MINUTE
        assert (await closed_with(connection))[0] == 4402  # either node may be first to say so
        assert town.charged() == PRICE


async def test_a_minute_whose_money_is_found_not_to_have_come_is_taken_back(
    market: Market, world: World, tmp_path: Path, chain: Any
) -> None:
    policy = BuyingPolicy(prefer=("exact",))
    async with street(market, tmp_path, chain, policy) as town:
        await town.open()

        async def unknown(payment_id: str, timeout: float) -> Any:
            raise SettlementUnknown("Nobody knows yet.")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(market.seller.settlement), "settle", lambda _, *a: unknown(*a))
            await town.pass_(MINUTE - LEAD_SECONDS)
        query = "SELECT paid_until - started_at FROM stream_session"
        assert market.rows(query)[0][0] == 2 * MINUTE
        with writer(market.journal.engine).begin() as rows:
            rows.execute(text("UPDATE onchain_payment SET state = 'failed' WHERE state = 'owed'"))
        assert await undo_unpaid(market.journal) == 1
        assert market.rows(query)[0][0] == MINUTE
        assert town.charged() == PRICE


async def test_events_are_paid_as_they_go_on_and_end_with_the_reason(
    market: Market, world: World, tmp_path: Path, chain: Any
) -> None:
    port, api = free_port(), Events()
    async with serving(api, port), street(market, tmp_path, chain) as town:
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        sell_by_minute(market, f"http://127.0.0.1:{port}/base")
        headers = {"Authorization": f"Bearer {SECRET}", "Accept": "text/event-stream"}
        url = f"{town.proxy.base}/call/api/ticks"
        async with town.proxy.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            lines = answer.aiter_lines()
            assert await anext(lines) == "data: 0"
            for _ in range(3):
                await town.pass_(MINUTE)
            api.next.set()
            assert [await anext(lines) for _ in range(2)] == ["", "data: 1"]
            assert town.charged() == 4 * PRICE
            town.buyer.limit("day", 4 * PRICE)
            await town.proxy.proxy.reload()
            await town.pass_(MINUTE)
            await town.pass_(1)
            rest = [line async for line in lines]
    assert rest[:2] == ["", "event: farebox"]
    assert "limit" in json.loads(rest[2].removeprefix("data: "))["code"]
    assert town.charged() == 4 * PRICE


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
