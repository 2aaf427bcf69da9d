"""Numbers, addresses and bytes as x402 writes them: decimal and 0x hex text.

Parsers take text in exactly the canonical form and raise ValueError for all else.
"""

from __future__ import annotations

from functools import lru_cache

import sha3


def parse_uint(value: str, bits: int) -> int:
    """Read a decimal without sign, leading zero or separator, below 2^bits."""
    # str.isdigit and int() know other scripts' digits and "1_0"; ASCII has none of them.
    if not (value.isascii() and value.isdigit()) or len(value) > 78:
        raise ValueError("An amount is not a decimal number.")
    if value[0] == "0" and len(value) > 1:
        raise ValueError("A number has leading zeros.")
    number = int(value)
    if number >> bits:
        raise ValueError(f"A number does not fit into {bits} bits.")
    return number


def parse_hex(value: str) -> bytes:
    """Read 0x hex of any even length, in either case."""
    if value[:2] != "0x":
        raise ValueError("Hex text lacks its 0x.")
    data = bytes.fromhex(value[2:])
    # fromhex skips spaces.
    if 2 * len(data) + 2 != len(value):
        raise ValueError("Hex text has spaces in it.")
    return data


def parse_address(value: str) -> bytes:
    """Read an address: 0x and 40 hex digits."""
    data = parse_hex(value)
    if len(data) != 20:
        raise ValueError("An address is not 20 bytes long.")
    return data


def parse_bytes32(value: str) -> bytes:
    """Read 0x and 64 hex digits."""
    data = parse_hex(value)
    if len(data) != 32:
        raise ValueError("A hash or id is not 32 bytes long.")
    return data


def to_hex(data: bytes) -> str:
    """Lower-case 0x hex."""
    return "0x" + data.hex()


@lru_cache(maxsize=8192)
def checksum(address: bytes) -> str:
    """The EIP-55 form of a 20-byte address."""
    digits = address.hex()
    mask = sha3.keccak_256(digits.encode()).hexdigest()
    cased = (d.upper() if m >= "8" else d for d, m in zip(digits, mask, strict=False))
    return "0x" + "".join(cased)
