"""What endpoints answer, read strictly: anything odd is nonsense, and says nothing.

Numbers are ints, hashes and addresses lower-case 0x hex. Every reader raises
`Nonsense`, which the endpoint turns into a failed answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from finance.money import MAX_ATOMS

_T = TypeVar("_T")
_HEX_DIGITS = frozenset("0123456789abcdef")


class Nonsense(ValueError):
    """An answer that cannot be one."""


@dataclass(frozen=True, slots=True)
class Log:
    """One event as the chain recorded it."""

    address: str
    topics: tuple[str, ...]
    data: bytes
    log_index: int
    tx_hash: str
    block_number: int
    block_hash: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction. `fee_wei` is all ETH it cost, a rollup's L1 fee included."""

    tx_hash: str
    succeeded: bool
    block_number: int
    block_hash: str
    gas_used: int
    fee_wei: int
    logs: tuple[Log, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A block's header as far as we need it; `timestamp` in Unix seconds."""

    number: int
    block_hash: str
    parent_hash: str
    timestamp: int
    base_fee_wei: int


def read_hex(value: Any, length: int | None = None) -> str:
    """0x hex of `length` bytes (None: any), lower-cased."""
    if not isinstance(value, str) or value[:2] != "0x" or len(value) % 2:
        raise Nonsense(f"{value!r:.80} is not hex data")
    if length is not None and len(value) != 2 + 2 * length:
        raise Nonsense(f"{value!r:.80} is not {length} bytes")
    lower = value.lower()
    if not _HEX_DIGITS.issuperset(lower[2:]):
        raise Nonsense(f"{value!r:.80} is not hex data")
    return lower


def read_bytes(value: Any) -> bytes:
    return bytes.fromhex(read_hex(value)[2:])


def read_quantity(value: Any) -> int:
    """A JSON-RPC quantity, e.g. `0x1a`, below 2^256."""
    if not isinstance(value, str) or value[:2] != "0x" or not 3 <= len(value) <= 66:
        raise Nonsense(f"{value!r:.80} is not a quantity")
    if not _HEX_DIGITS.issuperset(value[2:].lower()):
        raise Nonsense(f"{value!r:.80} is not a quantity")
    return int(value, 16)


def read_count(value: Any) -> int:
    """How high or how many: a block's number, a nonce, the place of a log. None comes near 2^63,
    which is the most that columns hold."""
    count = read_quantity(value)
    if count >= 2**63:
        raise Nonsense(f"{count} counts nothing")
    return count


def read_atoms(value: Any) -> int:
    """USDC that a call returned. Nothing, which is what an address without the token's code
    returns, is not 0; and there will never be as much as 2^63 atoms."""
    atoms = int(read_hex(value, 32), 16)
    if atoms > MAX_ATOMS:
        raise Nonsense(f"{atoms} is not an amount of USDC")
    return atoms


def read_log(value: Any) -> Log:
    fields = _object(value)
    topics = fields.get("topics")
    if not isinstance(topics, list) or fields.get("removed"):
        raise Nonsense("a log without topics, or a removed one")
    return Log(
        address=read_hex(fields.get("address"), 20),
        topics=tuple(read_hex(topic, 32) for topic in topics),
        data=read_bytes(fields.get("data")),
        log_index=read_count(fields.get("logIndex")),
        tx_hash=read_hex(fields.get("transactionHash"), 32),
        block_number=read_count(fields.get("blockNumber")),
        block_hash=read_hex(fields.get("blockHash"), 32),
    )


def read_logs(value: Any) -> tuple[Log, ...]:
    if not isinstance(value, list):
        raise Nonsense("logs are not a list")
    return tuple(read_log(each) for each in value)


def read_receipt(value: Any) -> Receipt | None:
    """A receipt; None while it is pending (null, or without a block)."""
    if value is None or (isinstance(value, dict) and value.get("blockHash") is None):
        return None
    fields = _object(value)
    gas_used = read_quantity(fields.get("gasUsed"))
    receipt = Receipt(
        tx_hash=read_hex(fields.get("transactionHash"), 32),
        succeeded=_status(fields.get("status")),
        block_number=read_count(fields.get("blockNumber")),
        block_hash=read_hex(fields.get("blockHash"), 32),
        gas_used=gas_used,
        fee_wei=gas_used * read_quantity(fields.get("effectiveGasPrice")) + _l1_fee(fields),
        logs=read_logs(fields.get("logs")),
    )
    _require_own_logs(receipt)
    return receipt


def read_receipt_of(tx_hash: str) -> Callable[[Any], Receipt | None]:
    """A reader that takes no receipt but that of `tx_hash`."""

    def read(value: Any) -> Receipt | None:
        receipt = read_receipt(value)
        if receipt is not None and receipt.tx_hash != tx_hash:
            raise Nonsense("the receipt of another transaction")
        return receipt

    return read


def read_block(value: Any) -> Block | None:
    if value is None:
        return None
    fields = _object(value)
    return Block(
        number=read_count(fields.get("number")),
        block_hash=read_hex(fields.get("hash"), 32),
        parent_hash=read_hex(fields.get("parentHash"), 32),
        timestamp=read_quantity(fields.get("timestamp")),
        base_fee_wei=read_quantity(fields.get("baseFeePerGas", "0x0")),
    )


def read_head(value: Any) -> Block:
    """The newest block; a chain without one is nonsense."""
    block = read_block(value)
    if block is None:
        raise Nonsense("a chain without a newest block")
    return block


def read_block_at(number: int) -> Callable[[Any], Block | None]:
    def read(value: Any) -> Block | None:
        block = read_block(value)
        if block is not None and block.number != number:
            raise Nonsense("another block than asked for")
        return block

    return read


def read_transaction(value: Any) -> dict[str, Any] | None:
    return None if value is None else _object(value)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Nonsense(f"{value!r:.80} is not an object")
    return value


def _status(value: Any) -> bool:
    status = read_quantity(value)
    if status > 1:
        raise Nonsense(f"a receipt with status {status}")
    return status == 1


def _l1_fee(fields: dict[str, Any]) -> int:
    """What an OP-stack rollup (Base) takes beside the gas for posting the data to L1."""
    fee = fields.get("l1Fee")
    return 0 if fee is None else read_quantity(fee)


def _require_own_logs(receipt: Receipt) -> None:
    for log in receipt.logs:
        if (log.tx_hash, log.block_hash) != (receipt.tx_hash, receipt.block_hash):
            raise Nonsense("a receipt with another transaction's log")
