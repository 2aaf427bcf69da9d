"""What it costs to turn payments into USDC in the wallet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Select, func, select

from finance.ledger import Account
from finance.models import ChainEvent, ChainTx, LedgerEntry
from finance.selling.claimable import CLAIM
from finance.selling.owed import SETTLE
from finance.selling.refunds import REFUND

_LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_EVENT = ChainEvent.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class GasCost:
    """Gas paid by the selling side, and the USDC that came in on-chain."""

    gas_wei: int
    earned_atoms: int

    @property
    def wei_per_usdc_up(self) -> int | None:
        """Wei of gas per whole USDC earned, rounded up; None when nothing was earned."""
        return -(-self.gas_wei * 10**6 // self.earned_atoms) if self.earned_atoms > 0 else None


def gas_per_usdc(engine: Engine, chain_id: int, since: int) -> GasCost:
    """From the ledger, since a time in Unix seconds; not of a network the node was on before."""
    ours = select(_TX.c.tx_hash).where(
        _TX.c.chain_id == chain_id,
        _TX.c.purpose.in_([SETTLE, CLAIM, REFUND]),
        _TX.c.tx_hash.is_not(None),
    )
    elsewhere = select(_EVENT.c.tx_hash).where(_EVENT.c.chain_id != chain_id)
    spent = _sum().where(_LEDGER.c.account == Account.GAS, _LEDGER.c.tx_hash.in_(ours))
    earned = _sum().where(
        _LEDGER.c.account.in_([Account.EXACT, Account.CLAIMED]),
        _LEDGER.c.tx_hash.not_in(elsewhere),
    )
    with engine.connect() as connection:
        wei = connection.scalar(spent.where(_LEDGER.c.at >= since)) or 0
        atoms = connection.scalar(earned.where(_LEDGER.c.at >= since)) or 0
    return GasCost(-int(wei), int(atoms))


def _sum() -> Select[Any]:
    return select(func.sum(_LEDGER.c.amount)).where(_LEDGER.c.tx_hash.is_not(None))
