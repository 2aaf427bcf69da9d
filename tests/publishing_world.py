"""An API that somebody sells, running in a thread of its own, and its specification."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

KEY = "sk-live-9d2c77aa41"
SCRIPT = "<script>document.title='stolen'</script>"

SPEC: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Weather", "version": "1"},
    "paths": {
        "/forecast/{city}": {
            "get": {
                "summary": "The next days in a city",
                "parameters": [
                    {
                        "name": "city",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string"},
                        "example": "lisbon",
                    },
                    {"name": "days", "in": "query", "schema": {"type": "integer", "default": 3}},
                ],
                "responses": {"200": {"description": "A forecast"}},
            }
        },
        "/stations": {
            "get": {"summary": "Where we measure", "responses": {"200": {"description": "All"}}}
        },
        "/reports": {
            "post": {
                "summary": "Report what you see",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"example": {"sky": "clear"}}},
                },
                "responses": {"201": {"description": "Kept"}},
            }
        },
    },
}

SPEC_YAML = """\
openapi: 3.0.3
info: {title: Weather, version: "1"}
paths:
  /stations:
    get:
      responses:
        200: {description: All}
"""


class Weather:
    """Answers with the right key only. `calls` counts by path, `targets` are those of the request
    lines; `well` False: answers 500."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: Counter[str] = Counter()
        self.targets: list[str] = []
        self.well = True
        self.headers: list[dict[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/forecast/{city}", self._forecast)
        app.router.add_get("/stations", self._stations)
        app.router.add_post("/reports", self._report)
        app.router.add_get("/archive/", self._stations)
        app.router.add_get("/leak", self._leak)
        app.router.add_get("/big", self._big)
        app.router.add_get("/away", self._away)
        app.router.add_get("/openapi.json", self._spec)
        app.middlewares.append(self._count)
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls[request.path] += 1
        self.targets.append(request.raw_path)
        self.headers.append(dict(request.headers))
        if not self.well:
            return web.Response(status=500)
        open_ = request.path in ("/openapi.json", "/away", "/health")
        if not open_ and KEY not in (request.headers.get("X-Key"), request.query.get("key")):
            return web.json_response({"error": "who are you?"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _forecast(self, request: web.Request) -> web.Response:
        city = request.match_info["city"]
        return web.json_response(
            {"city": city, "days": request.query.get("days"), "note": SCRIPT},
            headers={"Set-Cookie": "session=secret", "X-Internal": "10.0.0.7"},
        )

    async def _stations(self, _: web.Request) -> web.Response:
        return web.json_response([{"id": 1, "name": "Cabo da Roca"}])

    async def _report(self, request: web.Request) -> web.Response:
        return web.json_response({"kept": await request.json()}, status=201)

    async def _leak(self, request: web.Request) -> web.Response:
        return web.json_response({"headers": dict(request.headers), "url": str(request.rel_url)})

    async def _big(self, _: web.Request) -> web.Response:
        return web.Response(body=b"x" * 300_000)

    async def _away(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/openapi.json")

    async def _spec(self, _: web.Request) -> web.Response:
        return web.json_response(SPEC)


@contextmanager
def serve_weather() -> Iterator[Weather]:
    """The API on a port of loopback."""
    api, ready, ended = Weather(), threading.Event(), threading.Event()

    async def run() -> None:
        runner = web.AppRunner(api.app(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await asyncio.to_thread(ended.wait)
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait(10)
    try:
        yield api
    finally:
        ended.set()
        thread.join()


def spec_text(**changes: Any) -> str:
    return json.dumps({**SPEC, **changes})
