"""Blocks and states: py-evm (Cancun rules) with nothing else around it.

One object is one chain with its whole history. It knows no pool, clock or wire
format and is not safe for threads.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from eth.abc import ComputationAPI
from eth.consensus.context import ConsensusContext
from eth.db.atomic import AtomicDB
from eth.db.chain import ChainDB
from eth.vm.chain_context import ChainContext
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth.vm.forks.london.headers import calculate_expected_base_fee_per_gas
from eth.vm.message import Message
from eth_utils.exceptions import ValidationError

BLOCK_GAS_LIMIT = 30_000_000
FIRST_BASE_FEE_WEI = 10**9
CODE_CREATION = b""
_PRECOMPILES = tuple(number.to_bytes(20, "big") for number in range(1, 11))
_EMPTY_ROOT = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")


class Account(NamedTuple):
    """A genesis account: wei, code, storage by slot."""

    wei: int = 0
    code: bytes = b""
    storage: dict[int, int] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True, slots=True)
class Mined:
    """One executed transaction; `receipt.gas_used` is cumulative, `gas_used` its own."""

    transaction: Any
    receipt: Any
    gas_used: int
    created: bytes | None
    first_log_index: int


@dataclass(frozen=True, slots=True)
class Block:
    """`header.state_root` is the state after the block."""

    header: Any
    mined: tuple[Mined, ...]

    @property
    def number(self) -> int:
        return int(self.header.block_number)


@dataclass(frozen=True, slots=True)
class Call:
    """What `eth_call` runs; an empty `to` creates a contract."""

    sender: bytes
    to: bytes
    data: bytes
    value: int = 0
    gas: int = BLOCK_GAS_LIMIT
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...] = ()


class Evm:
    """A chain from its genesis on."""

    def __init__(self, chain_id: int, genesis: dict[bytes, Account], timestamp: int) -> None:
        self.chain_id = chain_id
        self._db = AtomicDB()
        self._chaindb = ChainDB(self._db)
        self._chain_context = ChainContext(chain_id)
        self.state_root: bytes = _EMPTY_ROOT
        self.blocks: list[Block] = []
        header = self._header(None, timestamp)
        self.state_root = self._written(header, lambda state: _fill(state, genesis))
        self.blocks.append(Block(header.copy(state_root=self.state_root), ()))

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    def next_base_fee(self) -> int:
        """Wei per gas the next block will burn (EIP-1559)."""
        return int(calculate_expected_base_fee_per_gas(self.head.header))

    def state(self, block: Block | None = None) -> Any:
        """Return the state after `block`, or the newest one, to read from."""
        root = self.state_root if block is None else block.header.state_root
        header = (self.head if block is None else block).header
        return self._state(header.copy(state_root=root))

    def write(self, change: Callable[[Any], None]) -> None:
        """Change the newest state outside any transaction."""
        self.state_root = self._written(self.head.header, change)

    def decode(self, raw: bytes) -> Any:
        """Return the signed transaction in `raw`.

        Raises ValidationError or an rlp or value error when it is not one.
        """
        return CancunVM.get_transaction_builder().decode(raw)

    def mine(self, transactions: Sequence[Any], timestamp: int, coinbase: bytes) -> Block:
        """Execute and append one block.

        A transaction that cannot stand in it is skipped: the caller sees which ones
        were mined in the block.
        """
        header = self._header(self.head, timestamp, coinbase)
        vm = CancunVM(header, self._chaindb, self._chain_context, ConsensusContext(self._db))
        vm._state = self._state(header)
        mined: list[Mined] = []
        for transaction in transactions:
            try:
                receipt, computation = vm.apply_transaction(header, transaction)
            except ValidationError:
                continue
            gas_used = receipt.gas_used - header.gas_used
            header = vm.add_receipt_to_header(header, receipt)
            mined.append(_mined(transaction, receipt, gas_used, computation, mined))
        block = vm.set_block_transactions_and_withdrawals(
            vm.get_block(),
            header,
            tuple(each.transaction for each in mined),
            tuple(each.receipt for each in mined),
        )
        vm.state.persist()
        self.state_root = vm.state.state_root
        self.blocks.append(Block(block.header.copy(state_root=self.state_root), tuple(mined)))
        return self.head

    def call(self, call: Call, block: Block | None = None, timestamp: int | None = None) -> Any:
        """Run a call on the state after `block` (or the newest) and forget its changes.

        Returns py-evm's computation. Its gas does not count the intrinsic gas, which
        the caller is taken to have paid. In the newest state the call sees the block
        that would come next, at `timestamp`.
        """
        if block is None:
            header = self._header(self.head, timestamp or self.head.header.timestamp)
        else:
            header = block.header
        state = self._state(header)
        if state.get_balance(call.sender) < call.value:
            raise ValidationError("insufficient funds for transfer")
        return _run(state, call)

    def rewind(self, height: int, state_root: bytes) -> tuple[Block, ...]:
        """Drop every block above `height` and return them, lowest first."""
        dropped = tuple(self.blocks[height + 1 :])
        del self.blocks[height + 1 :]
        self.state_root = state_root
        return dropped

    def _header(self, parent: Block | None, timestamp: int, coinbase: bytes = b"\0" * 20) -> Any:
        fields: dict[str, Any] = {
            "difficulty": 0,
            "block_number": 0 if parent is None else parent.number + 1,
            "gas_limit": BLOCK_GAS_LIMIT,
            "timestamp": timestamp,
            "coinbase": coinbase,
            "parent_hash": b"\0" * 32 if parent is None else parent.header.hash,
            "state_root": self.state_root,
            "base_fee_per_gas": FIRST_BASE_FEE_WEI if parent is None else self.next_base_fee(),
            "mix_hash": os.urandom(32),
            "nonce": b"\0" * 8,
            "withdrawals_root": _EMPTY_ROOT,
            "blob_gas_used": 0,
            "excess_blob_gas": 0,
            "parent_beacon_block_root": b"\0" * 32,
        }
        return CancunBlockHeader(**fields)

    def _state(self, header: Any) -> Any:
        return CancunVM.build_state(self._db, header, self._chain_context, self._hashes(header))

    def _hashes(self, header: Any) -> Iterable[Any]:
        number = header.block_number
        return (block.header.hash for block in reversed(self.blocks[max(0, number - 256) : number]))

    def _written(self, header: Any, change: Callable[[Any], None]) -> bytes:
        state = self._state(header.copy(state_root=self.state_root))
        change(state)
        state.persist()
        return bytes(state.state_root)


def _fill(state: Any, accounts: dict[bytes, Account]) -> None:
    for address, account in accounts.items():
        state.set_balance(address, account.wei)
        state.set_code(address, account.code)
        for slot, word in account.storage.items():
            state.set_storage(address, slot, word)


def _mined(
    transaction: Any,
    receipt: Any,
    gas_used: int,
    computation: ComputationAPI,
    before: Sequence[Mined],
) -> Mined:
    created = computation.msg.storage_address if computation.msg.is_create else None
    last = before[-1] if before else None
    first_log = last.first_log_index + len(last.receipt.logs) if last else 0
    return Mined(transaction, receipt, gas_used, created, first_log)


def _run(state: Any, call: Call) -> Any:
    creating = call.to == CODE_CREATION
    fields: dict[str, Any] = {
        "gas": call.gas,
        "to": call.to,
        "sender": call.sender,
        "value": call.value,
        "data": b"" if creating else call.data,
        "code": call.data if creating else state.get_code(call.to),
        "create_address": b"\xff" * 20 if creating else None,
    }
    message = Message(**fields)
    for address in (call.sender, message.storage_address, state.coinbase, *_PRECOMPILES):
        state.mark_address_warm(address)
    for address, slots in call.access_list:
        state.mark_address_warm(address)
        for slot in slots:
            state.mark_storage_warm(address, slot)
    context = state.get_transaction_context_class()(gas_price=0, origin=call.sender)
    run = state.computation_class
    if creating:
        return run.apply_create_message(state, message, context)
    return run.apply_message(state, message, context)
