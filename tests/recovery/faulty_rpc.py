"""A JSON-RPC server between us and a real node that misbehaves on request.

It is a server of its own on a socket: what the client sees are real dropped
connections, real silence and real bytes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web


class Fault(Enum):
    """What happens to a request that holds the chosen method."""

    DROP = auto()  # the connection is closed, nothing was forwarded
    HANG = auto()  # no answer ever, nothing was forwarded
    FORWARD_THEN_HANG = auto()  # the node did it, the answer never comes
    FORWARD_THEN_DROP = auto()  # the node did it, the connection is closed
    HTML = auto()  # a gateway's error page
    ERROR_500 = auto()
    DRIP = auto()  # one byte now and then, for ever


Answer = Callable[[dict[str, Any], Any], Any]


class FaultyRpc:
    """Forwards to `upstream` but for `faults` (method or "*" to Fault) and `answers`
    (method to a function of (call, true result) giving another result). It takes
    `most_calls` in a batch and `most_blocks` in a range of logs; a longer batch is answered by
    one error, in a list (as geth does) or not (as proxyd does). While it has a `status`, it
    refuses every call under it."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: dict[str, Fault] = {}
        self.answers: dict[str, Answer] = {}
        self.refusals: dict[str, list[str]] = {}  # messages, used up one by one
        self.code = -32000  # of every refusal
        self.most_blocks = self.most_calls = 2**64
        self.refuses_in_list = False
        self.status = 0
        self.seen: list[str] = []
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        self._client = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._over.set()
        await self._client.close()
        await self._runner.cleanup()

    def heal(self) -> None:
        self.faults.clear()
        self.answers.clear()
        self.refusals.clear()
        self.most_blocks = self.most_calls = 2**64

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        calls = body if isinstance(body, list) else [body]
        self.seen += [call["method"] for call in calls]
        if self.status:
            answers = [self._error(call, "must be authenticated") for call in calls]
            answer = answers if isinstance(body, list) else answers[0]
            return web.json_response(answer, status=self.status)
        fault = next((f for c in calls if (f := self._fault(c["method"]))), None)
        if fault in (Fault.FORWARD_THEN_HANG, Fault.FORWARD_THEN_DROP):
            await self._forward(body)
        match fault:
            case None:
                return web.json_response(await self._answer(body, calls))
            case Fault.DROP | Fault.FORWARD_THEN_DROP:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            case Fault.HANG | Fault.FORWARD_THEN_HANG:
                await self._over.wait()
                return web.Response()
            case Fault.HTML:
                return web.Response(text="<html>502 Bad Gateway</html>", content_type="text/html")
            case Fault.ERROR_500:
                return web.Response(status=500, text="internal error")
            case Fault.DRIP:
                return await self._drip(request)

    def _fault(self, method: str) -> Fault | None:
        return self.faults.get(method) or self.faults.get("*")

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not self._over.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.1)
        return response

    async def _answer(self, body: Any, calls: list[dict[str, Any]]) -> Any:
        if len(calls) > self.most_calls:
            error = {"code": -32600, "message": "batch too large"}
            whole = {"jsonrpc": "2.0", "id": calls[0]["id"], "error": error}
            return [whole] if self.refuses_in_list else {**whole, "id": None}
        refused = [self._refusal(call) for call in calls]
        if len(calls) == 1 and refused[0] is not None:
            return refused[0]
        answered = await self._forward(body)
        if isinstance(body, dict):
            return self._changed(body, answered)
        by_id = {each["id"]: each for each in answered}
        return [
            refusal or self._changed(call, by_id[call["id"]])
            for call, refusal in zip(calls, refused, strict=True)
        ]

    def _refusal(self, call: dict[str, Any]) -> dict[str, Any] | None:
        messages = self.refusals.get(call["method"])
        if call["method"] == "eth_getLogs" and _blocks(call["params"][0]) > self.most_blocks:
            messages = ["query exceeds max block range"]
        if not messages:
            return None
        return self._error(call, messages.pop(0))

    def _error(self, call: dict[str, Any], message: str) -> dict[str, Any]:
        error = {"code": self.code, "message": message}
        return {"jsonrpc": "2.0", "id": call["id"], "error": error}

    def _changed(self, call: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        change = self.answers.get(call["method"])
        if change is None or "result" not in answer:
            return answer
        return {**answer, "result": change(call, answer["result"])}

    async def _forward(self, body: Any) -> Any:
        async with self._client.post(self.upstream, json=body) as response:
            return json.loads(await response.read())


def _blocks(query: dict[str, str]) -> int:
    return int(query["toBlock"], 16) - int(query["fromBlock"], 16) + 1
