"""Our transactions: their rows, their copy in memory, the statements that move them.

Every statement names the state it leaves, so that a transition happens once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, Row, bindparam, delete, func, insert, or_, select, update
from sqlmodel import col

from finance.chain.answers import Log, Receipt
from finance.chain.fees import Fees
from finance.ledger import Account, entry
from finance.models import ChainTx, ChainTxAttempt, TxState
from finance.store import Write
from finance.wallet.signer import Signer
from finance.x402.text import checksum, parse_address

DAY_SECONDS = 86400
_ROWS = ChainTx.__table__  # type: ignore[attr-defined]
_ATTEMPTS = ChainTxAttempt.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed form: any of them may be the one that is mined."""

    tx_hash: str
    raw: bytes
    fees: Fees


@dataclass(frozen=True, slots=True)
class TxOutcome:
    """How a transaction ended: mined, reverted (mined without effect) or rejected (never sent)."""

    tx_id: int
    state: TxState
    tx_hash: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    gas_used: int = 0
    fee_wei: int = 0
    logs: tuple[Log, ...] = ()
    error: str | None = None


@dataclass(slots=True)
class Tx:
    """A transaction in memory; its row is the truth, this follows each commit."""

    id: int
    to: str
    data: bytes
    value_wei: int
    state: TxState
    nonce: int | None = None
    gas_limit: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    outcome: TxOutcome | None = None
    # Monotonic seconds; only for pacing.
    signed_at: float = 0.0
    offered_at: float = 0.0
    missing_since: float | None = None
    # Its first broadcast is under way: nobody else may offer it meanwhile.
    launching: bool = False
    # Some endpoint said in this run that it has the newest attempt.
    accepted: bool = False
    # The newest attempt was refused for good: outbidding it would be so, too.
    too_dear: bool = False


def sign(signer: Signer, chain_id: int, tx: Tx, nonce: int, gas_limit: int, fees: Fees) -> Attempt:
    """The transaction under this nonce, as it may be broadcast."""
    raw, tx_hash = signer.sign_transaction(
        {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "to": checksum(parse_address(tx.to)),
            "value": tx.value_wei,
            "data": "0x" + tx.data.hex(),
            "gas": gas_limit,
            "maxFeePerGas": fees.max_fee_wei,
            "maxPriorityFeePerGas": fees.max_priority_fee_wei,
        }
    )
    return Attempt(tx_hash, raw, fees)


_INSERT = insert(_ROWS)
_INSERT_ATTEMPT = insert(_ATTEMPTS)
_FORGET_ATTEMPTS = delete(_ATTEMPTS).where(_ATTEMPTS.c.tx_id == bindparam("tx"))
_HERE = (_ROWS.c.id == bindparam("tx"), _ROWS.c.state == bindparam("was"))
_REOPEN = (
    update(_ROWS)
    .where(
        _ROWS.c.id == bindparam("tx"),
        or_(_ROWS.c.state == TxState.INTENDED.value, _ROWS.c.state == TxState.REJECTED.value),
    )
    .values(
        state=TxState.INTENDED,
        error=None,
        # It may have been tried by a wallet that was replaced.
        sender=bindparam("new_sender"),
        to=bindparam("new_to"),
        data=bindparam("new_data"),
        value_wei=bindparam("new_value"),
        # Its gas is of the day on which it is paid, not of one on which it was put off.
        created_at=bindparam("now"),
        updated_at=bindparam("now"),
    )
)
_MOVE = update(_ROWS).where(*_HERE).values(state=bindparam("next"), updated_at=bindparam("now"))
_ASSIGN = (
    update(_ROWS)
    .where(*_HERE)
    .values(
        state=TxState.SIGNED,
        nonce=bindparam("new_nonce"),
        gas_limit=bindparam("new_gas_limit"),
        updated_at=bindparam("now"),
    )
)
_UNASSIGN = (
    update(_ROWS)
    .where(*_HERE)
    .values(
        state=bindparam("next"), nonce=None, error=bindparam("why"), updated_at=bindparam("now")
    )
)
_MINE = (
    update(_ROWS)
    .where(*_HERE)
    .values(
        state=bindparam("next"),
        tx_hash=bindparam("new_hash"),
        block_number=bindparam("new_block"),
        block_hash=bindparam("new_block_hash"),
        gas_used=bindparam("new_gas"),
        fee_wei=bindparam("new_fee"),
        updated_at=bindparam("now"),
    )
)


def unix_now() -> int:
    return int(time.time())


