"""Law 3. Only what was delivered is charged; what was not gives its payment back."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Set
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from finance.chain.rpc import Rpc
from finance.selling.channels import SellerChannels
from finance.selling.long_answers import LongAnswer, broken_streams
from finance.selling.mirror import Mirror
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.presence import Presence
from node.gateway import voucher
from tests.hanging_up import impatient
from tests.http.conftest import NETWORK, PRICE, Market, free_port, serving
from tests.http.plans_world import Seller
from tests.laws.minutes import open_stream
from tests.laws.worlds import (
    CHARGED,
    NOWHERE,
    Shop,
    Witness,
    at_first_byte,
    on_disk,
    shared_market,
)
from tests.postgres_server import end_connections
from tests.recovery.cutting_relay import Cut, CuttingRelay

LONG = "/v1/api/stream/40/10000"


async def test_failures_cost_nothing_and_the_voucher_buys_the_next_call(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    failing = ["status/500", "status/404", "redirect", "etag", "break/10", "slow/3"]
    headers = {"if-none-match": '"v1"'}
    for path in failing:
        answer = await market.buy(payer, f"/v1/api/{path}", headers=headers)
        assert answer.status_code >= 300 and "payment-response" not in answer.headers, path
        assert await market.charged(payer) == 0, path
    answer = await market.buy(payer, "/v1/api/echo")
    assert answer.status_code == 200
    assert await market.charged(payer) == PRICE


async def test_a_long_answer_that_breaks_off_is_not_charged(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    with pytest.raises(httpx.RemoteProtocolError):
        await market.buy(payer, "/v1/api/break/400000")
    assert await market.charged(payer) == 0
    assert market.rows("SELECT SUM(amount) FROM ledger_entry") == [(0,)]
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_a_long_answer_whose_caller_takes_nothing_of_it_stays_charged(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads all but its end, until the API waits no longer, would have it for nothing."""
    monkeypatch.setattr(voucher, "STALLED_SECONDS", 0.5)
    async with impatient(32 << 20, 1) as (port, gave_up):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.sell(base=f"http://127.0.0.1:{port}")
        payer, path = await market.payer(), "/v1/api/x"
        headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer(path))}
        async with market.client.stream("GET", market.url + path, headers=headers) as answer:
            assert answer.status_code == 200
            await asyncio.wait_for(gave_up.wait(), 20)
            with pytest.raises(httpx.RemoteProtocolError):
                await answer.aread()
    await asyncio.sleep(0.2)
    assert await market.charged(payer) == PRICE


