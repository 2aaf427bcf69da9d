"""Our transactions as the operator looks at them: what for, and how far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from finance.models import ChainTx, ChainTxAttempt, TxState
from finance.withdrawal import STAGE_OF_TX, Stage

_TX = ChainTx.__table__  # type: ignore[attr-defined]
_ATTEMPT = ChainTxAttempt.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class TransactionView:
    """One transaction; `fee_wei` once it is mined, `tx_hash` once it is signed."""

    id: int
    purpose: str
    stage: Stage
    tx_hash: str | None
    fee_wei: int | None
    error: str
    created_at: int


def recent_transactions(
    engine: Engine, chain_id: int, purposes: Sequence[str] = (), count: int = 10
) -> list[TransactionView]:
    """The newest first, only of these purposes if some are given (blocking)."""
    newest = (
        select(_ATTEMPT.c.tx_hash)
        .where(_ATTEMPT.c.tx_id == _TX.c.id)
        .order_by(_ATTEMPT.c.max_fee_wei.desc())
        .limit(1)
        .scalar_subquery()
    )
    chain, purpose = _TX.c.chain_id, _TX.c.purpose
    if engine.dialect.name == "sqlite":
        # From the newest on until there are enough. The indices of chain and of purpose would
        # find all that ever was, to be sorted: in an expression they are not used. PostgreSQL
        # sees that by itself, and would take an expression for something rare.
        chain, purpose = chain + 0, purpose.concat("")
    query = (
        select(_TX, func.coalesce(_TX.c.tx_hash, newest).label("hash"))
        .where(chain == chain_id)
        .order_by(_TX.c.id.desc())
        .limit(count)
    )
    if purposes:
        query = query.where(purpose.in_(purposes))
    with engine.connect() as connection:
        rows: Any = connection.execute(query)
        return [_view(row) for row in rows]


def _view(row: Any) -> TransactionView:
    stage = STAGE_OF_TX[TxState(row.state)]
    reverted = "The chain refused it; only the gas was spent." if stage is Stage.FAILED else ""
    return TransactionView(
        row.id, row.purpose, stage, row.hash, row.fee_wei, row.error or reverted, row.created_at
    )
