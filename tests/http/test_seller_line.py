"""The line to a seller: what may have been served is never taken for never sent."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

from node.egress import EgressPolicy
from node.lines import pool
from node.proxy.errors import SellerFailed
from node.proxy.seller import NotSent, SellerClient

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_seller_that_dies_over_a_kept_connection_may_have_charged() -> None:
    """A second try on a new connection that is refused must not hide the first: its signature
    left, and signing another would pay twice."""
    heads: list[bytes] = []

    async def answer_once_then_die(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_ANSWER)
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        server.close()
        writer.transport.abort()

    server = await asyncio.start_server(answer_once_then_die, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    client = SellerClient(EgressPolicy(["127.0.0.1"]))
    await client.start()
    try:
        async with await client.send("GET", url, [], None) as first:
            assert await first.read() == b"ok"
        with pytest.raises(SellerFailed):
            await client.send("GET", url, [(b"PAYMENT-SIGNATURE", b"signed")], None)
        assert b"PAYMENT-SIGNATURE: signed" in heads[1]
        with pytest.raises(NotSent):
            await client.send("GET", url, [], None)
    finally:
        await client.stop()


async def test_seller_whose_name_leads_inside_once_it_was_asked_may_have_charged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the signature over a kept connection and hangs up; by then its name has an address
    nobody may connect to. That was no request which never left."""
    monkeypatch.setattr(pool, "DNS_SECONDS", 0)
    egress, heads = EgressPolicy(), list[bytes]()
    egress.allow_also(["localhost"])

    async def answer_once_then_lead_inside(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(_ANSWER)
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        egress.allow_also([])
        writer.transport.abort()

    server = await asyncio.start_server(answer_once_then_lead_inside, "127.0.0.1", 0)
    url = URL(f"http://localhost:{server.sockets[0].getsockname()[1]}/")
    client = SellerClient(egress)
    await client.start()
    try:
        async with await client.send("GET", url, [], None) as first:
            assert await first.read() == b"ok"
        with pytest.raises(SellerFailed):
            await client.send("GET", url, [(b"PAYMENT-SIGNATURE", b"signed")], None)
        assert b"PAYMENT-SIGNATURE: signed" in heads[1]
    finally:
        await client.stop()
        server.close()
