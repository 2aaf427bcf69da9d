"""The chains a node can run on: ids, USDC, confirmation depth, explorers.

Addresses are EIP-55 checksummed. Canonical contracts have one address everywhere
(x402 scheme_batch_settlement_evm, "Reference Implementation").
"""

from __future__ import annotations

from dataclasses import dataclass

from finance.chain.addresses import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_COLLECTOR_ADDRESS,
    MULTICALL3_ADDRESS,
    USDC_ADDRESS,
)

__all__ = [
    "BATCH_SETTLEMENT_ADDRESS",
    "ERC3009_COLLECTOR_ADDRESS",
    "MULTICALL3_ADDRESS",
    "NETWORKS",
    "Network",
]


@dataclass(frozen=True, slots=True)
class Network:
    """One chain; `confirmations` is the depth at which a payment counts as settled,
    `reorg_depth` how many blocks back its block hash is still watched."""

    name: str
    chain_id: int
    usdc: str
    usdc_name: str
    usdc_version: str
    confirmations: int
    reorg_depth: int
    block_seconds: float
    rpc_urls: tuple[str, ...] = ()
    explorer_url: str | None = None

    @property
    def caip2(self) -> str:
        """CAIP-2 id, e.g. `eip155:8453`."""
        return f"eip155:{self.chain_id}"


NETWORKS = {
    network.name: network
    for network in (
        Network("devnet", 31337, USDC_ADDRESS, "USD Coin", "2", 1, 32, 1.0),
        Network(
            "base-sepolia",
            84532,
            "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "USDC",
            "2",
            1,
            64,
            2.0,
            ("https://sepolia.base.org",),
            "https://sepolia.basescan.org",
        ),
        Network(
            "base",
            8453,
            "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "USD Coin",
            "2",
            2,
            64,
            2.0,
            ("https://mainnet.base.org",),
            "https://basescan.org",
        ),
    )
}
