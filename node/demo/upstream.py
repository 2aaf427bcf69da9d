"""The seller's API as a process of its own; it knows nothing of payments."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from node.demo import weather
from node.server import bind, make_server
from node.settings import Bind


async def _cities(_request: Request) -> JSONResponse:
    return JSONResponse({"cities": list(weather.CITIES)})


async def _forecast(request: Request) -> JSONResponse:
    city, day = request.path_params["city"], _count(request, "day")
    if city not in weather.CITIES or day is None:
        return JSONResponse({"error": "there is no weather for that"}, 404)
    return JSONResponse(weather.forecast(city, day))


async def _history(request: Request) -> JSONResponse:
    city, days = request.path_params["city"], _count(request, "days")
    if city not in weather.CITIES or days is None:
        return JSONResponse({"error": "there is no weather for that"}, 404)
    return JSONResponse(weather.history(city, days))


async def _openapi(_request: Request) -> JSONResponse:
    return JSONResponse(weather.openapi())


def _count(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "1")
    return int(text) if text.isdecimal() and int(text) <= 30 else None


def create_app() -> Starlette:
    return Starlette(
        routes=[
            Route("/cities", _cities),
            Route("/forecast/{city}", _forecast),
            Route("/history/{city}", _history),
            Route("/openapi.json", _openapi),
        ]
    )


def serve() -> None:
    """Listen on a free port of this machine and say which, as one line of JSON."""
    listener = bind(Bind("127.0.0.1", 0), "the demo's API")
    port = listener.getsockname()[1]
    sys.stdout.write(json.dumps({"event": "ready", "url": f"http://127.0.0.1:{port}"}) + "\n")
    sys.stdout.flush()
    uvloop.run(_serve(listener))


async def _serve(listener: socket.socket) -> None:
    server = make_server(create_app(), drain_seconds=1)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop_accepting)
    await server.serve(sockets=[listener])
