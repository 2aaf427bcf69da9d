"""Our transactions on the screen: what for, and how far."""

from __future__ import annotations

from dataclasses import dataclass

from finance.money import Wei
from finance.transaction_views import TransactionView, recent_transactions
from node.console.finance_history import PURPOSES
from node.console.finance_withdraw import TONES, stages_of
from node.console.format import Amount, Moment, Short, exact_amount, moment, transaction
from node.console.visit import Visit
from node.treasury.treasury import Treasury


@dataclass(frozen=True, slots=True)
class TransactionRow:
    """One of our transactions, formatted."""

    at: Moment
    what: str
    tone: str
    stage: str
    stages: tuple[tuple[str, str], ...]
    hash: Short | None
    fee: Amount | None
    error: str


def transaction_rows(
    treasury: Treasury, visit: Visit, purposes: tuple[str, ...]
) -> tuple[TransactionRow, ...]:
    """The latest of these purposes (blocking)."""
    found = recent_transactions(treasury.engine, treasury.network.chain_id, purposes, 8)
    return tuple(transaction_row(each, treasury, visit) for each in found)


def transaction_row(found: TransactionView, treasury: Treasury, visit: Visit) -> TransactionRow:
    """One of our transactions, formatted."""
    words = PURPOSES.get(found.purpose, found.purpose)
    return TransactionRow(
        at=moment(found.created_at, visit.now, visit.zone),
        what=words[:1].upper() + words[1:],
        tone=TONES[found.stage],
        stage=found.stage.value.capitalize(),
        stages=stages_of(found.stage, bool(found.tx_hash)),
        hash=transaction(found.tx_hash, treasury.network) if found.tx_hash else None,
        fee=None if found.fee_wei is None else exact_amount(Wei(found.fee_wei)),
        error=found.error,
    )
