"""Addresses typed in by people lead nowhere inside: not to this machine, not to its network.

What must not be reached is a real server on loopback that counts its visitors.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from finance.models import PurchaseState
from node.egress import EgressPolicy, EgressRefused, open_session
from node.proxy.errors import RequestRefused
from node.proxy.seller import NotSent, SellerClient
from tests.chain_fixtures import DevchainProcess
from tests.http.conftest import Market
from tests.http.proxy_world import BuyerNode, served
from tests.http.scripted_seller import ScriptedSeller

PUBLIC = "93.184.215.14"
NOT_PUBLIC = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",  # carrier-grade NAT
    "169.254.169.254",  # cloud metadata
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fc00::1",
    "fd00:ec2::254",  # cloud metadata
    "fe80::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:7f00:1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2001:0:5ef5:79fd:0:0:80ff:fffe",  # Teredo
    "fec0::1",  # site-local, as networks still have it
    "::7f00:1",  # 127.0.0.1, as it was once written in IPv6
    "::ffff:0:7f00:1",  # a translator's 127.0.0.1
    "64:ff9b:1::7f00:1",  # and another's
]
# What resolvers of most systems take for 127.0.0.1, beside its name.
OTHER_FORMS = [
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.1",
    "127.0.1",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "LOCALHOST",
]


class Inside:
    """A service that only this machine should reach."""

    def __init__(self) -> None:
        self.visitors: list[bytes] = []

    @contextlib.asynccontextmanager
    async def listening(self, host: str = "127.0.0.1") -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, host, 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nsecret")
        await writer.drain()
        writer.close()


@pytest.fixture
async def inside() -> AsyncIterator[tuple[Inside, int]]:
    service = Inside()
    async with service.listening() as port:
        yield service, port


@contextlib.asynccontextmanager
async def seller_client(*allowed: str) -> AsyncIterator[SellerClient]:
    client = SellerClient(EgressPolicy(allowed), connect_seconds=0.3)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


Resolver = Callable[[list[str]], list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """The system's resolver, answering `*.test` names with one list after the other."""
    real, answers, asked = socket.getaddrinfo, [], []

    def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".test"):
            return real(host, port, *rest, **more)
        asked.append(host)
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [each for a in addresses for each in real(a, port, 0, socket.SOCK_STREAM)]

    def answer(*lists: Any) -> list[str]:
        answers[:] = lists
        return asked

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answer


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_literals_of_private_ranges_are_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(EgressRefused):
        EgressPolicy().check_url(URL(f"http://{host}/"))
    with pytest.raises(EgressRefused):
        EgressPolicy().check_address("some.name", 80, address)


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_addresses_are_not(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    EgressPolicy().check_url(URL(f"http://{host}/"))
    EgressPolicy().check_address("some.name", 80, address)


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "ws", "unix"])
def test_other_schemes_are_refused(scheme: str) -> None:
    with pytest.raises(EgressRefused):
        EgressPolicy(["93.184.215.14"]).check_url(URL(f"{scheme}://{PUBLIC}/etc/passwd"))


@pytest.mark.parametrize("form", OTHER_FORMS)
async def test_loopback_written_otherwise_is_not_reached(
    form: str, inside: tuple[Inside, int]
) -> None:
    service, port = inside
    url = URL(f"http://{form}:{port}/")
    async with seller_client() as client:
        with pytest.raises((RequestRefused, NotSent)):
            client.check(url)
            await client.send("GET", url, [(b"PAYMENT-SIGNATURE", b"signed")], None)
    assert not service.visitors


async def test_a_host_the_operator_allows_is_reached_and_no_other_port(
    inside: tuple[Inside, int],
) -> None:
    service, port = inside
    async with seller_client(f"localhost:{port}") as client:
        url = URL(f"http://localhost:{port}/")
        client.check(url)
        async with await client.send("GET", url, [], None) as answer:
            assert await answer.read() == b"secret"
        with pytest.raises(RequestRefused):
            await client.send("GET", URL(f"http://localhost:{port + 1}/"), [], None)
    assert len(service.visitors) == 1


