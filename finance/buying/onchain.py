"""What a buyer asks the chain: its channels, and whether an authorization was used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS, MULTICALL3_ADDRESS
from finance.errors import RpcUnavailable
from finance.networks import Network
from finance.x402.abi import calldata

# Not even a reorg makes time for an authorization this long past its end.
EXPIRED_SECONDS = 120

Call = tuple[str, bytes]
"""(contract, calldata)."""


class ChainReader(Protocol):
    """The part of finance.chain.rpc.Rpc that is used here."""

    async def multicall(
        self, calls: Sequence[Call], block: str = "latest"
    ) -> list[tuple[bool, bytes]]: ...


class OnchainChannel(NamedTuple):
    """Atoms: deposited minus withdrawn and refunded; claimed so far. `withdraw_requested_at`
    in Unix seconds, 0 when no withdrawal is pending."""

    balance: int
    total_claimed: int
    withdraw_requested_at: int


class Authorization(NamedTuple):
    """An EIP-3009 authorization: whether it was used or cancelled, and the time (Unix seconds)
    of the block that says so. Our own clock may be wrong."""

    used: bool
    chain_time: int

    def expired(self, valid_before: int) -> bool:
        """Whether it was not used, and never will be."""
        return not self.used and self.chain_time > valid_before + EXPIRED_SECONDS


class ChainView:
    """Typed reads, each as of one block: endpoints that answer in turns are not equally far.
    RpcUnavailable when nothing is known."""

    def __init__(self, rpc: ChainReader, network: Network) -> None:
        self._rpc = rpc
        self._usdc = network.usdc

    async def channel(self, channel_id: bytes) -> OnchainChannel:
        """A channel; zeros if it does not exist."""
        return _channel(await self._read(_channel_calls(channel_id)))

    async def authorization(self, authorizer: bytes, nonce: bytes) -> Authorization:
        """What became of an authorization."""
        return _authorization(await self._read(self._authorization_calls(authorizer, nonce)))

    async def deposit(
        self, channel_id: bytes, authorizer: bytes, nonce: bytes
    ) -> tuple[OnchainChannel, Authorization]:
        """A channel, and what became of an authorization to pay into it."""
        calls = [*_channel_calls(channel_id), *self._authorization_calls(authorizer, nonce)]
        answers = await self._read(calls)
        return _channel(answers[:2]), _authorization(answers[2:])

    def _authorization_calls(self, authorizer: bytes, nonce: bytes) -> list[Call]:
        state = calldata("authorizationState", ("address", "bytes32"), authorizer, nonce)
        return [
            (self._usdc, state),
            (MULTICALL3_ADDRESS, calldata("getCurrentBlockTimestamp", ())),
        ]

    async def _read(self, calls: Sequence[Call]) -> list[bytes]:
        answers = await self._rpc.multicall(calls)
        if not all(succeeded for succeeded, _ in answers):
            raise RpcUnavailable("the endpoint's answer makes no sense")
        return [data for _, data in answers]


def _channel_calls(channel_id: bytes) -> list[Call]:
    views = ("channels", "pendingWithdrawals")
    return [(BATCH_SETTLEMENT_ADDRESS, calldata(view, ("bytes32",), channel_id)) for view in views]


def _channel(answers: Sequence[bytes]) -> OnchainChannel:
    state, pending = answers
    balance, claimed = _word(state, 0, 128), _word(state, 1, 128)
    return OnchainChannel(balance, claimed, _word(pending, 1, 40))


def _authorization(answers: Sequence[bytes]) -> Authorization:
    used, chain_time = answers
    return Authorization(bool(_word(used, 0, 1)), _word(chain_time, 0, 64))


def _word(answer: bytes, index: int, bits: int) -> int:
    word = answer[32 * index : 32 * index + 32]
    number = int.from_bytes(word, "big")
    if len(word) != 32 or number >> bits:
        raise RpcUnavailable("the endpoint's answer makes no sense")
    return number
