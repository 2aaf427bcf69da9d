"""Many idle WebSockets: they stay open for an hour and are billed to the second."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from websockets.exceptions import ConnectionClosed

from node.usage.models import Side
from tests.http.conftest import PRICE
from tests.streams.socket_world import SocketMarket

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
SOCKETS = 1_000 if SOAK else 200
HOUR = 3_600


@dataclass
class Compressed:
    """A clock on which an hour passes when the test says so."""

    ahead: int = 0
    base: int = 1_780_000_000

    def __call__(self) -> float:
        return float(self.base + self.ahead)


async def test_idle_sockets_stay_open_for_an_hour_and_are_billed_to_the_second(
    sockets: SocketMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    market, clock = sockets.market, Compressed()
    streams = market.gateway._streams
    for name in ("_clock", "steady"):
        monkeypatch.setattr(streams, name, clock)
    payer = await market.payer(balance=SOCKETS * PRICE)
    required = await market.offer("/v1/api/idle")
    opened = []
    for number in range(SOCKETS):
        voucher = payer.voucher(required, (number + 1) * PRICE)
        opened.append(await sockets.open("idle", voucher))
        clock.ahead += 1  # each a second after the one before
    assert await market.charged(payer) == SOCKETS * PRICE
    for _ in range(HOUR // 15):
        clock.ahead += 15
        await streams.tick()
    assert len(streams.live(Side.SERVED)) == 1
    assert not any(each.close_code for each in opened)
    await asyncio.gather(*(each.close() for each in opened[: SOCKETS // 2]))
    await _until(lambda: len(streams._open) == SOCKETS // 2)
    clock.ahead += 30
    # The other half is ended by the node, cleanly.
    await streams.close_all("node_stopped", 30)
    for each in opened[SOCKETS // 2 :]:
        with pytest.raises(ConnectionClosed) as closed:
            await each.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    await streams.tick()
    seconds = [
        row[0] for row in market.rows("SELECT seconds FROM stream_session ORDER BY started_at")
    ]
    waited = [SOCKETS - number + HOUR for number in range(SOCKETS)]
    assert seconds == [
        each + (30 if number >= SOCKETS // 2 else 0) for number, each in enumerate(waited)
    ]


async def test_plain_calls_are_served_beside_idle_sockets(sockets: SocketMarket) -> None:
    """They cost nothing while nothing is said."""
    market = sockets.market
    payer = await market.payer()
    opened = [await sockets.paid(payer, "idle") for _ in range(20)]
    started = time.perf_counter()
    for _ in range(50):
        assert (await market.client.get(market.url + "/v1/api/x")).status_code == 402
    assert time.perf_counter() - started < 5
    await asyncio.gather(*(each.close() for each in opened))


async def _until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
