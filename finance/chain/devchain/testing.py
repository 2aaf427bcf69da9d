"""The methods by which tests move time, mine and change state, named as anvil's are."""

from typing import Any

from finance.chain.devchain.chain import Devchain
from finance.chain.devchain.errors import InvalidParams
from finance.chain.devchain.methods import Method
from finance.chain.devchain.wire import data, quantity, read_data, read_quantity

_MOST_BLOCKS = 10_000


class TestingMethods:
    """`evm_` and `anvil_` methods over one chain; `interval_seconds` is read by the server."""

    __test__ = False  # not a pytest class

    def __init__(self, chain: Devchain, interval_seconds: float | None) -> None:
        self._chain = chain
        self.interval_seconds = interval_seconds

    def table(self) -> dict[str, Method]:
        """Return every method by its JSON-RPC name."""
        chain = self._chain
        return {
            "evm_increaseTime": lambda seconds: chain.increase_time(read_quantity(seconds)),
            "evm_setNextBlockTimestamp": self.set_next_timestamp,
            "evm_mine": self.mine_one,
            "anvil_mine": self.mine,
            "evm_snapshot": lambda: quantity(chain.snapshot()),
            "evm_revert": lambda number: chain.revert(read_quantity(number)),
            "evm_setAutomine": self.set_automine,
            "evm_setIntervalMining": self.set_interval,
            "anvil_setBalance": self.set_balance,
            "anvil_setCode": self.set_code,
            "anvil_setNonce": self.set_nonce,
            "anvil_setStorageAt": self.set_storage,
            "anvil_dropTransaction": self.drop,
            "anvil_reorg": self.reorganise,
        }

    def set_next_timestamp(self, timestamp: Any) -> None:
        self._chain.set_next_timestamp(read_quantity(timestamp))

    def mine_one(self, options: Any = None) -> str:
        if isinstance(options, dict):
            options = options.get("timestamp")
        if options is not None:
            self.set_next_timestamp(options)
        self._chain.mine()
        return "0x0"

    def mine(self, count: Any = 1, interval_seconds: Any = 0) -> None:
        blocks = read_quantity(count)
        if blocks > _MOST_BLOCKS:
            raise InvalidParams(f"at most {_MOST_BLOCKS} blocks at once")
        for number in range(blocks):
            if number:
                self._chain.increase_time(read_quantity(interval_seconds))
            self._chain.mine()

    def set_automine(self, enabled: bool) -> None:
        self._chain.automine = enabled
        if enabled:
            self._chain.mine_ready()

    def set_interval(self, seconds: Any) -> None:
        self.interval_seconds = seconds if isinstance(seconds, float) else read_quantity(seconds)
        self._chain.automine = False

    def set_balance(self, address: str, wei: Any) -> None:
        account, amount = read_data(address, 20), read_quantity(wei)
        self._chain.evm.write(lambda state: state.set_balance(account, amount))

    def set_code(self, address: str, code: str) -> None:
        account, placed = read_data(address, 20), read_data(code)
        self._chain.evm.write(lambda state: state.set_code(account, placed))

    def set_nonce(self, address: str, nonce: Any) -> None:
        account, wanted = read_data(address, 20), read_quantity(nonce)
        self._chain.evm.write(lambda state: state.set_nonce(account, wanted))

    def set_storage(self, address: str, slot: Any, word: str) -> bool:
        account, place = read_data(address, 20), read_quantity(slot)
        value = int.from_bytes(read_data(word, 32), "big")
        self._chain.evm.write(lambda state: state.set_storage(account, place, value))
        return True

    def drop(self, transaction_hash: str) -> str | None:
        waiting = self._chain.pool.get(read_data(transaction_hash, 32))
        if waiting is None:
            return None
        self._chain.pool.remove(waiting)
        return data(waiting.hash)

    def reorganise(self, depth: Any, _transactions: Any = None) -> None:
        self._chain.reorganise(read_quantity(depth))
