"""A stream by the minute whose seller, not one of ours, takes no further minute."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.usage.stream_rows import StreamSession
from tests.chain_fixtures import DevchainProcess
from tests.http.proxy_world import SECRET, BuyerNode, Running, buying
from tests.http.scripted_seller import ScriptedSeller
from tests.streams.compressed import Clock

MINUTE = 60


class MinuteSeller(ScriptedSeller):
    """Sells events by the minute, and refuses the second minute with a problem of this `code`."""

    def __init__(self, code: str) -> None:
        super().__init__("exact")
        self.extensions = {"farebox": {"unit": "minute", "base": "http://seller/all"}}
        self.problem = msgspec.json.encode({"code": code})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/all/.farebox/streams/"):
            length = (b"content-length", b"%d" % len(self.problem))
            await send({"type": "http.response.start", "status": 403, "headers": [length]})
            await send({"type": "http.response.body", "body": self.problem})
            return
        await super().__call__(scope, receive, send)

    async def _answer(self, send: Any, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if status != 200:
            await super()._answer(send, status, headers)
            return
        headers += [(b"content-type", b"text/event-stream"), (b"farebox-stream", b"s1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 0\n\n", "more_body": True})
        await self.hang.wait()


@pytest.mark.parametrize("code", ["x\0y", "€" * 80, "paid_ahead\u202e"])
async def test_whatever_reason_a_seller_gives_is_written_down_and_told(
    tmp_path: Path, chain: DevchainProcess, database_url: str, code: str
) -> None:
    """A text that the database does not take would keep the time of all streams out of it."""
    node, seller = BuyerNode(tmp_path, chain, url=database_url), MinuteSeller(code)
    async with buying(node, seller) as running:
        try:
            row, rest = await _refused(node, running)
        finally:
            seller.hang.set()
    assert (row.reason, row.state) == ("seller_answered_403", "cut")
    assert rest[1:3] == ["event: farebox", 'data: {"code":"seller_answered_403"}']


async def _refused(node: BuyerNode, running: Running) -> tuple[StreamSession, list[str]]:
    """The row of a stream that lived its first minute, and the last it told the app."""
    streams, minutes = running.proxy._streams, running.proxy.minutes
    clock = Clock.of(streams)
    headers = {"authorization": f"Bearer {SECRET}", "accept": "text/event-stream"}
    url = f"{running.base}/call/x/ticks"
    async with asyncio.timeout(20), running.client.stream("GET", url, headers=headers) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "data: 0"
        clock.at += MINUTE - 1
        await minutes.look()
        while any(each.paying for each in minutes._bought.values()):
            await asyncio.sleep(0.01)
        clock.at += 1
        await minutes.look()
        rest = [line async for line in lines]
    await streams.tick()
    (row,) = node.rows(StreamSession)
    return row, rest
