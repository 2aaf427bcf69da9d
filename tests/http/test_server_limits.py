"""What a caller sends before, between and after bodies is limited, and so is its time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from node import server
from node.server import MAX_HEAD_BYTES, make_server

POST = b"POST / HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


class App:
    """Answers with how long the body was; `left` counts those who did not send all of it."""

    def __init__(self) -> None:
        self.left = 0
        self.answers_at_once = False
        self.headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size, more, self.headers = 0, True, scope["headers"]
        if self.answers_at_once:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        if not self.answers_at_once:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})


@pytest.fixture
async def app() -> AsyncIterator[tuple[App, int]]:
    app, listener = App(), socket.create_server(("127.0.0.1", 0))
    serving = make_server(app, 1)
    task = asyncio.create_task(serving.serve(sockets=[listener]))
    while not serving.started:
        await asyncio.sleep(0.005)
    yield app, listener.getsockname()[1]
    serving.should_exit = serving.force_exit = True
    await task
    listener.close()


async def told(port: int, first: bytes, again: bytes = b"", most: int = 64 << 20) -> bytes:
    """What the server says until it closes the line, while `again` is sent again and again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)

    async def go_on() -> None:
        for _ in range(most // len(again) if again else 0):
            writer.write(again)
            await writer.drain()

    sending = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(20):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert sending.cancelled() or isinstance(sending.exception(), OSError) or not again
        writer.close()


@pytest.mark.parametrize(
    ("first", "again"),
    [(POST, b"x: " + b"y" * 8_000 + b"\r\n"), (b"GET /", b"y" * 8_000), (POST, b"x:y\r\n" * 999)],
)
async def test_a_head_without_end_is_cut_off(
    app: tuple[App, int], first: bytes, again: bytes
) -> None:
    answer = await told(app[1], first, again)
    assert answer.startswith(b"HTTP/1.1 431 ") or not answer  # reset before it was read


@pytest.mark.parametrize(
    "first", [CHUNKED + b"1\r\na\r\n0\r\nx: ", CHUNKED + b"1;x=", CHUNKED + b"0\r\n"]
)
async def test_what_is_no_body_does_not_go_on_for_ever(app: tuple[App, int], first: bytes) -> None:
    again = b"x: y\r\n" * 999 if first.endswith(b"0\r\n") else b"y" * 8_000
    assert not (await told(app[1], first, again)).startswith(b"HTTP/1.1 200")
    assert app[0].left == 1


async def test_long_bodies_and_many_requests_on_one_line_have_no_such_limit(
    app: tuple[App, int],
) -> None:
    size = 4 * MAX_HEAD_BYTES
    long = POST + b"content-length: %d\r\n\r\n" % size + bytes(size)
    chunks = CHUNKED + b"1\r\na\r\n" * MAX_HEAD_BYTES + b"0\r\n\r\n"
    head = POST + b"x: " + b"y" * (MAX_HEAD_BYTES // 2) + b"\r\ncontent-length: 0\r\n\r\n"
    last = POST + b"connection: close\r\ncontent-length: 0\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", app[1])
    for request in (long, chunks, head, head, head):
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        chunk = await reader.readuntil(b"0\r\n\r\n")
        assert chunk
    writer.write(last)
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_head_that_does_not_come_ends_the_line(
    app: tuple[App, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    for first in (b"", POST):
        begun = time.monotonic()
        answer = await told(app[1], first)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert 0.2 < time.monotonic() - begun < 10
    # Also of the second request on a line.
    reader, writer = await asyncio.open_connection("127.0.0.1", app[1])
    writer.write(POST + b"content-length: 0\r\n\r\n" + POST)
    assert b" 408 " in await reader.read(-1)
    writer.close()


@pytest.mark.parametrize("request_", [POST + b"content-length: 9\r\n\r\n", CHUNKED + b"1\r\na\r\n"])
async def test_a_body_that_does_not_come_ends_the_line(
    app: tuple[App, int], monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    assert (await told(app[1], request_)).startswith(b"HTTP/1.1 408 ")
    assert app[0].left == 1


async def test_a_body_takes_its_time_while_something_comes(
    app: tuple[App, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 2.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", app[1])
    writer.write(POST + b"content-length: 30\r\n\r\n")
    for _ in range(30):
        await asyncio.sleep(0.1)
        writer.write(b"x")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_body_that_is_answered_already_takes_its_time(
    app: tuple[App, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    app[0].answers_at_once = True
    reader, writer = await asyncio.open_connection("127.0.0.1", app[1])
    writer.write(POST + b"content-length: 2\r\n\r\nx")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(1)
    writer.write(b"x")
    assert await reader.readuntil(b"0\r\n\r\n") == b"1\r\n2\r\n0\r\n\r\n"
    writer.close()


async def test_a_trailer_passes_for_no_header(app: tuple[App, int]) -> None:
    whole = CHUNKED + b"3\r\nabc\r\n0\r\nhost: b\r\nfarebox-key: k\r\n\r\n"
    closing = whole.replace(b"host: a", b"host: a\r\nconnection: close", 1)
    assert b"\r\n3\r\n" in await told(app[1], closing)
    assert {name for name, _ in app[0].headers} == {b"host", b"connection", b"transfer-encoding"}
    assert dict(app[0].headers)[b"host"] == b"a"
