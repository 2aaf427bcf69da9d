"""One RPC URL: asks, checks what comes back, and remembers how it behaved."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from finance.chain.answers import Nonsense, read_bytes, read_quantity
from finance.chain.reverts import explain_revert
from finance.errors import CallReverted, RpcRefused

PENALTY_SECONDS = 5.0
WRONG_CHAIN_PENALTY_SECONDS = 60.0
MAX_ANSWER_BYTES = 64 * 2**20

# The request cannot have left, or not arrived whole.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_REVERTED_CODE = 3
# Codes by which an endpoint speaks of itself, not of the question: ask another. The last three:
# it does not offer the method, or did not get it done (JSON-RPC 2.0, EIP-1474).
_BUSY = {-32603, -32005, -32097, -32016, 429}
_OWN_TROUBLE = _BUSY | {-32601, -32004, -32002}
# HTTP statuses by which it does the same, whatever stands below them. Who is turned away (no
# key, no quota, nothing there, too often) was not heard; behind a gateway somebody may have been.
_TURNED_AWAY = {401, 402, 403, 404, 429}
_GATEWAY_TROUBLE = {502, 503, 504}


class EndpointFailed(Exception):
    """No usable answer. `sent`: the question may have arrived and had its effect."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Question:
    """One JSON-RPC call and the reader of its answer (raises Nonsense)."""

    method: str
    params: Sequence[Any]
    read: Callable[[Any], Any]


class Endpoint:
    """One URL over kept-alive connections; `chain_id` is what it has to serve."""

    def __init__(
        self, client: httpx.AsyncClient, url: str, chain_id: int, timeout_seconds: float
    ) -> None:
        self.url = url
        self._client = client
        self._chain_id = chain_id
        self._timeout = timeout_seconds
        self._ids = itertools.count(1)
        self._verified = False
        self.bad_until = 0.0

    @property
    def name(self) -> str:
        """The host only: paths and queries of RPC URLs hold access keys."""
        return httpx.URL(self.url).host or "?"

    async def ask(self, questions: Sequence[Question]) -> list[Any]:
        """Answers in order; an answer may be an RpcRefused (not raised).

        Raises EndpointFailed when any of them is missing or nonsense.
        """
        try:
            if not self._verified:
                await self._verify()
            return await self._ask(questions)
        except EndpointFailed:
            # Whatever answers here next time may be another node.
            self._verified = False
            self.bad_until = max(self.bad_until, time.monotonic() + PENALTY_SECONDS)
            raise

    async def _verify(self) -> None:
        try:
            [served] = await self._ask([Question("eth_chainId", (), read_quantity)])
        except EndpointFailed as error:
            raise EndpointFailed(str(error), sent=False) from error
        if served != self._chain_id:
            self.bad_until = time.monotonic() + WRONG_CHAIN_PENALTY_SECONDS
            raise EndpointFailed(f"{self.name} serves chain {served}", sent=False)
        self._verified = True

    async def _ask(self, questions: Sequence[Question]) -> list[Any]:
        numbers = [next(self._ids) for _ in questions]
        calls = [
            {"jsonrpc": "2.0", "id": number, "method": each.method, "params": list(each.params)}
            for number, each in zip(numbers, questions, strict=True)
        ]
        answer = await self._post(calls if len(calls) > 1 else calls[0])
        if len(calls) > 1 and _refuses_all(answer):
            half = len(questions) // 2
            return [*await self._ask(questions[:half]), *await self._ask(questions[half:])]
        by_id = _by_id(answer if len(calls) > 1 else [answer], self.name)
        return [
            _read(by_id.get(number), each, self.name)
            for number, each in zip(numbers, questions, strict=True)
        ]

    async def _post(self, body: Any) -> Any:
        try:
            # httpx times each read; an endpoint that drips would never end.
            async with asyncio.timeout(self._timeout):
                return await self._exchange(body)
        except TimeoutError:
            raise EndpointFailed(f"{self.name} did not answer in time", sent=True) from None
        except httpx.HTTPError as error:
            sent = not isinstance(error, _NOT_SENT)
            reason = f"{self.name}: {type(error).__name__}"
            raise EndpointFailed(reason, sent=sent) from error
        except (ValueError, RecursionError) as error:
            raise EndpointFailed(f"{self.name} answered nonsense", sent=True) from error

    async def _exchange(self, body: Any) -> Any:
        async with self._client.stream("POST", self.url, json=body) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER_BYTES:
                    raise ValueError("answer too long")
        status = response.status_code
        if status in _TURNED_AWAY | _GATEWAY_TROUBLE:
            sent = status in _GATEWAY_TROUBLE
            raise EndpointFailed(f"{self.name} answered {status}", sent=sent)
        return json.loads(content)


def _refuses_all(batch: Any) -> bool:
    """Whether a batch is answered by one error, with or without a list around it: it is longer
    than the endpoint takes."""
    [only] = batch if isinstance(batch, list) and len(batch) == 1 else [batch]
    error = only.get("error") if isinstance(only, dict) else None
    return isinstance(error, dict) and error.get("code") not in _BUSY


def _by_id(answer: Any, name: str) -> dict[int, dict[str, Any]]:
    if not isinstance(answer, list):
        raise EndpointFailed(f"{name} answered a batch with something else", sent=True)
    found: dict[int, dict[str, Any]] = {}
    for each in answer:
        if isinstance(each, dict) and type(each.get("id")) is int:
            found[each["id"]] = each
    return found


def _read(answer: dict[str, Any] | None, question: Question, name: str) -> Any:
    if answer is None:
        raise EndpointFailed(f"{name} left {question.method} unanswered", sent=True)
    error = answer.get("error")
    if error is not None:
        return _refusal(error, question, name)
    try:
        return question.read(answer["result"])
    except (KeyError, Nonsense) as nonsense:
        reason = f"{name} answered {question.method} with nonsense: {nonsense}"
        raise EndpointFailed(reason, sent=True) from nonsense


def _refusal(error: Any, question: Question, name: str) -> RpcRefused:
    if not isinstance(error, dict) or type(error.get("code")) is not int:
        raise EndpointFailed(f"{name} answered {question.method} with nonsense", sent=True)
    code, data = error["code"], error.get("data")
    message = str(error.get("message", ""))[:500]
    revert = _revert_data(data)
    if code == _REVERTED_CODE or revert or "execution reverted" in message:
        return CallReverted(explain_revert(revert) if revert else message, code, data)
    return RpcRefused(f"{question.method}: {message}", code, data)


def _revert_data(data: Any) -> bytes:
    """Revert data, wherever the node puts it (`0x…`, or `{"data": "0x…"}`)."""
    if isinstance(data, dict):
        data = data.get("data")
    try:
        return read_bytes(data)
    except Nonsense:
        return b""


def is_own_trouble(refusal: RpcRefused) -> bool:
    """Whether another endpoint may answer better."""
    return not isinstance(refusal, CallReverted) and refusal.rpc_code in _OWN_TROUBLE
