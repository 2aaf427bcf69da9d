"""The events we watch, decoded: USDC transfers and the life of payment channels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.exceptions import DecodingError
from eth_typing import BlockNumber
from eth_utils.abi import event_abi_to_log_topic
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes
from web3 import Web3
from web3.contract.contract import ContractEvent
from web3.exceptions import Web3Exception
from web3.types import LogReceipt

from finance.chain.abi import BATCH_SETTLEMENT_ABI, USDC_ABI
from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.answers import Log
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


def _events(abi: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, ContractEvent]:
    """The named events of a contract by their topic."""
    contract = Web3().eth.contract(abi=abi, decode_tuples=True)
    events = [contract.events[name]() for name in names]
    return {to_hex(event_abi_to_log_topic(event.abi)): event for event in events}


_CHANNEL_EVENTS = _events(
    BATCH_SETTLEMENT_ABI, [each["name"] for each in BATCH_SETTLEMENT_ABI if each["type"] == "event"]
)
_TOKEN_EVENTS = _events(USDC_ABI, ["Transfer"])
(TRANSFER_TOPIC,) = _TOKEN_EVENTS
CHANNEL_TOPICS = tuple(_CHANNEL_EVENTS)


def address_topic(address: str) -> str:
    """An address as an indexed argument."""
    return "0x" + address[2:].lower().rjust(64, "0")


def decode_log(log: Log) -> SeenEvent | None:
    """The event in a log; None if it is not one of ours or does not have its shape."""
    events = _CHANNEL_EVENTS if log.address == BATCH_SETTLEMENT_HEX else _TOKEN_EVENTS
    event = events.get(log.topics[0]) if log.topics else None
    if event is None:
        return None
    try:
        seen = event.process_log(_receipt_log(log))
    except (Web3Exception, DecodingError, ValueError):
        return None
    args = _plain(seen["args"])
    return SeenEvent(
        name=seen["event"],
        channel_id=args.get("channelId"),
        args=args,
        block_number=log.block_number,
        block_hash=log.block_hash,
        tx_hash=log.tx_hash,
        log_index=log.log_index,
    )


def _receipt_log(log: Log) -> LogReceipt:
    """A log as web3 takes it; the fields that say where it stands are not looked at."""
    return LogReceipt(
        address=to_checksum_address(log.address),
        topics=[HexBytes(topic) for topic in log.topics],
        data=HexBytes(log.data),
        blockNumber=BlockNumber(log.block_number),
        blockHash=HexBytes(log.block_hash),
        transactionHash=HexBytes(log.tx_hash),
        transactionIndex=0,
        logIndex=log.log_index,
        removed=False,
    )


def read_args(text: str) -> dict[str, Any]:
    """Undo `args_json`."""
    return {name: _number(value) for name, value in json.loads(text).items()}


def _plain(value: Any) -> Any:
    """web3's values as ours: structs as dicts, bytes and addresses as lower-case hex."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
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
