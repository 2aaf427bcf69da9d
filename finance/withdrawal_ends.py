"""Which ends of withdrawals were told: each once, and again if a reorg took it back."""

from __future__ import annotations

from sqlalchemy import bindparam, text, update

from finance.operations import Withdrawal
from finance.store import Write

_ROWS = Withdrawal.__table__  # type: ignore[attr-defined]
_TELL = (
    update(_ROWS)
    .where(_ROWS.c.id == bindparam("wanted"), _ROWS.c.told.is_(False))
    .values(told=bindparam("is_told"))
)
_TELL_AGAIN = text(
    "UPDATE withdrawal SET told = :is_told WHERE id IN (SELECT ref FROM chain_tx"
    " WHERE tx_hash = :tx_hash AND purpose IN ('withdraw_usdc', 'withdraw_eth'))"
)


def told(withdrawal_id: str) -> Write:
    """Its end is written down with this; a second time breaks the batch."""
    return Write(_TELL, {"wanted": withdrawal_id, "is_told": True})


def tell_again(tx_hash: str) -> Write:
    """The block of this transaction is gone: how it ends is not known yet."""
    return Write(_TELL_AGAIN, {"tx_hash": tx_hash, "is_told": False}, rows=None)
