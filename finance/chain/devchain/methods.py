"""The JSON-RPC methods of a normal node that Farebox, web3.py and the x402 SDK call."""

from collections.abc import Callable, Iterator
from typing import Any

from eth.vm.forks.cancun import CancunVM

from finance.chain.devchain import wire
from finance.chain.devchain.chain import Devchain
from finance.chain.devchain.errors import InvalidParams, RpcFault
from finance.chain.devchain.evm import BLOCK_GAS_LIMIT, CODE_CREATION, Block, Call
from finance.chain.devchain.mempool import tip
from finance.chain.devchain.wire import Json, quantity, read_data, read_quantity

TIP_WEI = 10**9
CLIENT_VERSION = "farebox-devchain/py-evm"

Method = Callable[..., Any]


class NodeMethods:
    """`eth_`, `net_` and `web3_` methods over one chain."""

    def __init__(self, chain: Devchain) -> None:
        self._chain = chain

    def table(self) -> dict[str, Method]:
        """Return every method by its JSON-RPC name."""
        return {
            "web3_clientVersion": lambda: CLIENT_VERSION,
            "net_version": lambda: str(self._chain.evm.chain_id),
            "eth_syncing": lambda: False,
            "eth_chainId": lambda: quantity(self._chain.evm.chain_id),
            "eth_blockNumber": lambda: quantity(self._chain.evm.head.number),
            "eth_maxPriorityFeePerGas": lambda: quantity(TIP_WEI),
            "eth_gasPrice": lambda: quantity(self._chain.evm.next_base_fee() + TIP_WEI),
            "eth_feeHistory": self.fee_history,
            "eth_getBalance": self.balance,
            "eth_getCode": self.code,
            "eth_getStorageAt": self.storage,
            "eth_getTransactionCount": self.transaction_count,
            "eth_call": self.call,
            "eth_estimateGas": self.estimate_gas,
            "eth_sendRawTransaction": lambda raw: wire.data(self._chain.send(read_data(raw))),
            "eth_getTransactionByHash": self.transaction,
            "eth_getTransactionReceipt": self.receipt,
            "eth_getBlockByNumber": self.block_by_number,
            "eth_getBlockByHash": self.block_by_hash,
            "eth_getBlockReceipts": self.block_receipts,
            "eth_getLogs": self.logs,
        }

    # Accounts

    def balance(self, address: str, tag: Any = "latest") -> str:
        return quantity(self._state(tag).get_balance(read_data(address, 20)))

    def code(self, address: str, tag: Any = "latest") -> str:
        return wire.data(self._state(tag).get_code(read_data(address, 20)))

    def storage(self, address: str, slot: Any, tag: Any = "latest") -> str:
        word = self._state(tag).get_storage(read_data(address, 20), read_quantity(slot))
        return wire.data(word.to_bytes(32, "big"))

    def transaction_count(self, address: str, tag: Any = "latest") -> str:
        account = read_data(address, 20)
        if tag == "pending":
            return quantity(self._chain.nonce(account, pending=True))
        return quantity(self._state(tag).get_nonce(account))

    # Calls

    def call(self, call: Json, tag: Any = "latest", _overrides: Any = None) -> str:
        return wire.data(self._chain.call(_read_call(call), self._context(tag)))

    def estimate_gas(self, call: Json, tag: Any = "latest", _overrides: Any = None) -> str:
        read = _read_call(call)
        intrinsic = _intrinsic_gas(read)
        return quantity(self._chain.estimate_gas(read, intrinsic, self._context(tag)))

    # Transactions, blocks, logs

    def transaction(self, transaction_hash: str) -> Json | None:
        key = read_data(transaction_hash, 32)
        waiting = self._chain.pool.get(key)
        if waiting is not None:
            return wire.transaction_json(waiting, None, None)
        found = self._chain.find(key)
        if found is None:
            return None
        block, mined = found
        return wire.transaction_json(mined.transaction, block, block.mined.index(mined))

    def receipt(self, transaction_hash: str) -> Json | None:
        found = self._chain.find(read_data(transaction_hash, 32))
        return None if found is None else wire.receipt_json(*found)

    def block_by_number(self, tag: Any, full: bool = False) -> Json | None:
        block = self._block(tag)
        return None if block is None else wire.block_json(block, full)

    def block_by_hash(self, block_hash: str, full: bool = False) -> Json | None:
        block = self._block_of_hash(block_hash)
        return None if block is None else wire.block_json(block, full)

    def block_receipts(self, tag: Any) -> list[Json] | None:
        block = self._block(tag)
        if block is None:
            return None
        return [wire.receipt_json(block, mined) for mined in block.mined]

    def logs(self, query: Json) -> list[Json]:
        addresses = _read_addresses(query.get("address"))
        topics = [_read_topics(each) for each in query.get("topics") or ()]
        return [
            log
            for block in self._range(query)
            for index, mined in enumerate(block.mined)
            for log in wire.logs_json(block, mined, index)
            if _matches(log, addresses, topics)
        ]

    def fee_history(self, count: Any, newest: Any, percentiles: list[float] | None = None) -> Json:
        block = self._block(newest)
        if block is None:
            raise RpcFault("request beyond head block")
        first = max(0, block.number - read_quantity(count) + 1)
        blocks = self._chain.evm.blocks[first : block.number + 1]
        fees = [each.header.base_fee_per_gas for each in blocks]
        following = self._chain.evm.blocks[block.number + 1 : block.number + 2]
        fees += [each.header.base_fee_per_gas for each in following] or [
            self._chain.evm.next_base_fee()
        ]
        history: Json = {
            "oldestBlock": quantity(first),
            "baseFeePerGas": [quantity(fee) for fee in fees],
            "gasUsedRatio": [each.header.gas_used / each.header.gas_limit for each in blocks],
        }
        if percentiles:
            history["reward"] = [
                [quantity(each) for each in _rewards(block, percentiles)] for block in blocks
            ]
        return history

    # Which block

    def _state(self, tag: Any) -> Any:
        return self._chain.evm.state(self._context(tag))

    def _context(self, tag: Any) -> Block | None:
        """Return the block whose state a request reads; None for the newest state."""
        if tag in (None, "latest", "pending", "safe", "finalized"):
            return None
        block = self._block(tag)
        if block is None:
            raise RpcFault("header not found")
        return None if block is self._chain.evm.head else block

    def _block(self, tag: Any) -> Block | None:
        if isinstance(tag, dict):
            if "blockHash" in tag:
                return self._block_of_hash(tag["blockHash"])
            tag = tag.get("blockNumber")
        blocks = self._chain.evm.blocks
        if tag == "earliest":
            return blocks[0]
        if tag in (None, "latest", "pending", "safe", "finalized"):
            return blocks[-1]
        number = read_quantity(tag)
        return blocks[number] if 0 <= number < len(blocks) else None

    def _block_of_hash(self, block_hash: str) -> Block | None:
        key = read_data(block_hash, 32)
        reverse = reversed(self._chain.evm.blocks)
        return next((block for block in reverse if block.header.hash == key), None)

    def _range(self, query: Json) -> Iterator[Block]:
        if "blockHash" in query:
            block = self._block_of_hash(query["blockHash"])
            if block is None:
                raise RpcFault("unknown block")
            return iter((block,))
        head = self._chain.evm.head
        first = self._block(query.get("fromBlock"))
        last = self._block(query.get("toBlock")) or head
        if first is None:
            return iter(())
        if first.number > last.number:
            raise InvalidParams("invalid block range params")
        return iter(self._chain.evm.blocks[first.number : last.number + 1])