@pytest.mark.parametrize("form", ["[::1]:{port}", "[::1]", "::1"])
async def test_an_ipv6_address_the_operator_allows_is_reached(form: str) -> None:
    service = Inside()
    async with service.listening("::1") as port, seller_client(form.format(port=port)) as client:
        url = URL(f"http://[::1]:{port}/")
        client.check(url)
        async with await client.send("GET", url, [], None) as answer:
            assert await answer.read() == b"secret"
        if "port" in form:
            with pytest.raises(RequestRefused):
                client.check(URL(f"http://[::1]:{port + 1}/"))
    assert len(service.visitors) == 1


async def test_name_with_one_private_address_is_refused_whole(
    names: Resolver, inside: tuple[Inside, int]
) -> None:
    service, port = inside
    names([PUBLIC, "127.0.0.1"])
    async with seller_client() as client:
        with pytest.raises(RequestRefused) as refused:
            await client.send("GET", URL(f"http://two-faced.test:{port}/"), [], None)
    assert refused.value.code == "address_refused"
    assert not service.visitors


async def test_name_that_changes_its_mind_is_asked_once_and_connected_to_as_checked(
    names: Resolver, inside: tuple[Inside, int]
) -> None:
    """DNS rebinding: public when checked, loopback when connected to."""
    service, port = inside
    asked = names([PUBLIC], ["127.0.0.1"])
    async with seller_client() as client:
        url = URL(f"http://rebinding.test:{port}/")
        client.check(url)
        with pytest.raises((NotSent, RequestRefused)):
            await client.send("GET", url, [], None)
        assert asked == ["rebinding.test"]
    async with seller_client() as client:
        with pytest.raises(RequestRefused):
            await client.send("GET", url, [], None)
    assert not service.visitors


async def test_no_proxy_of_the_environment_decides_where_a_name_leads(
    monkeypatch: pytest.MonkeyPatch, inside: tuple[Inside, int]
) -> None:
    service, port = inside
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    async with open_session(EgressPolicy()) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://localhost:{port}/", allow_redirects=False)
    assert not service.visitors


@pytest.mark.parametrize("form", ["127.0.0.1", "localhost", "2130706433"])
async def test_listing_that_points_inside_is_not_served_and_not_charged(
    market: Market, inside: tuple[Inside, int], form: str
) -> None:
    service, port = inside
    market.sell("api", base=f"http://{form}:{port}")
    payer = await market.payer()
    answer = await market.buy(payer, "/v1/api/anything")
    assert answer.status_code in (502, 503, 504), answer.text
    assert b"secret" not in answer.content
    assert await market.charged(payer) == 0
    assert not service.visitors


class Redirecting(ScriptedSeller):
    """Asks for payment, and sends whoever pays somewhere else."""

    def __init__(self, status: int, location: str) -> None:
        super().__init__("exact")
        self.status, self.location = status, location.encode()

    async def _answer(self, send: Any, status: int, headers: Any) -> None:
        if status < 400:
            status, headers = self.status, [(b"location", self.location)]
        await super()._answer(send, status, headers)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_payment_is_never_carried_to_where_a_seller_redirects(
    tmp_path: Path, chain: DevchainProcess, inside: tuple[Inside, int], status: int
) -> None:
    service, port = inside
    node, seller = BuyerNode(tmp_path, chain), Redirecting(status, f"http://127.0.0.1:{port}/")
    async with served(seller) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answer = await proxy.call("x/y")
    assert answer.status_code == status
    assert len(seller.seen) == 1
    assert not service.visitors


async def test_bought_address_inside_is_refused_before_anything_is_signed(
    tmp_path: Path, chain: DevchainProcess, inside: tuple[Inside, int]
) -> None:
    service, port = inside
    node = BuyerNode(tmp_path, chain)
    # The test's node allows 127.0.0.1 and localhost, and nothing else.
    for slug, host in (("a", "127.0.0.2"), ("b", "2130706433"), ("c", "[::ffff:127.0.0.1]")):
        node.list(slug, f"http://{host}:{port}")
    async with node.running() as proxy:
        answers = [await proxy.call(f"{slug}/y") for slug in "abc"]
    assert [answer.json()["code"] for answer in answers] == ["address_refused"] * 3
    assert not service.visitors
    assert not [row for row in node.purchases if row.state != PurchaseState.FAILED]
