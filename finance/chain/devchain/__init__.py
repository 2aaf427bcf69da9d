"""A real EVM chain on one machine, behind JSON-RPC over HTTP: `farebox devchain`.

`evm` executes blocks (py-evm), `mempool` holds what waits, `chain` joins them with
clock and mining modes, `wire` and `methods` speak JSON-RPC, `server` listens.
"""

from finance.chain.devchain.server import serve

__all__ = ["serve"]
