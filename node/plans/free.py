"""Who wants a free plan shows with a signature whose it is to be: nothing else would tell."""

from __future__ import annotations

from finance.x402.digest import keccak, recover_address
from finance.x402.text import parse_address, parse_hex


def free_message(key_hash: str, resource_url: str, payer: str) -> str:
    """What is signed (EIP-191, personal_sign); `payer` as it is sent."""
    return f"Farebox: subscribe {key_hash} to {resource_url} as {payer}"


def message_digest(message: str) -> bytes:
    """The 32 bytes that a wallet signs for a message (EIP-191, version 0x45)."""
    data = message.encode()
    return keccak(b"\x19Ethereum Signed Message:\n%d" % len(data) + data)


def signed_by(message: str, payer: str, signature: str) -> bool:
    """Whether the key of this address signed it; contracts cannot."""
    try:
        address, given = parse_address(payer), parse_hex(signature)
    except ValueError:
        return False
    return len(given) == 65 and recover_address(message_digest(message), given) == address
