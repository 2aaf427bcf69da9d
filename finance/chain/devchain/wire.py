"""Blocks, transactions, receipts and logs as JSON-RPC shows them, and parameters read."""

from typing import Any

from eth_utils.address import to_checksum_address

from finance.chain.devchain.errors import InvalidParams
from finance.chain.devchain.evm import Block, Mined

Json = dict[str, Any]


def quantity(number: int) -> str:
    """Return a number as JSON-RPC writes it, `0x2a`."""
    return hex(number)


def data(value: bytes) -> str:
    """Return bytes as JSON-RPC writes them."""
    return "0x" + value.hex()


def read_data(value: Any, length: int | None = None) -> bytes:
    """Read hex bytes, of `length` when given. Raises InvalidParams."""
    try:
        read = bytes.fromhex(value.removeprefix("0x"))
    except (AttributeError, ValueError) as error:
        raise InvalidParams(f"not hex data: {value!r}") from error
    if length is not None and len(read) != length:
        raise InvalidParams(f"expected {length} bytes, got {len(read)}: {value!r}")
    return read


def read_quantity(value: Any) -> int:
    """Read a number, hex or (as hardhat allows for test methods) decimal. Raises InvalidParams."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(value, 16 if value.startswith("0x") else 10)
    except (AttributeError, ValueError) as error:
        raise InvalidParams(f"not a number: {value!r}") from error


def transaction_json(transaction: Any, block: Block | None, index: int | None) -> Json:
    """Return a transaction; one that waits has no block."""
    shown: Json = {
        "hash": data(transaction.hash),
        "nonce": quantity(transaction.nonce),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "value": quantity(transaction.value),
        "gas": quantity(transaction.gas),
        "input": data(transaction.data),
        "blockHash": data(block.header.hash) if block else None,
        "blockNumber": quantity(block.number) if block else None,
        "transactionIndex": None if index is None else quantity(index),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
        "type": quantity(transaction_type(transaction)),
    }
    if transaction.chain_id is not None:
        shown["chainId"] = quantity(transaction.chain_id)
    base_fee = block.header.base_fee_per_gas if block else 0
    return shown | _signature_and_fees(transaction, base_fee)


def transaction_type(transaction: Any) -> int:
    """Return the EIP-2718 type, 0 for those before it."""
    return int(getattr(transaction, "type_id", None) or 0)


def effective_gas_price(transaction: Any, base_fee: int) -> int:
    """Wei per gas the sender pays in a block with this base fee."""
    tipped = transaction.max_priority_fee_per_gas + base_fee
    return int(min(transaction.max_fee_per_gas, tipped))


def _signature_and_fees(transaction: Any, base_fee: int) -> Json:
    kind = transaction_type(transaction)
    if kind == 0:
        return {"v": quantity(transaction.v), "gasPrice": quantity(transaction.gas_price)}
    shown: Json = {
        "v": quantity(transaction.y_parity),
        "yParity": quantity(transaction.y_parity),
        "accessList": [
            {
                "address": to_checksum_address(address),
                "storageKeys": [data(slot.to_bytes(32, "big")) for slot in slots],
            }
            for address, slots in transaction.access_list
        ],
    }
    if kind == 1:
        return shown | {"gasPrice": quantity(transaction.gas_price)}
    return shown | {
        "maxFeePerGas": quantity(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": quantity(transaction.max_priority_fee_per_gas),
        "gasPrice": quantity(effective_gas_price(transaction, base_fee)),
    }


def receipt_json(block: Block, mined: Mined) -> Json:
    """Return the receipt of a mined transaction, logs included."""
    transaction = mined.transaction
    index = block.mined.index(mined)
    return {
        "transactionHash": data(transaction.hash),
        "transactionIndex": quantity(index),
        "blockHash": data(block.header.hash),
        "blockNumber": quantity(block.number),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "cumulativeGasUsed": quantity(mined.receipt.gas_used),
        "gasUsed": quantity(mined.gas_used),
        "effectiveGasPrice": quantity(
            effective_gas_price(transaction, block.header.base_fee_per_gas)
        ),
        "contractAddress": to_checksum_address(mined.created) if mined.created else None,
        "logs": logs_json(block, mined, index),
        "logsBloom": data(mined.receipt.bloom.to_bytes(256, "big")),
        "status": quantity(int(mined.receipt.state_root == b"\x01")),
        "type": quantity(transaction_type(transaction)),
    }


def logs_json(block: Block, mined: Mined, index: int) -> list[Json]:
    """Return the logs of one mined transaction, numbered through the block."""
    return [
        {
            "address": to_checksum_address(log.address),
            "topics": [data(topic.to_bytes(32, "big")) for topic in log.topics],
            "data": data(log.data),
            "blockNumber": quantity(block.number),
            "blockHash": data(block.header.hash),
            "blockTimestamp": quantity(block.header.timestamp),
            "transactionHash": data(mined.transaction.hash),
            "transactionIndex": quantity(index),
            "logIndex": quantity(mined.first_log_index + position),
            "removed": False,
        }
        for position, log in enumerate(mined.receipt.logs)
    ]


def block_json(block: Block, full: bool) -> Json:
    """Return a block with its transactions, or only their hashes."""
    header = block.header
    transactions: list[Any] = [data(each.transaction.hash) for each in block.mined]
    if full:
        transactions = [
            transaction_json(each.transaction, block, index)
            for index, each in enumerate(block.mined)
        ]
    return {
        "number": quantity(block.number),
        "hash": data(header.hash),
        "parentHash": data(header.parent_hash),
        "nonce": data(header.nonce),
        "sha3Uncles": data(header.uncles_hash),
        "logsBloom": data(header.bloom.to_bytes(256, "big")),
        "transactionsRoot": data(header.transaction_root),
        "stateRoot": data(header.state_root),
        "receiptsRoot": data(header.receipt_root),
        "miner": to_checksum_address(header.coinbase),
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": data(header.extra_data),
        "size": "0x0",
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "timestamp": quantity(header.timestamp),
        "baseFeePerGas": quantity(header.base_fee_per_gas),
        "mixHash": data(header.mix_hash),
        "transactions": transactions,
        "uncles": [],
        "withdrawals": [],
        "withdrawalsRoot": data(header.withdrawals_root),
        "blobGasUsed": quantity(header.blob_gas_used),
        "excessBlobGas": quantity(header.excess_blob_gas),
        "parentBeaconBlockRoot": data(header.parent_beacon_block_root),
    }
