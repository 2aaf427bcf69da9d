"""The chain as asked over JSON-RPC: several endpoints, none of them believed blindly.

An endpoint that is silent, slow, on another chain or answers nonsense is passed
over for the next and rested for some seconds. If none answers, the question is
open (`RpcUnavailable`): never read it as a no.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import httpx
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError

from finance.chain.addresses import MULTICALL3_ADDRESS
from finance.chain.answers import (
    Block,
    Log,
    Nonsense,
    Receipt,
    read_block,
    read_block_at,
    read_bytes,
    read_count,
    read_head,
    read_hex,
    read_logs,
    read_quantity,
    read_receipt_of,
    read_transaction,
)
from finance.chain.endpoint import Endpoint, EndpointFailed, Question, is_own_trouble
from finance.errors import ReadsRefused, RpcRefused, RpcUnavailable
from finance.x402.digest import keccak
from finance.x402.text import to_hex

_AGGREGATE3 = bytes.fromhex("82ad56cb")
_LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What became of a raw transaction at all endpoints.

    `refusals` are the answers of those that surely did not take it; `uncertain`: some
    endpoint may have taken it without saying so.
    """

    accepted: bool
    uncertain: bool
    refusals: tuple[RpcRefused, ...]


class Rpc:
    """One chain behind `urls`, tried in order. Close it, or use it as a context."""

    def __init__(self, urls: Sequence[str], chain_id: int, timeout_seconds: float = 10.0) -> None:
        if not urls:
            raise RpcUnavailable("No RPC address is configured (FAREBOX_RPC_URLS).")
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16),
        )
        self.expected_chain_id = chain_id
        self._endpoints = [Endpoint(self._client, url, chain_id, timeout_seconds) for url in urls]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    # Any method

    async def call(self, method: str, params: Sequence[Any] = ()) -> Any:
        """The raw result. Raises RpcRefused, CallReverted or RpcUnavailable."""
        return await self.ask(Question(method, params, lambda value: value))

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Raw results of one JSON-RPC batch; a refused call stands there as its RpcRefused."""
        questions = [Question(method, params, lambda value: value) for method, params in calls]
        return await self.ask_all(questions)

    async def ask(self, question: Question) -> Any:
        [answer] = await self.ask_all([question])
        if isinstance(answer, RpcRefused):
            raise answer
        return answer

    async def ask_all(self, questions: Sequence[Question]) -> list[Any]:
        """Read answers, all from one endpoint, refusals in their place."""
        if not questions:
            return []
        reasons: list[str] = []
        troubled: list[Any] | None = None
        for endpoint in self._in_order():
            try:
                answers = await endpoint.ask(questions)
            except EndpointFailed as error:
                reasons.append(str(error))
                continue
            if not any(isinstance(each, RpcRefused) and is_own_trouble(each) for each in answers):
                return answers
            troubled = troubled or answers
        if troubled is not None:
            return troubled
        raise RpcUnavailable("; ".join(reasons))

    def _in_order(self) -> list[Endpoint]:
        """Those in good standing first; the resting ones only when nothing else is left."""
        now = time.monotonic()
        return sorted(self._endpoints, key=lambda each: each.bad_until > now)

    # The chain

    async def chain_id(self) -> int:
        return cast(int, await self.ask(Question("eth_chainId", (), read_quantity)))

    async def block_number(self) -> int:
        return cast(int, await self.ask(Question("eth_blockNumber", (), read_count)))

    async def head(self) -> Block:
        return cast(
            Block, await self.ask(Question("eth_getBlockByNumber", (_LATEST, False), read_head))
        )

    async def block(self, which: int | str = _LATEST) -> Block | None:
        """A block by number, hash or tag; None if the chain has none such (now)."""
        if isinstance(which, int):
            return cast(Block | None, await self.ask(block_question(which)))
        by_hash = which.startswith("0x")
        method = "eth_getBlockByHash" if by_hash else "eth_getBlockByNumber"
        return cast(Block | None, await self.ask(Question(method, (which, False), read_block)))

    async def nonce(self, address: str, tag: str | int = _LATEST) -> int:
        """The number of transactions sent by `address`, as of a block or tag."""
        return cast(int, await self.ask(nonce_question(address, tag)))

    async def balance(self, address: str, block: str | int = _LATEST) -> int:
        """Wei."""
        params = (address, block_tag(block))
        return cast(int, await self.ask(Question("eth_getBalance", params, read_quantity)))

    async def code(self, address: str, block: str | int = _LATEST) -> bytes:
        params = (address, block_tag(block))
        return cast(bytes, await self.ask(Question("eth_getCode", params, read_bytes)))

    async def eth_call(
        self, to: str, data: bytes, block: str | int = _LATEST, sender: str | None = None
    ) -> bytes:
        """Return data. Raises CallReverted when the contract refuses."""
        call = {"to": to, "data": "0x" + data.hex(), **({"from": sender} if sender else {})}
        question = Question("eth_call", (call, block_tag(block)), read_bytes)
        return cast(bytes, await self.ask(question))

    async def multicall(
        self, calls: Sequence[tuple[str, bytes]], block: str | int = _LATEST
    ) -> list[tuple[bool, bytes]]:
        """Many reads of one block in one request (Multicall3.aggregate3).

        (succeeded, return data) per call. Raises RpcUnavailable, also for an answer that does
        not fit the question, and ReadsRefused: each call may fail, so that a refusal is of none.
        """
        if not calls:
            return []
        try:
            answer = await self.eth_call(MULTICALL3_ADDRESS, aggregate3(calls), block)
            [results] = decode(["(bool,bytes)[]"], answer)
        except RpcRefused as error:
            raise ReadsRefused(str(error)) from error
        except DecodingError as error:
            raise RpcUnavailable("Multicall3 answered nonsense") from error
        if len(results) != len(calls):
            raise RpcUnavailable("Multicall3 answered another number of calls")
        return list(results)

    async def logs(self, query: dict[str, Any]) -> tuple[Log, ...]:
        """Logs of an `eth_getLogs` filter object."""
        return cast(tuple[Log, ...], await self.ask(Question("eth_getLogs", (query,), read_logs)))

    async def receipt(self, tx_hash: str) -> Receipt | None:
        """None: not mined as far as this endpoint knows. It is not a failure."""
        return cast(Receipt | None, await self.ask(receipt_question(tx_hash)))

    async def transaction(self, tx_hash: str) -> dict[str, Any] | None:
        question = Question("eth_getTransactionByHash", (tx_hash,), read_transaction)
        return cast(dict[str, Any] | None, await self.ask(question))

    # Sending

    async def broadcast(self, raw: bytes) -> Broadcast:
        """Offer a signed transaction to one endpoint after another until one takes it."""
        question = Question("eth_sendRawTransaction", (to_hex(raw),), _read_same(keccak(raw)))
        uncertain, refusals = False, []
        for endpoint in self._in_order():
            try:
                [answer] = await endpoint.ask([question])
            except EndpointFailed as error:
                uncertain = uncertain or error.sent
                continue
            if not isinstance(answer, RpcRefused) or _is_known(answer):
                return Broadcast(accepted=True, uncertain=False, refusals=())
            refusals.append(answer)
        return Broadcast(accepted=False, uncertain=uncertain, refusals=tuple(refusals))


def block_question(number: int) -> Question:
    return Question("eth_getBlockByNumber", (hex(number), False), read_block_at(number))


def nonce_question(address: str, tag: str | int) -> Question:
    return Question("eth_getTransactionCount", (address, block_tag(tag)), read_count)


def receipt_question(tx_hash: str) -> Question:
    return Question("eth_getTransactionReceipt", (tx_hash,), read_receipt_of(tx_hash))


def head_question() -> Question:
    return Question("eth_getBlockByNumber", (_LATEST, False), read_head)


def block_tag(block: str | int) -> str:
    return hex(block) if isinstance(block, int) else block


def aggregate3(calls: Sequence[tuple[str, bytes]], *, allow_failure: bool = True) -> bytes:
    """Calldata of Multicall3.aggregate3 over (target, calldata) pairs."""
    rows = [(target, allow_failure, data) for target, data in calls]
    return _AGGREGATE3 + encode(["(address,bool,bytes)[]"], [rows])


def _read_same(tx_hash: bytes) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if read_hex(value, 32) != to_hex(tx_hash):
            raise Nonsense("the hash of another transaction")
        return to_hex(tx_hash)

    return read


def _is_known(refusal: RpcRefused) -> bool:
    """Whether the endpoint has this very transaction already (geth, erigon, nethermind)."""
    message = str(refusal).lower()
    return any(words in message for words in ("already known", "known transaction", "alreadyknown"))
