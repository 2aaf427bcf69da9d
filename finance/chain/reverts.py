"""Why a contract refused: the sentence in its revert data."""

from __future__ import annotations

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from finance.chain.abi import ERROR_NAMES

_ERROR = bytes.fromhex("08c379a0")  # Error(string)
_PANIC = bytes.fromhex("4e487b71")  # Panic(uint256)
_PANICS = {0x01: "assertion failed", 0x11: "arithmetic overflow", 0x12: "division by zero"}


def explain_revert(data: bytes) -> str:
    """One sentence for revert data of any shape; never raises."""
    selector, arguments = data[:4], data[4:]
    try:
        if selector == _ERROR:
            return f"reverted: {decode(['string'], arguments)[0]}"
        if selector == _PANIC:
            code = decode(["uint256"], arguments)[0]
            return f"panicked: {_PANICS.get(code, f'code {code:#x}')}"
    except (DecodingError, ValueError, OverflowError):
        return f"reverted with unreadable data 0x{data[:64].hex()}"
    if not data:
        return "reverted without a reason"
    return f"reverted: {ERROR_NAMES.get(selector, f'unknown error 0x{data[:64].hex()}')}"
