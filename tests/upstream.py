"""An API to be sold, with every behaviour a gateway must survive. A plain ASGI app.

`/echo…` tells what arrived; `/status/N`; `/slow/SECONDS`; `/stream/CHUNKS/BYTES`;
`/break/BYTES` (announces more than it sends); `/huge/BYTES`; `/headers`; `/hops`; `/redirect`;
`/gzip`; `/empty`; `/etag`; `/leak`, also `/leak/compressed` (when accepted),
`/leak/always-compressed`, `/leak/as-php` and `/leak/as-html`. `/count/NAME` counts its calls.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import html
import json
from collections import Counter
from typing import Any


class Upstream:
    """The app; `calls` counts requests by path, `seen` keeps what arrived last."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seen: dict[str, Any] = {}
        self.aborted = 0

    @property
    def total(self) -> int:
        """All requests but those for the root, by which a node sees whether the API is up."""
        return sum(times for path, times in self.calls.items() if path.strip("/") != "base")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("latin-1")
        self.calls[path] += 1
        parts = path.strip("/").split("/")
        if parts[0] == "base":
            parts = parts[1:]
        kind = parts[0] if parts and hasattr(self, f"do_{parts[0]}") else "echo"
        await getattr(self, f"do_{kind}")(scope, receive, send, parts[1:])

    async def do_echo(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        digest, size = hashlib.sha256(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.aborted += 1
                return
            digest.update(message.get("body", b""))
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        self.seen = {
            "method": scope["method"],
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]],
            "size": size,
            "sha256": digest.hexdigest(),
        }
        await _answer(send, 200, json.dumps(self.seen).encode())

    async def do_status(self, scope: Any, receive: Any, send: Any, parts: list[str]) -> None:
        status = int(parts[0])
        body = b"" if status in (204, 304) else b'{"status": %d}' % status
        await _answer(send, status, body)

    async def do_slow(self, scope: Any, receive: Any, send: Any, parts: list[str]) -> None:
        await receive()
        waiting = asyncio.create_task(receive())
        done, _ = await asyncio.wait({waiting}, timeout=float(parts[0]))
        if done:
            self.aborted += 1
            return
        waiting.cancel()
        await _answer(send, 200, b'{"slow": true}')

    async def do_stream(self, scope: Any, receive: Any, send: Any, parts: list[str]) -> None:
        count, size = int(parts[0]), int(parts[1])
        await send({"type": "http.response.start", "status": 200, "headers": [_PLAIN]})
        for index in range(count):
            chunk = bytes([65 + index % 26]) * size
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    async def do_break(self, scope: Any, receive: Any, send: Any, parts: list[str]) -> None:
        size = int(parts[0])
        headers = [_PLAIN, (b"content-length", str(size * 2).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": True})
        await asyncio.sleep(0.05)  # and no end: the server cuts the connection

    async def do_huge(self, scope: Any, receive: Any, send: Any, parts: list[str]) -> None:
        await _answer(send, 200, b"h" * int(parts[0]))

    async def do_headers(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        await _answer(
            send,
            200,
            b"{}",
            (b"cache-control", b"public, max-age=3600"),
            (b"cdn-cache-control", b"max-age=3600"),
            (b"surrogate-control", b"max-age=3600"),
            (b"x-accel-expires", b"3600"),
            (b"connection", b"keep-alive, x-hop"),
            (b"x-hop", b"1"),
            (b"keep-alive", b"timeout=5"),
            (b"x-end", b"2"),
            (b"access-control-allow-origin", b"https://only.example"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"payment-response", b"forged"),
            (b"farebox-call-id", b"forged"),
        )

    async def do_hops(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        """Headers of its own connection, listed in two lines."""
        listed = (b"connection", b"X-Hop"), (b"connection", b"X-Leap")
        await _answer(
            send, 200, b"{}", *listed, (b"x-hop", b"1"), (b"x-leap", b"1"), (b"x-end", b"2")
        )

    async def do_redirect(self, scope: Any, receive: Any, send: Any, how: Any) -> None:
        """Also `/redirect/by-path`, as most frameworks write it."""
        host = b"" if how == ["by-path"] else b"http://" + dict(scope["headers"])[b"host"]
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        pages = b"<%b/base/page/2>; rel=next, <%b/base>; rel=first" % (host, host)
        location = host + b"/base/echo" + query
        await _answer(send, 302, b"", (b"location", location), (b"link", pages))

    async def do_gzip(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        body = gzip.compress(b"plain text " * 20, mtime=0)
        await _answer(send, 200, body, (b"content-encoding", b"gzip"))

    async def do_empty(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        await _answer(send, 200, b"")

    async def do_etag(self, scope: Any, receive: Any, send: Any, _: Any) -> None:
        if dict(scope["headers"]).get(b"if-none-match") == b'"v1"':
            await _answer(send, 304, b"", (b"etag", b'"v1"'))
        else:
            await _answer(send, 200, b"content", (b"etag", b'"v1"'))

    async def do_leak(self, scope: Any, receive: Any, send: Any, how: Any) -> None:
        """Tells everything it was told, as a careless API does."""
        headers = {n.decode(): v.decode() for n, v in scope["headers"]}
        query = scope["query_string"].decode()
        body = json.dumps({"headers": headers, "query": query}).encode()
        told = headers.get("x-api-key", query).encode()
        if how == ["as-php"]:
            body = body.replace(b"/", b"\\/")
        elif how == ["as-html"]:
            body = html.escape(body.decode()).encode()
        accepted = how == ["compressed"] and "gzip" in headers.get("accept-encoding", "")
        if accepted or how == ["always-compressed"]:
            await _answer(send, 200, gzip.compress(body), (b"content-encoding", b"gzip"))
        else:
            await _answer(send, 200, body, (b"x-told", told))


_PLAIN = (b"content-type", b"text/plain")


async def _answer(send: Any, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    head = [(b"content-type", b"application/json"), *headers]
    if status not in (204, 304):
        head.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