def insert_intent(
    chain_id: int, sender: str, purpose: str, ref: str, to: str, data: bytes, value_wei: int
) -> Write:
    """A new row; a second one of the same purpose and ref breaks its batch."""
    now = unix_now()
    return Write(
        _INSERT,
        {
            "chain_id": chain_id,
            "sender": sender,
            "purpose": purpose,
            "ref": ref,
            "to": to.lower(),
            "value_wei": str(value_wei),
            "data": "0x" + data.hex(),
            "state": TxState.INTENDED,
            "created_at": now,
            "updated_at": now,
        },
    )


def reopen(tx_id: int, sender: str, to: str, data: bytes, value_wei: int) -> Write:
    """Nothing of this row was ever broadcast: it may be tried again, with new contents."""
    params = {"new_to": to.lower(), "new_data": "0x" + data.hex(), "new_value": str(value_wei)}
    return Write(_REOPEN, {"tx": tx_id, "new_sender": sender, "now": unix_now(), **params})


def assign(tx: Tx, nonce: int, gas_limit: int, attempt: Attempt) -> list[Write]:
    """intended -> signed, with the raw bytes that are about to be broadcast."""
    params = {"new_nonce": nonce, "new_gas_limit": gas_limit}
    return [
        Write(_ASSIGN, {**_from(tx, TxState.INTENDED), **params}),
        insert_attempt(tx.id, attempt),
    ]


def insert_attempt(tx_id: int, attempt: Attempt) -> Write:
    return Write(
        _INSERT_ATTEMPT,
        {
            "tx_hash": attempt.tx_hash,
            "tx_id": tx_id,
            "raw": "0x" + attempt.raw.hex(),
            "max_fee_wei": attempt.fees.max_fee_wei,
            "max_priority_fee_wei": attempt.fees.max_priority_fee_wei,
            "created_at": unix_now(),
        },
    )


def move(tx: Tx, to: TxState) -> Write:
    return Write(_MOVE, {**_from(tx, tx.state), "next": to})


def unassign(tx: Tx, to: TxState, why: str | None = None) -> list[Write]:
    """Give the nonce back: nothing was broadcast under it, or it went to another transaction."""
    return [
        Write(_UNASSIGN, {**_from(tx, tx.state), "next": to, "why": why}),
        Write(_FORGET_ATTEMPTS, {"tx": tx.id}, rows=None),
    ]


def mine(tx: Tx, receipt: Receipt, gas_key: str) -> list[Write]:
    """broadcast -> mined or reverted, and the gas it cost, in one commit."""
    params = {
        "next": TxState.MINED if receipt.succeeded else TxState.REVERTED,
        "new_hash": receipt.tx_hash,
        "new_block": receipt.block_number,
        "new_block_hash": receipt.block_hash,
        "new_gas": receipt.gas_used,
        "new_fee": receipt.fee_wei,
    }
    return [
        Write(_MINE, {**_from(tx, tx.state), **params}),
        entry(gas_key, Account.GAS, -receipt.fee_wei, unix_now(), tx_hash=receipt.tx_hash),
    ]


def unmine(tx: Tx, outcome: TxOutcome, gas_key: str) -> list[Write]:
    """mined or reverted -> broadcast: its block is gone; the gas comes back."""
    cleared = ("new_hash", "new_block", "new_block_hash", "new_gas", "new_fee")
    params = {"next": TxState.BROADCAST, **dict.fromkeys(cleared)}
    return [
        Write(_MINE, {**_from(tx, tx.state), **params}),
        entry(gas_key, Account.GAS, outcome.fee_wei, unix_now(), tx_hash=outcome.tx_hash),
    ]


def _from(tx: Tx, state: TxState) -> dict[str, Any]:
    return {"tx": tx.id, "was": state, "now": unix_now()}


def find_intent(engine: Engine, purpose: str, ref: str) -> Tx | None:
    query = select(_ROWS).where(_ROWS.c.purpose == purpose, _ROWS.c.ref == ref)
    return _first(engine, query)


def find_tx(engine: Engine, tx_id: int) -> Tx | None:
    return _first(engine, select(_ROWS).where(_ROWS.c.id == tx_id))


def _first(engine: Engine, query: Any) -> Tx | None:
    with engine.connect() as connection:
        row = connection.execute(query).first()
        return None if row is None else _tx(row, [])


def other_senders(engine: Engine, chain_id: int, sender: str) -> list[str]:
    """Wallets besides `sender` of which something was on its way, or not deep enough yet."""
    left = [TxState.SIGNED, TxState.BROADCAST, TxState.MINED]
    query = select(_ROWS.c.sender).where(
        _ROWS.c.chain_id == chain_id, _ROWS.c.sender != sender, _ROWS.c.state.in_(left)
    )
    with engine.connect() as connection:
        return list(connection.scalars(query.distinct()))


