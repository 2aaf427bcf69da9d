"""Transactions that wait: by sender and nonce, replaced by higher fees, gaps queued."""

from collections.abc import Callable, Iterator
from typing import Any

from finance.chain.devchain.errors import Refused

MIN_REPLACEMENT_PERCENT = 110


class Mempool:
    """The pool of one chain; every transaction in it has passed the checks of `chain`."""

    def __init__(self) -> None:
        self._by_sender: dict[bytes, dict[int, Any]] = {}
        self._by_hash: dict[bytes, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(self._by_hash.values()))

    def get(self, transaction_hash: bytes) -> Any | None:
        """Return the waiting transaction of this hash."""
        return self._by_hash.get(transaction_hash)

    def add(self, transaction: Any) -> None:
        """Take a transaction in, in place of one with the same nonce and lower fees.

        Raises Refused ("already known", "replacement transaction underpriced").
        """
        if transaction.hash in self._by_hash:
            raise Refused("already known")
        queue = self._by_sender.setdefault(transaction.sender, {})
        waiting = queue.get(transaction.nonce)
        if waiting is not None:
            _require_higher_fees(waiting, transaction)
            del self._by_hash[waiting.hash]
        queue[transaction.nonce] = transaction
        self._by_hash[transaction.hash] = transaction

    def remove(self, transaction: Any) -> None:
        """Forget a transaction; one that is not there is no error."""
        if self._by_hash.pop(transaction.hash, None) is not None:
            del self._by_sender[transaction.sender][transaction.nonce]

    def forget_below(self, sender: bytes, nonce: int) -> None:
        """Forget what this sender can no longer send."""
        for stale in [n for n in self._by_sender.get(sender, {}) if n < nonce]:
            self.remove(self._by_sender[sender][stale])

    def next_nonce(self, sender: bytes, nonce: int) -> int:
        """Return the first nonce from `nonce` on with nothing waiting."""
        queue = self._by_sender.get(sender, {})
        while nonce in queue:
            nonce += 1
        return nonce

    def ready(
        self, nonce_of: Callable[[bytes], int], base_fee: int, gas_limit: int
    ) -> tuple[Any, ...]:
        """Return what the next block holds: best tip first, each sender in nonce order."""
        heads = {sender: nonce_of(sender) for sender in self._by_sender}
        chosen: list[Any] = []
        while True:
            candidates = [
                transaction
                for sender, nonce in heads.items()
                if (transaction := self._by_sender[sender].get(nonce)) is not None
                and transaction.max_fee_per_gas >= base_fee
                and transaction.gas <= gas_limit
            ]
            if not candidates:
                return tuple(chosen)
            best = max(candidates, key=lambda each: tip(each, base_fee))
            chosen.append(best)
            gas_limit -= best.gas
            heads[best.sender] += 1


def tip(transaction: Any, base_fee: int) -> int:
    """Wei per gas that the block's producer gets."""
    spare = transaction.max_fee_per_gas - base_fee
    return int(min(spare, transaction.max_priority_fee_per_gas))


def _require_higher_fees(old: Any, new: Any) -> None:
    for field in ("max_fee_per_gas", "max_priority_fee_per_gas"):
        if getattr(new, field) * 100 < getattr(old, field) * MIN_REPLACEMENT_PERCENT:
            raise Refused("replacement transaction underpriced")
