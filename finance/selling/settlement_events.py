"""Which event of a transaction is one payment's own (law 5).

A payment is settled by its nonce: `AuthorizationUsed(payer, nonce)`, and what follows
it, whoever submitted it and in whichever transaction. Status alone says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS
from finance.chain.answers import Log
from finance.models import PaymentKind
from finance.selling.owed import Owed
from finance.x402.digest import keccak
from finance.x402.text import to_hex


def _topic(signature: str) -> str:
    return to_hex(keccak(signature.encode()))


TRANSFER: Final = _topic("Transfer(address,address,uint256)")
AUTHORIZATION_USED: Final = _topic("AuthorizationUsed(address,bytes32)")
AUTHORIZATION_CANCELED: Final = _topic("AuthorizationCanceled(address,bytes32)")
DEPOSITED: Final = _topic("Deposited(bytes32,address,uint128,uint128)")
CLAIMED: Final = _topic("Claimed(bytes32,address,uint128,uint128)")
REFUNDED: Final = _topic("Refunded(bytes32,address,uint128)")
BATCH_SETTLEMENT: Final = BATCH_SETTLEMENT_ADDRESS.lower()


@dataclass(frozen=True, slots=True)
class Found:
    """Where a payment's money moved."""

    tx_hash: str
    log_index: int
    block_number: int


def address_topic(address_hex: str) -> str:
    """An address as an indexed argument."""
    return "0x" + address_hex[2:].rjust(64, "0")


def find_own(payment: Owed, logs: Sequence[Log]) -> Found | None:
    """The payment's own money among the logs of one transaction, or None.

    The token emits `AuthorizationUsed` and then the `Transfer` of the same call, so it
    is the payer's next transfer that counts, and it must be of the right amount to the
    right address. A deposit counts once BatchSettlement has booked it on its channel.
    """
    ordered = sorted(logs, key=lambda log: log.log_index)
    for index, log in enumerate(ordered):
        if is_of_nonce(log, payment, AUTHORIZATION_USED):
            rest = ordered[index + 1 :]
            if not _moved(payment, rest):
                return None
            if payment.kind == PaymentKind.EXACT:
                return _found(_next_transfer(payment, rest))
            return _found(next((each for each in rest if _is_deposit(payment, each)), None))
    return None


def is_of_nonce(log: Log, payment: Owed, event: str) -> bool:
    """Whether `log` is `event(payer, nonce)` of the payment's token."""
    wanted = (event, address_topic(payment.payer), payment.nonce)
    return log.address == payment.token and log.topics == wanted


def _moved(payment: Owed, rest: Sequence[Log]) -> bool:
    transfer = _next_transfer(payment, rest)
    return (
        transfer is not None
        and transfer.topics[2] == address_topic(payment.pay_to)
        and int.from_bytes(transfer.data, "big") == payment.value_atoms
    )


def _next_transfer(payment: Owed, rest: Sequence[Log]) -> Log | None:
    sender = address_topic(payment.payer)
    for log in rest:
        if log.address == payment.token and len(log.topics) == 3 and log.topics[0] == TRANSFER:
            return log if log.topics[1] == sender else None
    return None


def _is_deposit(payment: Owed, log: Log) -> bool:
    return (
        log.address == BATCH_SETTLEMENT
        and log.topics[:2] == (DEPOSITED, payment.channel_id)
        and int.from_bytes(log.data[:32], "big") == payment.value_atoms
    )


def _found(log: Log | None) -> Found | None:
    return Found(log.tx_hash, log.log_index, log.block_number) if log else None