def load_unfinished(engine: Engine, chain_id: int, sender: str, reverted_since: int) -> list[Tx]:
    """Everything still to be followed, lowest nonce first; reverted ones only if recent."""
    open_states = [TxState.INTENDED, TxState.SIGNED, TxState.BROADCAST, TxState.MINED]
    recent = (_ROWS.c.state == TxState.REVERTED) & (_ROWS.c.updated_at >= reverted_since)
    query = (
        select(_ROWS)
        .where(_ROWS.c.chain_id == chain_id, _ROWS.c.sender == sender)
        .where(or_(_ROWS.c.state.in_(open_states), recent))
        .order_by(_ROWS.c.nonce, _ROWS.c.id)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
        attempts = select(_ATTEMPTS).order_by(_ATTEMPTS.c.max_fee_wei)
        ours = attempts.where(_ATTEMPTS.c.tx_id.in_(select(query.subquery().c.id)))
        found: dict[int, list[Attempt]] = {}
        signed_at: dict[int, int] = {}
        for each in connection.execute(ours):
            found.setdefault(each.tx_id, []).append(_attempt(each))
            signed_at[each.tx_id] = max(signed_at.get(each.tx_id, 0), each.created_at)
    loaded = [_tx(row, found.get(row.id, [])) for row in rows]
    for tx in loaded:
        tx.signed_at = _monotonic(signed_at.get(tx.id, 0))
    return loaded


def load_attempts(engine: Engine, tx_id: int) -> list[Attempt]:
    """All signed forms of one, whichever process signed them, the cheapest first."""
    query = select(_ATTEMPTS).where(_ATTEMPTS.c.tx_id == tx_id).order_by(_ATTEMPTS.c.max_fee_wei)
    with engine.connect() as connection:
        return [_attempt(row) for row in connection.execute(query)]


def _attempt(row: Row[Any]) -> Attempt:
    fees = Fees(row.max_fee_wei, row.max_priority_fee_wei)
    return Attempt(row.tx_hash, bytes.fromhex(row.raw[2:]), fees)


def _monotonic(at: int) -> float:
    """A Unix time on this process's clock: what was signed just before a restart has not
    been waiting for long. A clock that was set back makes it new, not stuck."""
    return time.monotonic() - max(0, unix_now() - at)


def nonces_from(engine: Engine, chain_id: int, sender: str, first: int) -> set[int]:
    """Nonces of at least `first` that were handed out, also by other processes with this key."""
    taken = select(_ROWS.c.nonce).where(
        _ROWS.c.chain_id == chain_id, _ROWS.c.sender == sender, _ROWS.c.nonce >= first
    )
    with engine.connect() as connection:
        return set(connection.scalars(taken))


def gas_spent_since(engine: Engine, chain_id: int, sender: str, since: int) -> int:
    """Wei paid for transactions made since `since` (Unix seconds)."""
    paid = select(func.sum(col(ChainTx.fee_wei))).where(
        _ROWS.c.chain_id == chain_id, _ROWS.c.sender == sender, _ROWS.c.created_at >= since
    )
    with engine.connect() as connection:
        return int(connection.execute(paid).scalar_one() or 0)


def gas_on_its_way(engine: Engine, chain_id: int, sender: str, but: int | None = None) -> int:
    """Wei that all which may still be mined takes at its worst, whichever process sent it;
    the transaction `but` left out (blocking)."""
    query = (
        select(_ROWS.c.id, _ROWS.c.gas_limit, func.max(_ATTEMPTS.c.max_fee_wei))
        .join(_ATTEMPTS, _ATTEMPTS.c.tx_id == _ROWS.c.id)
        .where(_ROWS.c.chain_id == chain_id, _ROWS.c.sender == sender)
        .where(_ROWS.c.state.in_([TxState.SIGNED, TxState.BROADCAST]))
        .group_by(_ROWS.c.id, _ROWS.c.gas_limit)
    )
    with engine.connect() as connection:
        return sum(gas * fee for id_, gas, fee in connection.execute(query) if id_ != but)


def _tx(row: Row[Any], attempts: Sequence[Attempt]) -> Tx:
    tx = Tx(
        id=row.id,
        to=row.to,
        data=bytes.fromhex(row.data[2:]),
        value_wei=int(row.value_wei),
        state=TxState(row.state),
        nonce=row.nonce,
        gas_limit=row.gas_limit or 0,
        attempts=list(attempts),
    )
    if row.tx_hash is not None or tx.state is TxState.REJECTED:
        tx.outcome = TxOutcome(
            tx_id=row.id,
            state=tx.state,
            tx_hash=row.tx_hash,
            block_number=row.block_number,
            block_hash=row.block_hash,
            gas_used=row.gas_used or 0,
            fee_wei=row.fee_wei or 0,
            error=row.error,
        )
    return tx
