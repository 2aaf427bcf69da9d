"""Bodies on their way through the proxy, both ways at once, and apps that leave meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from node.proxy import seller as proxy_seller
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import SECRET, BuyerNode, buying, served
from tests.http.scripted_seller import ScriptedSeller

HEADERS = {"authorization": f"Bearer {SECRET}"}
EVENTS = (b"content-type", b"text/event-stream")
UPLOAD = 8 << 20


class Talker:
    """A free API: `/up` says that it has begun, then how much it was sent; anything else goes on
    until its caller leaves."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/up":
            await self._take(receive, send)
        else:
            await self._go_on(receive, send)

    async def _take(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"%d" % size})

    async def _go_on(self, receive: Any, send: Any) -> None:
        await receive()
        leaving = asyncio.create_task(receive())
        for _ in range(500):
            await send({"type": "http.response.body", "body": b"more", "more_body": True})
            await asyncio.wait({leaving}, timeout=0.02)
            if leaving.done():
                self.left.set()
                break
        leaving.cancel()
        await send({"type": "http.response.body", "body": b""})


class Ticker(ScriptedSeller):
    """Sells events: one, and another once `hang` is set."""

    async def _answer(self, send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if status != 200:
            return await super()._answer(send, status, headers)
        start = {"type": "http.response.start", "status": 200, "headers": [*headers, EVENTS]}
        await send(start)
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await self.hang.wait()
        return await send({"type": "http.response.body", "body": b"data: 2\n\n"})


async def test_an_answer_that_begins_before_the_request_has_left_arrives_whole(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node = BuyerNode(tmp_path, chain)
    async with served(Talker()) as base:
        node.list("x", base)
        async with node.running() as proxy:
            answer = await proxy.call("x/up", "POST", content=b"x" * UPLOAD)
    assert answer.text == f"begun {UPLOAD}"


class Dripping(ScriptedSeller):
    """Its answers come byte by byte."""

    async def _answer(self, send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if status != 200:
            await super()._answer(send, status, headers)
            return
        headers = [*headers, (b"content-length", b"100000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(500):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.02)
            if self.hang.is_set():
                return


@pytest.mark.parametrize("key", [None, "k"])
async def test_an_answer_that_comes_drop_by_drop_holds_no_channel(
    chain: DevchainProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Else its seller could keep the money in there from being taken back."""
    node, seller = BuyerNode(tmp_path, chain), Dripping()
    monkeypatch.setattr(proxy_seller, "START_SECONDS", 0.2)
    headers = HEADERS if key is None else {**HEADERS, "idempotency-key": key}
    async with buying(node, seller) as proxy:
        url = f"{proxy.base}/call/x/y"
        async with proxy.client.stream("GET", url, headers=headers) as answer:
            assert (answer.status_code, answer.headers["content-length"]) == (200, "100000")
            (channel,) = node.channels
            held = proxy.proxy.buyer.pools.find(channel.channel_id)
            assert held is not None and not held.busy and held.charged == 1000
            assert await anext(answer.aiter_raw())
        seller.hang.set()
    assert [row.state for row in node.purchases] == ["paid"]


async def test_a_seller_is_let_go_when_the_app_leaves_a_long_answer(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, api = BuyerNode(tmp_path, chain), Talker()
    async with served(api) as base:
        node.list("x", base)
        async with node.running() as proxy:
            url = f"{proxy.base}/call/x/on"
            async with proxy.client.stream("GET", url, headers=HEADERS) as answer:
                assert await anext(answer.aiter_raw())
            async with asyncio.timeout(5):
                await api.left.wait()


async def test_events_asked_for_under_an_idempotency_key_come_as_they_happen(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), Ticker()
    async with buying(node, seller) as proxy:
        url, headers = f"{proxy.base}/call/x/y", {**HEADERS, "idempotency-key": "k"}
        opening = proxy.client.stream("GET", url, headers=headers, timeout=5)
        try:
            async with opening as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "data: 1"
                seller.hang.set()
                assert [line async for line in lines] == ["", "data: 2", ""]
        finally:
            seller.hang.set()
        again = await proxy.call("x/y", key="k")
        assert (again.status_code, again.json()["code"]) == (409, "answer_not_kept")
    assert len(seller.seen) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("{base}/api/b?q=1", "/call/x/b?q=1"),
        ("/api/b", "/call/x/b"),
        ("c", "/call/x/a/c"),
        ("{base}/api", "/call/x"),
        ("{base}/apis", "{base}/apis"),
        ("https://elsewhere.example/", "https://elsewhere.example/"),
        ("http://[broken", "http://[broken"),
    ],
)
async def test_a_redirect_of_a_seller_leads_through_the_proxy_again(
    tmp_path: Path, chain: DevchainProcess, said: str, told: str
) -> None:
    async def away(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"location", said.format(base=base).encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 302, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    node = BuyerNode(tmp_path, chain)
    async with served(away) as base, node.running() as proxy:
        node.list("x", f"{base}/api")
        await proxy.proxy.reload()
        answer = await proxy.call("x/a/b")
    assert answer.status_code == 302
    assert answer.headers["location"] == told.format(base=base)


async def test_an_address_with_a_slash_at_its_end_is_called_with_it(
    tmp_path: Path, chain: DevchainProcess
) -> None:
    node, seller = BuyerNode(tmp_path, chain), ScriptedSeller()
    async with buying(node, seller) as proxy, served(seller) as base:
        node.list("shop", base + "/paid/")
        await proxy.proxy.reload()
        for path in ("shop", "shop/", "shop/a", "shop?q=1"):
            assert (await proxy.call(path)).status_code == 200
    paths = [path for _, path, _ in seller.requests]
    assert list(dict.fromkeys(paths)) == ["/paid/", "/paid/a"]
