"""Long answers to calls whose money moves on the chain: they wait for it outside of memory."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import httpx
import pytest

from finance.x402.wire import decode_response
from node.gateway import desk, spool
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import Market, open_market
from tests.http.test_gateway_onchain import get, header
from tests.recovery.seller_world import Payer, World

MIB = 1 << 20
CHUNK = 64 * 1024
SOAK = os.environ.get("FAREBOX_SOAK") == "1"
# The bound is for the API and the callers too, which pass every byte once more: well below
# what the answers are together.
CALLERS, ANSWER_MIB, BOUND_MIB = (32, 10, 160) if SOAK else (16, 5, 60)


@pytest.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[World]:
    async with World(chain, tmp_path) as world:
        yield world
        world.assert_books_balance()


@pytest.fixture
async def market(world: World) -> AsyncIterator[Market]:
    async with open_market(
        world.store,
        world.wallet.address_bytes,
        world.receiver.address_bytes,
        channels=world.channels,
        checks=world.checks,
        settlement=world.settlement,
        refunds=world.refunds,
        max_timeout_seconds=60,
        spool_bytes=ANSWER_MIB * MIB,
    ) as market:
        market.client.timeout = httpx.Timeout(60)
        market.sell()
        yield market


def long_path(size: int) -> str:
    return f"/v1/api/stream/{size // CHUNK}/{CHUNK}"


def memory() -> int:
    """Of this process, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def highest_memory(work: Awaitable[object]) -> int:
    """While `work` lasts, bytes above what it was before."""
    before, highest = memory(), 0
    task = asyncio.ensure_future(work)
    while not task.done():
        highest = max(highest, memory() - before)
        await asyncio.sleep(0.01)
    await task
    return highest


async def read_away(market: Market, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """How much came, keeping none of it, and what the payment did."""
    size = 0
    async with market.client.stream("GET", market.url + path, headers=headers) as answer:
        assert answer.status_code == 200
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
    return size, answer.headers["payment-response"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
async def test_many_long_answers_at_once_do_not_fill_the_memory(
    market: Market, world: World
) -> None:
    path, size = long_path(ANSWER_MIB * MIB), ANSWER_MIB * MIB
    offer = await market.offer(path)
    payments = [header(offer, world.exact(Payer(world.chain))) for _ in range(CALLERS + 1)]
    assert (await read_away(market, path, payments.pop()))[0] == size
    answers: list[tuple[int, str]] = []

    async def buy() -> None:
        answers.extend(await asyncio.gather(*(read_away(market, path, p) for p in payments)))

    assert await highest_memory(buy()) < BOUND_MIB * MIB
    assert [came for came, _ in answers] == [size] * CALLERS
    assert all(decode_response(receipt).success for _, receipt in answers)
    assert market.gateway._desk.room.taken == 0


async def test_a_long_answer_is_given_again_byte_for_byte(market: Market, world: World) -> None:
    path = long_path(MIB)
    headers = header(await market.offer(path), world.exact(Payer(world.chain)))
    first, again = await get(market, headers, path), await get(market, headers, path)
    assert len(first.content) == MIB == int(first.headers["content-length"])
    assert again.content == first.content and again.status_code == 200
    assert market.upstream.total == 1
    booked = market.rows("SELECT bytes_out, status FROM call WHERE amount_atoms > 0")
    assert [tuple(row) for row in booked] == [(MIB, 200)]


async def test_an_answer_that_no_file_takes_leaves_its_room_to_others(
    market: Market, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    headers = header(await market.offer(long_path(MIB)), world.exact(Payer(world.chain)))
    assert (await get(market, headers, long_path(MIB))).status_code == 500
    assert market.gateway._desk.room.taken == 0
    monkeypatch.undo()
    assert (await get(market, headers, long_path(MIB))).status_code == 200


@pytest.mark.parametrize("room", [MIB // 2, None])
async def test_what_has_no_room_costs_nothing_and_can_be_bought_later(
    market: Market, world: World, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    size = MIB if room else (ANSWER_MIB + 1) * MIB
    monkeypatch.setattr(market.gateway._desk, "room", desk.Room(room or desk.MAX_WAITING_BYTES))
    headers = header(await market.offer(long_path(size)), world.exact(Payer(world.chain)))
    refused = await get(market, headers, long_path(size))
    assert refused.status_code == (503 if room else 502)
    assert refused.json()["code"] == ("too_many_long_answers" if room else "answer_too_large")
    assert market.rows("SELECT 1 FROM onchain_payment WHERE state <> 'released'") == []
    assert market.gateway._desk.room.taken == 0
    market.gateway._desk.room = desk.Room()
    if room:
        assert len((await get(market, headers, long_path(size))).content) == size


async def test_a_caller_that_takes_nothing_of_its_answer_leaves_its_room_to_others(
    market: Market, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "TAKE_SECONDS", 0.5)
    room, path = market.gateway._desk.room, long_path(ANSWER_MIB * MIB)
    headers = header(await market.offer(path), world.exact(Payer(world.chain)))
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", int(market.url.rpartition(":")[2])))
        lines = [f"GET {path} HTTP/1.1", "host: a", *(f"{k}: {v}" for k, v in headers.items())]
        line.send("\r\n".join([*lines, "", ""]).encode())
        async with asyncio.timeout(30):
            while room.taken < ANSWER_MIB * MIB:
                await asyncio.sleep(0.05)
            while room.taken:
                await asyncio.sleep(0.05)
    again = await get(market, headers, path)
    assert (again.status_code, len(again.content)) == (200, ANSWER_MIB * MIB)
    assert market.upstream.total == 1
