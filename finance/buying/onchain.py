"""What a buyer asks the chain: its channels, and whether an authorization was used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.errors import RpcUnavailable
from finance.networks import Network
from finance.x402.abi import calldata


class ChainReader(Protocol):
    """The part of finance.chain.rpc.Rpc that is used here."""

    async def eth_call(self, to: str, data: bytes, block: str = "latest") -> bytes: ...

    async def multicall(
        self, calls: Sequence[tuple[str, bytes]], block: str = "latest"
    ) -> list[tuple[bool, bytes]]: ...


class OnchainChannel(NamedTuple):
    """Atoms: deposited minus withdrawn and refunded; claimed so far. `withdraw_requested_at`
    in Unix seconds, 0 when no withdrawal is pending."""

    balance: int
    total_claimed: int
    withdraw_requested_at: int


class ChainView:
    """Typed reads; RpcUnavailable when nothing is known."""

    def __init__(self, rpc: ChainReader, network: Network) -> None:
        self._rpc = rpc
        self._usdc = network.usdc

    async def channel(self, channel_id: bytes) -> OnchainChannel:
        """A channel as of one block; zeros if it does not exist."""
        views = ("channels", "pendingWithdrawals")
        state, pending = await self._rpc.multicall(
            [(BATCH_SETTLEMENT_ADDRESS, calldata(view, ("bytes32",), channel_id)) for view in views]
        )
        if not (state[0] and pending[0]):
            raise RpcUnavailable("the endpoint's answer makes no sense")
        balance, claimed = _word(state[1], 0, 128), _word(state[1], 1, 128)
        return OnchainChannel(balance, claimed, _word(pending[1], 1, 40))

    async def authorization_used(self, authorizer: bytes, nonce: bytes) -> bool:
        """EIP-3009 authorizationState: used or cancelled."""
        data = calldata("authorizationState", ("address", "bytes32"), authorizer, nonce)
        return bool(_word(await self._rpc.eth_call(self._usdc, data), 0, 1))


def _word(answer: bytes, index: int, bits: int) -> int:
    word = answer[32 * index : 32 * index + 32]
    number = int.from_bytes(word, "big")
    if len(word) != 32 or number >> bits:
        raise RpcUnavailable("the endpoint's answer makes no sense")
    return number
