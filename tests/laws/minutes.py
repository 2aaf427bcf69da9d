"""Events that a gateway sells by the minute, on a clock that a test turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import httpx

from catalog.models import PriceUnit
from tests.http.conftest import Market, Payer, free_port, serving
from tests.streams.compressed import Clock
from tests.streams.test_gateway_events import Events


@dataclass
class Minutes:
    """One open stream, `name`, and who pays for it."""

    market: Market
    clock: Clock
    payer: Payer
    answer: httpx.Response

    @property
    def name(self) -> str:
        return self.answer.headers["farebox-stream"]

    async def pay(self) -> httpx.Response:
        """One minute more, whatever is said of it."""
        path = f"/v1/api/.farebox/streams/{self.name}"
        unpaid = await self.market.client.post(self.market.url + path)
        if unpaid.status_code != 402:
            return unpaid
        return await self.market.buy(self.payer, path, "POST")

    async def pass_(self, seconds: int) -> None:
        self.clock.at += seconds
        await self.market.gateway.minutes.look()

    def set_wall_clock(self, ahead: int) -> None:
        """From now on nothing of it passes."""
        self.market.gateway._streams._clock = Clock(self.clock.at + ahead)

    @property
    def goes_on(self) -> bool:
        stream = self.market.gateway._streams.find(self.name)
        return stream is not None and stream.goes_on

    async def ends(self) -> bool:
        """Whether the stream is over within a moment."""
        try:
            async with asyncio.timeout(1):
                async for _ in self.answer.aiter_raw():
                    pass
        except TimeoutError:
            return False
        return True

    async def over(self) -> None:
        """Wait until the gateway knows that it is."""
        while self.market.gateway._streams.find(self.name) is not None:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def open_stream(
    market: Market, plan: Mapping[str, str] | None = None
) -> AsyncIterator[Minutes]:
    """Of the only listing. Opened with a voucher, or as a call of whoever shows a `plan`'s key."""
    port = free_port()
    async with serving(Events(), port):
        market.seller.egress.allow_also([f"127.0.0.1:{port}"])
        market.listings.clear()
        market.sell(base=f"http://127.0.0.1:{port}/base", price_unit=PriceUnit.MINUTE)
        clock, payer = Clock.of(market.gateway._streams), await market.payer()
        pay = plan or {"PAYMENT-SIGNATURE": payer.voucher(await market.offer("/v1/api/ticks"))}
        headers = {**pay, "Accept": "text/event-stream"}
        url = market.url + "/v1/api/ticks"
        async with market.client.stream("GET", url, headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            payer.charged = await market.charged(payer)
            yield Minutes(market, clock, payer, answer)
