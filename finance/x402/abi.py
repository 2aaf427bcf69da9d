"""Calldata: a function's selector and its ABI-encoded arguments."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from eth_abi.abi import encode

from finance.x402.digest import keccak


def calldata(name: str, types: tuple[str, ...], *arguments: Any) -> bytes:
    """Encode a call; addresses are 20 bytes. Raise eth_abi's EncodingError on a bad value."""
    return _selector(f"{name}({','.join(types)})") + encode(types, arguments)


@lru_cache(maxsize=64)
def _selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]
