"""The API being sold in the benchmarks: a raw ASGI app with a 200-byte JSON answer."""

from __future__ import annotations

import sys

import uvicorn

BODY = b'{"city":"Lisbon","temperature":21.5,"humidity":62,"note":"' + b"x" * 140 + b'"}'


async def app(scope, receive, send) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        access_log=False,
        lifespan="off",
    )
