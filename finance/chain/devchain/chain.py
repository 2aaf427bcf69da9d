"""The development chain as its users see it: a pool, a clock, mining modes, snapshots.

Not safe for threads: `server` runs every call on one worker.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eth.exceptions import Revert
from eth_abi.abi import decode
from eth_utils.exceptions import ValidationError

from finance.chain.addresses import USDC_ADDRESS
from finance.chain.contracts import runtime_code, usdc_storage
from finance.chain.devchain.accounts import ETH_WEI, USDC_ATOMS, DevAccount
from finance.chain.devchain.errors import Refused, Reverted, RpcFault
from finance.chain.devchain.evm import BLOCK_GAS_LIMIT, Account, Block, Call, Evm, Mined
from finance.chain.devchain.mempool import Mempool

_COINBASE = bytes.fromhex("c0" * 20)
_ERROR_STRING = bytes.fromhex("08c379a0")
_PANIC = bytes.fromhex("4e487b71")


@dataclass(frozen=True, slots=True)
class _Snapshot:
    height: int
    state_root: bytes
    offset: int
    pool: tuple[Any, ...]


class Devchain:
    """One chain with its contracts in place and its accounts funded.

    `automine` mines on every transaction; else a block comes when `mine` is called.
    """

    def __init__(self, chain_id: int, accounts: Iterable[DevAccount], automine: bool) -> None:
        self.automine = automine
        self.pool = Mempool()
        self.evm = Evm(chain_id, _genesis(accounts), int(time.time()))
        self._offset_seconds = 0
        self._next_timestamp: int | None = None
        self._places: dict[bytes, tuple[int, int]] = {}
        self._snapshots: dict[int, _Snapshot] = {}

    # Transactions

    def send(self, raw: bytes) -> bytes:
        """Take a signed transaction in and return its hash; mines it when automining.

        Raises Refused with geth's words for what geth refuses.
        """
        try:
            transaction = self.evm.decode(raw)
            transaction.check_signature_validity()
        except Exception as error:  # py-evm, rlp and eth-keys share no base class
            raise Refused(f"invalid transaction: {error}") from error
        self._check(transaction)
        self.pool.add(transaction)
        if self.automine:
            self.mine_ready()
        return bytes(transaction.hash)

    def find(self, transaction_hash: bytes) -> tuple[Block, Mined] | None:
        """Return a mined transaction and its block."""
        place = self._places.get(transaction_hash)
        if place is None:
            return None
        block = self.evm.blocks[place[0]]
        return block, block.mined[place[1]]

    def nonce(self, address: bytes, pending: bool) -> int:
        """Return the next nonce, counting what waits in the pool when `pending`."""
        nonce = int(self.evm.state().get_nonce(address))
        return self.pool.next_nonce(address, nonce) if pending else nonce

    def _check(self, transaction: Any) -> None:
        if transaction.chain_id not in (None, self.evm.chain_id):
            raise Refused(
                f"invalid chain id for signer: have {transaction.chain_id} want {self.evm.chain_id}"
            )
        sender = transaction.sender
        state = self.evm.state()
        nonce, wei = state.get_nonce(sender), state.get_balance(sender)
        if self.pool.get(transaction.hash) is not None:
            raise Refused("already known")
        if transaction.nonce < nonce:
            raise Refused(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        if transaction.gas > BLOCK_GAS_LIMIT:
            raise Refused("exceeds block gas limit")
        if transaction.gas < transaction.intrinsic_gas:
            raise Refused(
                f"intrinsic gas too low: gas {transaction.gas}, "
                f"minimum needed {transaction.intrinsic_gas}"
            )
        if transaction.max_priority_fee_per_gas > transaction.max_fee_per_gas:
            raise Refused("max priority fee per gas higher than max fee per gas")
        needed = transaction.gas * transaction.max_fee_per_gas + transaction.value
        if needed > wei:
            raise Refused(
                "insufficient funds for gas * price + value: "
                f"address 0x{sender.hex()} have {wei} want {needed}"
            )

    # Mining and time

    def mine_ready(self) -> None:
        """Mine blocks until nothing in the pool can be mined."""
        while self._ready():
            height = self.evm.head.number
            self.mine()
            if not self.evm.blocks[height + 1].mined:
                return

    def mine(self) -> Block:
        """Mine one block with what is ready; it may be empty."""
        ready = self._ready()
        block = self.evm.mine(ready, self.now(), _COINBASE)
        self._next_timestamp = None
        for index, mined in enumerate(block.mined):
            self._places[mined.transaction.hash] = (block.number, index)
        for transaction in ready:
            self.pool.remove(transaction)
            self.pool.forget_below(transaction.sender, transaction.nonce + 1)
        return block

    def now(self) -> int:
        """Return the timestamp the next block gets: the wall clock plus the offset."""
        wanted = self._next_timestamp
        if wanted is None:
            wanted = int(time.time()) + self._offset_seconds
        return max(wanted, int(self.evm.head.header.timestamp))

    def increase_time(self, seconds: int) -> int:
        """Move the clock on; returns the whole offset in seconds."""
        self._offset_seconds += seconds
        return self._offset_seconds

    def set_next_timestamp(self, timestamp: int) -> None:
        """Give the next block this timestamp; the clock goes on from there.

        Raises RpcFault when it lies before the newest block.
        """
        if timestamp < self.evm.head.header.timestamp:
            raise RpcFault("timestamp is lower than the previous block's timestamp")
        self._next_timestamp = timestamp
        self._offset_seconds = timestamp - int(time.time())

    def _ready(self) -> tuple[Any, ...]:
        state = self.evm.state()
        return self.pool.ready(state.get_nonce, self.evm.next_base_fee(), BLOCK_GAS_LIMIT)

    # Calls

    def call(self, call: Call, block: Block | None) -> bytes:
        """Return what the call returns; raises Reverted, or RpcFault when it fails otherwise."""
        computation = self._run(call, block)
        _require_success(computation)
        return bytes(computation.output)

    def estimate_gas(self, call: Call, intrinsic: int, block: Block | None) -> int:
        """Return the least gas limit with which the call succeeds.

        What a call holds back for its caller (a 64th) makes it more than what is used,
        so the answer is searched between the two.
        """
        computation = self._run(call, block)
        _require_success(computation)
        low, high = int(computation.get_gas_used()), call.gas
        tried = low
        while low < high:
            if self._run(_with_gas(call, tried), block).is_error:
                low = tried + 1
            else:
                high = tried
            tried = min((low + high) // 2, low + low // 32)
        return intrinsic + low

    def _run(self, call: Call, block: Block | None) -> Any:
        try:
            return self.evm.call(call, block, self.now())
        except ValidationError as error:
            raise Refused(str(error)) from error

    # Snapshots

    def snapshot(self) -> int:
        """Remember chain, pool and clock under a number."""
        number = len(self._snapshots) + 1
        self._snapshots[number] = _Snapshot(
            self.evm.head.number, self.evm.state_root, self._offset_seconds, tuple(self.pool)
        )
        return number

    def revert(self, number: int) -> bool:
        """Return to a snapshot, forgetting it and later ones; False when it is unknown.

        The blocks since then are gone, as after a reorganisation; the transactions in
        them are forgotten, those that waited at the snapshot wait again.
        """
        snapshot = self._snapshots.get(number)
        if snapshot is None:
            return False
        self._snapshots = {key: old for key, old in self._snapshots.items() if key < number}
        self._rewind(snapshot.height, snapshot.state_root)
        self._offset_seconds = snapshot.offset
        self._next_timestamp = None
        self.pool = Mempool()
        for transaction in snapshot.pool:
            self.pool.add(transaction)
        return True

    def reorganise(self, depth: int) -> None:
        """Replace the newest `depth` blocks by empty ones.

        Raises RpcFault when the chain is not that long.
        """
        height = self.evm.head.number - depth
        if depth < 1 or height < 0:
            raise RpcFault("reorg depth must be between 1 and the height of the chain")
        self._rewind(height, self.evm.blocks[height].header.state_root)
        for _ in range(depth):
            self.evm.mine((), self.now(), _COINBASE)

    def _rewind(self, height: int, state_root: bytes) -> None:
        for block in self.evm.rewind(height, state_root):
            for mined in block.mined:
                del self._places[mined.transaction.hash]


def _genesis(accounts: Iterable[DevAccount]) -> dict[bytes, Account]:
    funded = tuple(accounts)
    usdc = usdc_storage({account.address: USDC_ATOMS for account in funded})
    genesis = {bytes.fromhex(each.address[2:]): Account(wei=ETH_WEI) for each in funded}
    for address, code in runtime_code().items():
        storage = usdc if address == USDC_ADDRESS else {}
        genesis[bytes.fromhex(address[2:])] = Account(code=code, storage=storage)
    return genesis


def _with_gas(call: Call, gas: int) -> Call:
    return Call(call.sender, call.to, call.data, call.value, gas, call.access_list)


def _require_success(computation: Any) -> None:
    if not computation.is_error:
        return
    if not isinstance(computation.error, Revert):
        raise Refused(f"execution failed: {type(computation.error).__name__}: {computation.error}")
    output = bytes(computation.output)
    reason = _revert_reason(output)
    message = f"execution reverted: {reason}" if reason else "execution reverted"
    raise Reverted(message, "0x" + output.hex())


def _revert_reason(output: bytes) -> str:
    """Return the sentence in `Error(string)` or `Panic(uint256)` return data, else nothing."""
    try:
        if output[:4] == _ERROR_STRING:
            return str(decode(["string"], output[4:])[0])
        if output[:4] == _PANIC:
            return f"panic code {decode(['uint256'], output[4:])[0]:#x}"
    except Exception:  # a contract may revert with anything
        return ""
    return ""
