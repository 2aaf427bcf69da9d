"""How to send money to the wallet."""

from __future__ import annotations

from node.treasury.treasury import Treasury


def pay_link(treasury: Treasury) -> str:
    """EIP-681: a transfer of USDC to the wallet on its chain, for wallets that read it."""
    network = treasury.network
    target = f"ethereum:{network.usdc}@{network.chain_id}"
    return f"{target}/transfer?address={treasury.address}"