def _read_call(call: Json) -> Call:
    to = call.get("to")
    raw = call.get("input", call.get("data"))
    return Call(
        sender=read_data(call.get("from") or "0x" + "00" * 20, 20),
        to=read_data(to, 20) if to else CODE_CREATION,
        data=read_data(raw) if raw else b"",
        value=read_quantity(call.get("value") or 0),
        gas=min(read_quantity(call.get("gas") or BLOCK_GAS_LIMIT), BLOCK_GAS_LIMIT),
        access_list=tuple(
            (read_data(each["address"], 20), tuple(map(read_quantity, each["storageKeys"])))
            for each in call.get("accessList") or ()
        ),
    )


def _intrinsic_gas(call: Call) -> int:
    builder: Any = CancunVM.get_transaction_builder()
    transaction = builder.new_unsigned_dynamic_fee_transaction(
        chain_id=1,
        nonce=0,
        max_priority_fee_per_gas=0,
        max_fee_per_gas=0,
        gas=call.gas,
        to=call.to,
        value=call.value,
        data=call.data,
        access_list=call.access_list,
    )
    return int(transaction.intrinsic_gas)


def _read_addresses(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    return frozenset(wire.data(read_data(each, 20)) for each in listed)


def _read_topics(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    listed = value if isinstance(value, list) else [value]
    return frozenset(wire.data(read_data(each, 32)) for each in listed)


def _matches(
    log: Json, addresses: frozenset[str] | None, topics: list[frozenset[str] | None]
) -> bool:
    if addresses is not None and log["address"].lower() not in addresses:
        return False
    if len(topics) > len(log["topics"]):
        return False
    pairs = zip(topics, log["topics"], strict=False)
    return all(wanted is None or topic in wanted for wanted, topic in pairs)


def _rewards(block: Block, percentiles: list[float]) -> list[int]:
    """Return the tips below which these shares of the block's gas were paid for."""
    base_fee = block.header.base_fee_per_gas
    paid = sorted((tip(each.transaction, base_fee), each.gas_used) for each in block.mined)
    if not paid:
        return [0 for _ in percentiles]
    return [_reward(paid, block.header.gas_used * share / 100) for share in percentiles]


def _reward(paid: list[tuple[int, int]], gas: float) -> int:
    for wei, used in paid:
        gas -= used
        if gas <= 0:
            return wei
    return paid[-1][0]
