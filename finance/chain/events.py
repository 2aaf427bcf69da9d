"""The events we watch, decoded: USDC transfers and the life of payment channels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from finance.chain.abi import BATCH_SETTLEMENT_ABI, USDC_ABI
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.answers import Log
from finance.x402.digest import keccak
from finance.x402.text import to_hex

BATCH_SETTLEMENT_HEX = BATCH_SETTLEMENT_ADDRESS.lower()


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """One event on the chain. `args`: ints, lower-case hex, a channel config as a dict."""

    name: str
    channel_id: str | None
    args: dict[str, Any]
    block_number: int
    block_hash: str
    tx_hash: str
    log_index: int

    @property
    def place(self) -> tuple[str, str, int]:
        """What makes it unique: block, transaction, index."""
        return self.block_hash, self.tx_hash, self.log_index

    def args_json(self) -> str:
        """Arguments for a database column; uint256 as text (JSON numbers stop at 2^53)."""
        return json.dumps(_texts(self.args))


@dataclass(frozen=True, slots=True)
class _Shape:
    name: str
    inputs: Sequence[dict[str, Any]]


def _type(field: dict[str, Any]) -> str:
    if not field["type"].startswith("tuple"):
        return str(field["type"])
    inner = ",".join(_type(each) for each in field["components"])
    return f"({inner}){field['type'].removeprefix('tuple')}"


def _topic(event: dict[str, Any]) -> str:
    signature = f"{event['name']}({','.join(_type(field) for field in event['inputs'])})"
    return to_hex(keccak(signature.encode()))


def _shapes(abi: Sequence[dict[str, Any]]) -> dict[str, _Shape]:
    events = [each for each in abi if each["type"] == "event"]
    return {_topic(event): _Shape(event["name"], event["inputs"]) for event in events}


_CHANNEL_SHAPES = _shapes(BATCH_SETTLEMENT_ABI)
_TOKEN_SHAPES = {
    topic: shape for topic, shape in _shapes(USDC_ABI).items() if shape.name == "Transfer"
}
(TRANSFER_TOPIC,) = _TOKEN_SHAPES
CHANNEL_TOPICS = tuple(_CHANNEL_SHAPES)


def address_topic(address: str) -> str:
    """An address as an indexed argument."""
    return "0x" + address[2:].lower().rjust(64, "0")


def decode_log(log: Log) -> SeenEvent | None:
    """The event in a log; None if it is not one of ours or does not have its shape."""
    shapes = _CHANNEL_SHAPES if log.address == BATCH_SETTLEMENT_HEX else _TOKEN_SHAPES
    shape = shapes.get(log.topics[0]) if log.topics else None
    if shape is None:
        return None
    indexed = [each for each in shape.inputs if each["indexed"]]
    plain = [each for each in shape.inputs if not each["indexed"]]
    if len(indexed) != len(log.topics) - 1:
        return None
    try:
        values = decode([_type(each) for each in plain], log.data)
        words = [
            decode([_type(each)], bytes.fromhex(topic[2:]))[0]
            for each, topic in zip(indexed, log.topics[1:], strict=True)
        ]
    except (DecodingError, ValueError):
        return None
    args = _named(indexed, words) | _named(plain, values)
    return SeenEvent(
        name=shape.name,
        channel_id=args.get("channelId"),
        args=args,
        block_number=log.block_number,
        block_hash=log.block_hash,
        tx_hash=log.tx_hash,
        log_index=log.log_index,
    )


def read_args(text: str) -> dict[str, Any]:
    """Undo `args_json`."""
    return {name: _number(value) for name, value in json.loads(text).items()}


def _named(fields: Sequence[dict[str, Any]], values: Sequence[Any]) -> dict[str, Any]:
    return {
        field["name"]: _plain(field, value) for field, value in zip(fields, values, strict=True)
    }


def _plain(field: dict[str, Any], value: Any) -> Any:
    if field["type"] == "tuple":
        return _named(field["components"], value)
    if isinstance(value, bytes):
        return to_hex(value)
    return value.lower() if isinstance(value, str) else value


def _texts(args: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _texts(value) if isinstance(value, dict) else str(value)
        for name, value in args.items()
    }


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _number(each) for name, each in value.items()}
    return int(value) if value.isdigit() else value
