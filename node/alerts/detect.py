"""What is wrong now, as the books say it: each function answers subject -> report, and what
is no longer in its answer is over. Reads only, all by index (blocking)."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, Engine, func, select
from sqlmodel import col

from finance.models import ChainTx, OnchainPayment, PaymentState, TxState
from node.alerts.alerts import Report
from node.usage.models import Call, CallRollup, Event, Side
from node.usage.set_aside import of_shown_network

SPIKE_SECONDS = 300
SPIKE_ERRORS = 5  # more than these
OPEN_SECONDS = 600  # a transaction or payment that is open for longer needs a look
RECENT_SECONDS = 3600  # how long a failure keeps its incident open

_FAILED = (TxState.REVERTED.value, TxState.REJECTED.value)
_UNMINED = (TxState.INTENDED.value, TxState.SIGNED.value, TxState.BROADCAST.value)
_UNPAID = (PaymentState.OWED.value, PaymentState.SENT.value)
_SIDES = {Side.SERVED: "served here", Side.BOUGHT: "bought"}


def error_spikes(engine: Engine, now: int) -> dict[str, Report]:
    """The sides, served and bought, with more than 5 errors within the last 5 minutes."""
    found = {}
    with engine.connect() as connection:
        for side, words in _SIDES.items():
            errors = _recent_errors(connection, side, now)
            if errors > SPIKE_ERRORS:
                message = f"{errors:,} calls {words} failed within 5 minutes."
                found[side.value] = Report(message, "/")
    return found


def _recent_errors(connection: Connection, side: Side, now: int) -> int:
    """Calls are counted one by one only if the sums per quarter-hour leave a spike possible."""
    since = now - SPIKE_SECONDS
    slots = select(func.sum(CallRollup.errors)).where(
        col(CallRollup.side) == side.value, col(CallRollup.slot) >= since // 900 * 900
    )
    if (connection.scalar(slots) or 0) <= SPIKE_ERRORS:
        return 0
    calls = (
        select(func.count())
        .select_from(Call)
        .where(
            col(Call.side) == side.value,
            col(Call.at_ms) >= since * 1000,
            col(Call.status) >= 400,
        )
    )
    return connection.scalar(calls) or 0


def settlement_troubles(engine: Engine, now: int) -> dict[str, Report]:
    """Transactions, payments and claims that failed within the hour, or do not get on. What a
    former network of this node has left open waits until the node is back there."""
    with engine.connect() as connection:
        return dict(
            [
                *_failed_transactions(connection, now),
                *_open_transactions(connection, now),
                *_failed_payments(connection, now),
                *_open_payments(connection, now),
                *_impossible_claims(connection, now),
            ]
        )


def _failed_transactions(connection: Connection, now: int) -> Iterator[tuple[str, Report]]:
    statement = (
        select(col(ChainTx.purpose), func.count(), func.max(ChainTx.error))
        .where(col(ChainTx.state).in_(_FAILED), col(ChainTx.updated_at) >= now - RECENT_SECONDS)
        .where(of_shown_network(connection, col(ChainTx.chain_id)))
        .group_by(col(ChainTx.purpose))
    )
    for purpose, count, error in connection.execute(statement):
        why = f": {error}" if error else "."
        message = f"{_counted(count, 'transaction')} ({purpose}) failed within the hour{why}"
        yield f"failed:{purpose}", Report(message, "/finance")


def _open_transactions(connection: Connection, now: int) -> Iterator[tuple[str, Report]]:
    statement = select(func.count()).where(
        col(ChainTx.state).in_(_UNMINED),
        col(ChainTx.created_at) < now - OPEN_SECONDS,
        of_shown_network(connection, col(ChainTx.chain_id)),
    )
    if count := connection.scalar(statement):
        message = f"{_counted(count, 'transaction')} not mined for more than 10 minutes."
        yield "open:transactions", Report(message, "/finance")


def _failed_payments(connection: Connection, now: int) -> Iterator[tuple[str, Report]]:
    statement = select(func.count(), func.max(OnchainPayment.error)).where(
        col(OnchainPayment.state) == PaymentState.FAILED.value,
        col(OnchainPayment.updated_at) >= now - RECENT_SECONDS,
        of_shown_network(connection, col(OnchainPayment.chain_id)),
    )
    count, error = connection.execute(statement).one()
    if count:
        message = f"{_counted(count, 'payment')} failed on the chain within the hour"
        yield "failed:payments", Report(f"{message} ({error or 'no reason given'}).", "/finance")


def _open_payments(connection: Connection, now: int) -> Iterator[tuple[str, Report]]:
    statement = select(func.count()).where(
        col(OnchainPayment.state).in_(_UNPAID),
        col(OnchainPayment.created_at) < now - OPEN_SECONDS,
        of_shown_network(connection, col(OnchainPayment.chain_id)),
    )
    if count := connection.scalar(statement):
        message = f"{_counted(count, 'payment')} owed to this node for more than 10 minutes."
        yield "open:payments", Report(message, "/finance")


def _impossible_claims(connection: Connection, now: int) -> Iterator[tuple[str, Report]]:
    statement = (
        select(col(Event.message))
        .where(col(Event.at) >= now - RECENT_SECONDS, col(Event.type) == "claim_impossible")
        .order_by(col(Event.at).desc())
        .limit(1)
    )
    if (message := connection.scalar(statement)) is not None:
        yield "claims", Report(message, "/finance")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
