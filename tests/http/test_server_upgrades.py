"""Whoever asks for another protocol is served by the one there is, or told why not."""

from __future__ import annotations

import asyncio

import pytest

from tests.http.test_server_limits import CHUNKED, POST, App, told
from tests.http.test_server_limits import app as app

# As Java's HttpClient sends it with every request to http://, and `curl --http2`.
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAAA\r\n"
KEPT = b"connection: keep-alive\r\n"
WEBSOCKET = (
    b"GET /v1/api HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (POST + H2C + b"content-length: 5\r\n\r\n", b"hello"),
        (CHUNKED.replace(b"host", H2C + b"host"), b"5\r\nhello\r\n0\r\n\r\n"),
        (POST + H2C + KEPT + b"content-length: 5\r\n\r\n", b"hello"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_arrives_though_another_protocol_was_wished_for(
    app: tuple[App, int], head: bytes, body: bytes, at_once: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", app[1])
    for _ in range(2):  # on one line
        for part in (head + body,) if at_once else (head[:40], head[40:], body):
            writer.write(part)
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n5\r\n0\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    "last", [POST + b"connection: close\r\n", POST.replace(b"HTTP/1.1", b"HTTP/1.0")]
)
async def test_so_does_the_body_of_the_last_request_on_a_line(
    app: tuple[App, int], last: bytes
) -> None:
    answer = await told(app[1], last + H2C + b"content-length: 5\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 200") and b"\r\n5\r\n" in answer


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (b"x: " + b"y" * 9_000 + b"\r\n", b"431"),
        (b"x: y\r\n" * 130, b"431"),
        (b"content-length: 5\r\n", b"400"),
    ],
)
async def test_a_handshake_that_cannot_be_read_is_answered(
    app: tuple[App, int], more: bytes, status: bytes
) -> None:
    answer = await told(app[1], WEBSOCKET + more + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_a_handshake_is_one_though_its_connection_has_two_lines(app: tuple[App, int]) -> None:
    """Else it were served, and charged, as a plain GET."""
    answer = await told(app[1], WEBSOCKET + KEPT + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 500")  # of an app that knows no WebSocket
