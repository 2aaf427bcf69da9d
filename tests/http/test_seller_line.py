"""The line to a seller: what may have been served is never taken for never sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from node.egress import EgressPolicy
from node.lines import pool
from node.proxy.errors import RequestRefused, SellerFailed
from node.proxy.seller import NotSent, SellerClient
from tests.hanging_up import hanging_up

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def _hung_up_on(
    egress: EgressPolicy, host: str, then: Callable[[asyncio.Server], None]
) -> AsyncIterator[tuple[SellerClient, URL]]:
    """A client whose signed request its seller took and never answered; the seller's address."""
    client = SellerClient(egress)
    await client.start()
    try:
        async with hanging_up(_ANSWER, then) as (port, heads):
            url = URL(f"http://{host}:{port}/")
            async with await client.send("GET", url, [], None) as first:
                assert await first.read() == b"ok"
            with pytest.raises(SellerFailed):
                await client.send("GET", url, [(b"PAYMENT-SIGNATURE", b"signed")], None)
            assert b"PAYMENT-SIGNATURE: signed" in heads[1]
            yield client, url
    finally:
        await client.stop()


async def test_seller_that_dies_over_a_kept_connection_may_have_charged() -> None:
    """A second try on a new connection that is refused must not hide the first: its signature
    left, and signing another would pay twice."""
    egress = EgressPolicy(["127.0.0.1"])
    async with _hung_up_on(egress, "127.0.0.1", asyncio.Server.close) as (client, url):
        with pytest.raises(NotSent):
            await client.send("GET", url, [], None)


async def test_seller_whose_name_leads_inside_once_it_was_asked_may_have_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the signature over a kept connection and hangs up; by then its name has an address
    nobody may connect to. That was no request which never left."""
    monkeypatch.setattr(pool, "DNS_SECONDS", 0)
    egress = EgressPolicy()
    egress.allow_also(["localhost"])
    async with _hung_up_on(egress, "localhost", lambda _: egress.allow_also([])) as (client, url):
        with pytest.raises(RequestRefused):
            await client.send("GET", url, [], None)
