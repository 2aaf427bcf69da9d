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


class ChainReader(Protocol):
    """The part of finance.chain.rpc.Rpc that is used here."""

    async def multicall(
        self, calls: Sequence[tuple[str, bytes]], block: str = "latest"
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

    async def authorization(self, authorizer: bytes, nonce: bytes) -> Authorization:
        """What became of an authorization as of one block."""
        state = calldata("authorizationState", ("address", "bytes32"), authorizer, nonce)
        clock = calldata("getCurrentBlockTimestamp", ())
        used, at = await self._rpc.multicall([(self._usdc, state), (MULTICALL3_ADDRESS, clock)])
        if not (used[0] and at[0]):
            raise RpcUnavailable("the endpoint's answer makes no sense")
        return Authorization(bool(_word(used[1], 0, 1)), _word(at[1], 0, 64))


def _word(answer: bytes, index: int, bits: int) -> int:
    word = answer[32 * index : 32 * index + 32]
    number = int.from_bytes(word, "big")
    if len(word) != 32 or number >> bits:
        raise RpcUnavailable("the endpoint's answer makes no sense")
    return number