@pytest.mark.parametrize(("path", "charged"), [("stream/50/20000", PRICE), ("break/400000", 0)])
async def test_a_long_answer_whose_end_cannot_be_written_is_booked_once_it_can(
    market: Market, path: str, charged: int
) -> None:
    def rename(before: str, after: str) -> None:
        with market.journal.engine.begin() as connection:
            for table in ("call", "stored_answer"):
                names = f"{table}{before} RENAME TO {table}{after}"
                connection.exec_driver_sql(f"ALTER TABLE {names}")

    market.sell()
    payer, port = await market.payer(), free_port()
    headers = {"PAYMENT-SIGNATURE": payer.voucher(await market.offer(f"/v1/api/{path}"))}
    async with serving(Witness(market.gateway, lambda: rename("", "_gone")), port):
        url = f"http://127.0.0.1:{port}/v1/api/{path}"
        asking = asyncio.create_task(market.client.get(url, headers=headers))
        await asyncio.sleep(0.7)
        rename("_gone", "")
        await asyncio.gather(asking, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while market.rows("SELECT streaming_atoms FROM seller_channel") != [(0,)]:
                    await asyncio.sleep(0.1)
    assert market.rows("SELECT charged_atoms, streaming_atoms FROM seller_channel") == [
        (charged, 0)
    ]
    payer.charged = charged
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_a_caller_who_left_before_the_first_byte_is_not_charged(market: Market) -> None:
    market.sell()
    payer = await market.payer()
    header = payer.voucher(await market.offer("/v1/api/slow/0.4"))
    async with httpx.AsyncClient(timeout=0.25) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            url = market.url + "/v1/api/slow/0.4"
            await impatient.get(url, headers={"PAYMENT-SIGNATURE": header})
    await asyncio.sleep(0.5)
    assert await market.charged(payer) == 0
    assert (await market.buy(payer, "/v1/api/echo")).status_code == 200


async def test_a_long_answer_cut_by_a_crash_is_not_charged(market: Market, tmp_path: Path) -> None:
    crashed = await _cut_by_a_crash(market, tmp_path)
    assert await _taken_back(crashed, lambda all_: all_) == 1
    assert on_disk(crashed, "SELECT charged_atoms FROM seller_channel") == 0
    assert on_disk(crashed, "SELECT SUM(amount) FROM ledger_entry") == 0


async def test_what_another_process_streams_meanwhile_stays_charged(
    market: Market, tmp_path: Path
) -> None:
    crashed = await _cut_by_a_crash(market, tmp_path)

    def departed(owners: Set[int]) -> Set[int]:
        # The stream that was seen has ended well, and another process has begun the next.
        with sqlite3.connect(crashed) as connection:
            connection.execute("UPDATE seller_channel SET streaming_owner = streaming_owner + 1")
        return owners

    assert await _taken_back(crashed, departed) == 0
    assert on_disk(crashed, "SELECT charged_atoms FROM seller_channel") == PRICE
    assert on_disk(crashed, CHARGED) == PRICE


async def test_a_long_answer_stays_charged_though_the_database_restarts_meanwhile(
    postgres_url: str,
) -> None:
    """Whoever gives it has lost the lock that shows that it lives."""
    async with shared_market(postgres_url) as market:
        engine = open_engine(postgres_url)

        def look() -> list[LongAnswer]:
            end_connections(postgres_url)
            other = Presence(engine)
            other.show()
            broken = broken_streams(engine, other.departed)
            other.leave()
            return broken

        assert await at_first_byte(market, LONG, look) == [[]]
        engine.dispose()
        async with asyncio.timeout(10):
            while market.rows("SELECT streaming_atoms FROM seller_channel") != [(0,)]:
                await asyncio.sleep(0.1)  # its end could not be written at once
        assert market.rows("SELECT charged_atoms FROM seller_channel") == [(PRICE,)]


async def test_what_is_charged_by_a_commit_whose_acknowledgement_is_lost_is_delivered(
    postgres_url: str,
) -> None:
    with CuttingRelay(postgres_url) as relay:
        async with shared_market(relay.url) as market:
            market.sell()
            payer = await market.payer()
            header = payer.voucher(await market.offer("/v1/api/echo"))
            await asyncio.sleep(0.5)  # the offer's own row is written by then
            relay.cut = Cut.AFTER
            url, headers = market.url + "/v1/api/echo", {"PAYMENT-SIGNATURE": header}
            answer = await market.client.get(url, headers=headers)
            assert (answer.status_code, relay.cut) == (200, Cut.NEVER)
            assert await market.charged(payer) == PRICE


async def _cut_by_a_crash(market: Market, folder: Path) -> Path:
    """What a process killed at the first byte of a long answer would leave on the disk."""
    database, crashed = market.journal.engine.url.database, folder / "crashed.db"
    await at_first_byte(market, LONG, lambda: _copy(database, crashed))
    assert on_disk(crashed, "SELECT charged_atoms FROM seller_channel") == PRICE
    return crashed


async def _taken_back(database: Path, departed: Callable[[Set[int]], Set[int]]) -> int:
    engine = open_engine(f"sqlite:///{database}")
    journal = Journal(engine)
    mirror = Mirror(journal, Rpc([NOWHERE], NETWORK.chain_id), NETWORK)
    try:
        return await SellerChannels(journal, mirror).reverse_broken_streams(departed)
    finally:
        journal.close()
        engine.dispose()


def _copy(database: str | None, to: Path) -> None:
    with sqlite3.connect(str(database)) as source, sqlite3.connect(to) as target:
        source.backup(target)


async def test_an_authorization_whose_call_failed_buys_the_next_one(shop: Shop) -> None:
    payment = shop.world.exact(shop.payer())
    async with shop.open_gateway() as url:
        failing = await shop.header(url, payment, "/v1/api/status/500")
        first = await shop.client.get(url + "/v1/api/status/500", headers=failing)
        second = await shop.client.get(url + "/v1/api/echo", headers=failing)
    assert (first.status_code, second.status_code) == (500, 200)
    assert on_disk(shop.world.engine.url.database, "SELECT COUNT(*) FROM onchain_payment") == 1


async def test_a_stream_that_has_ended_is_charged_no_more(market: Market) -> None:
    async with open_stream(market) as stream:
        assert (await stream.pay()).status_code == 200
    await stream.over()
    assert (await stream.pay()).status_code >= 400
    assert await market.charged(stream.payer) == 2 * PRICE


async def test_a_failed_call_is_not_taken_from_the_quota(planned: Seller) -> None:
    customer = await planned.subscribe(planned.plan(calls=1))
    for path in ("status/500", "status/404", "redirect"):
        await planned.call(customer, f"/v1/api/{path}")
    assert (await planned.call(customer)).status_code == 200
    await planned.market.settled()
    assert planned.rows("SELECT used FROM quota_usage") == [(1,)]
