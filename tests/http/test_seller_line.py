"""The line to a seller: what may have been served is never taken for never sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from yarl import URL

from node.egress import EgressPolicy
from node.lines import pool
from node.proxy.errors import RequestRefused, SellerFailed
from node.proxy.seller import NotSent, SellerClient

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class _Seller:
    """One that hangs up over the second request of a connection, once it has read it."""

    then: Callable[[], None]
    """Called before it hangs up."""
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_ANSWER)
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        self.then()
        writer.transport.abort()


@asynccontextmanager
async def _hung_up_on(
    egress: EgressPolicy, host: str, then: Callable[[asyncio.Server], None]
) -> AsyncIterator[tuple[SellerClient, URL]]:
    """A client whose signed request its seller took and never answered; the seller's address."""
    seller = _Seller(lambda: then(server))
    server = await asyncio.start_server(seller.serve, "127.0.0.1", 0)
    url = URL(f"http://{host}:{server.sockets[0].getsockname()[1]}/")
    client = SellerClient(egress)
    await client.start()
    try:
        async with await client.send("GET", url, [], None) as first:
            assert await first.read() == b"ok"
        with pytest.raises(SellerFailed):
            await client.send("GET", url, [(b"PAYMENT-SIGNATURE", b"signed")], None)
        assert b"PAYMENT-SIGNATURE: signed" in seller.heads[1]
        yield client, url
    finally:
        await client.stop()
        server.close()


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
