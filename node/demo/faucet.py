"""Money for the market's newcomers, from the development chain's funded accounts."""

from __future__ import annotations

import asyncio
from typing import Any

from finance.chain.rpc import Rpc
from finance.money import Usdc, Wei
from finance.networks import Network
from finance.wallet.signer import Signer
from finance.x402.text import checksum, parse_address
from node.demo.processes import PartFailed

_TRANSFER = bytes.fromhex("a9059cbb")  # transfer(address,uint256)
_BALANCE_OF = bytes.fromhex("70a08231")  # balanceOf(address)
_FEE_WEI = 100 * 10**9
_PRIORITY_WEI = 10**9
_MINED_SECONDS = 60


class Faucet:
    """Sends from one funded account, one transaction after the other."""

    def __init__(self, rpc: Rpc, network: Network, key_hex: str) -> None:
        self._rpc = rpc
        self._network = network
        self._signer = Signer.from_hex(key_hex)

    async def send_eth(self, to: str, amount: Wei) -> None:
        await self._send(to, int(amount), b"", 21_000)

    async def send_usdc(self, to: str, amount: Usdc) -> None:
        data = _TRANSFER + parse_address(to).rjust(32, b"\0") + int(amount).to_bytes(32)
        await self._send(self._network.usdc, 0, data, 100_000)

    async def _send(self, to: str, value: int, data: bytes, gas: int) -> None:
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self._network.chain_id,
            "nonce": await self._rpc.nonce(self._signer.address),
            "to": checksum(parse_address(to)),
            "value": value,
            "data": data,
            "gas": gas,
            "maxFeePerGas": _FEE_WEI,
            "maxPriorityFeePerGas": _PRIORITY_WEI,
        }
        raw, tx_hash = self._signer.sign_transaction(transaction)
        await self._rpc.broadcast(raw)
        await self._mined(tx_hash)

    async def _mined(self, tx_hash: str) -> None:
        for _ in range(_MINED_SECONDS * 10):
            if await self._rpc.receipt(tx_hash) is not None:
                return
            await asyncio.sleep(0.1)
        raise PartFailed(f"The development chain did not mine {tx_hash}.")


async def usdc_balance(rpc: Rpc, network: Network, owner: str) -> int:
    """USDC atoms of `owner` in the newest block."""
    data = _BALANCE_OF + parse_address(owner).rjust(32, b"\0")
    return int.from_bytes(await rpc.eth_call(network.usdc, data))
