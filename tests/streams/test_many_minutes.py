"""Many streams by the minute at once: each is paid, billed and ended by its own clock."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from catalog.models import PriceUnit
from node.gateway.stream_minutes import GRACE_SECONDS
from node.usage.models import Side
from tests.http.conftest import PRICE, Market, Payer
from tests.streams.compressed import Clock
from tests.streams.socket_world import socket_market

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
SOCKETS, MINUTES = (300, 60) if SOAK else (20, 4)
MINUTE = 60


async def test_of_many_streams_those_that_are_paid_go_on_and_the_others_end(
    market: Market,
) -> None:
    async with socket_market(market, price_unit=PriceUnit.MINUTE) as sockets:
        clock = Clock.of(market.gateway._streams)
        payers = [await market.payer(seed % 250 + 1) for seed in range(min(SOCKETS, 250))]
        opened: list[tuple[Any, Payer, str]] = []
        for number in range(SOCKETS):
            payer = payers[number % len(payers)]
            connection = await sockets.paid(payer, "idle")
            opened.append((connection, payer, connection.response.headers["farebox-stream"]))
        half = SOCKETS // 2
        for _ in range(MINUTES):
            for _, payer, stream in opened[:half]:
                path = f"/v1/api/.farebox/streams/{stream}"
                assert (await market.buy(payer, path, "POST")).status_code == 200
            clock.at += MINUTE
            await market.gateway.minutes.look()
            await market.gateway._streams.tick()
        clock.at += GRACE_SECONDS
        await market.gateway.minutes.look()
        await _until(lambda: market.gateway._streams.live(Side.SERVED).total() == half)
        for connection, _, _ in opened[half:]:
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 4402
        assert not any(connection.close_code for connection, _, _ in opened[:half])
        await asyncio.gather(*(connection.close() for connection, _, _ in opened[:half]))
        await _until(lambda: not market.gateway._streams._open)
        await market.gateway._streams.tick()
        charged = [await market.charged(payer) for payer in payers]
        assert sum(charged) == (SOCKETS + half * MINUTES) * PRICE
        rows = market.rows("SELECT reason, seconds, COUNT(*) FROM stream_session GROUP BY 1, 2")
        whole = MINUTES * MINUTE + GRACE_SECONDS
        # Looked at once a minute, so unpaid ones end with the second look.
        assert {(row[0], row[1], row[2]) for row in rows} == {
            ("caller_closed", whole, half),
            ("payment_due", 2 * MINUTE, SOCKETS - half),
        }


async def _until(condition: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
