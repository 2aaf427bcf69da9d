"""The books at one moment, as plain values: what reconciliation holds against the chain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Row, select

from finance.chain.events import read_args
from finance.ledger import Account
from finance.models import (
    BuyerChannel,
    ChainEvent,
    ChainTx,
    LedgerEntry,
    OnchainPayment,
    PaymentState,
    Purchase,
    PurchaseState,
    SellerChannel,
    TxState,
)

_LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
_SELLER = SellerChannel.__table__  # type: ignore[attr-defined]
_BUYER = BuyerChannel.__table__  # type: ignore[attr-defined]
_PAYMENTS = OnchainPayment.__table__  # type: ignore[attr-defined]
_TXS = ChainTx.__table__  # type: ignore[attr-defined]
_PURCHASES = Purchase.__table__  # type: ignore[attr-defined]

_EVENTS = ChainEvent.__table__  # type: ignore[attr-defined]

Place = tuple[str, int]  # transaction hash, log index
# Accounts the watcher books, each row by its event.
_BY_EVENT = (Account.WALLET, Account.CLAIMED, Account.DEPOSITED)

# What reconciliation looks at; transactions that never left have no trace on the chain.
_PAYING = (PaymentState.OWED, PaymentState.SENT, PaymentState.CONFIRMED)
_BUYING = (PurchaseState.PAID, PurchaseState.INTENT, PurchaseState.UNKNOWN)
_SENT = tuple(each for each in TxState if each not in (TxState.REJECTED, TxState.INTENDED))


@dataclass(frozen=True, slots=True)
class SettledEvent:
    """A sweep the watcher saw; atoms."""

    tx_hash: str
    log_index: int
    amount: int


@dataclass(frozen=True, slots=True)
class Books:
    """Sums of ledger rows in atoms (gas: wei), and rows as they stand.

    `moved` is the WALLET account by the transfer it stands for, `opening` its first row, both of
    one wallet; `replaced` are transfers of those it replaced. The others are summed by channel,
    `gas` by transaction. `strangers` is what was claimed from channels we know by their events
    only, by receiver and receiver authorizer. Events above the block the books are read for are
    left out; `later` are their places.
    """

    opening: int
    moved: dict[Place, int]
    later: frozenset[Place]
    replaced: frozenset[Place]
    settled: tuple[SettledEvent, ...]
    strangers: dict[tuple[str, str], int]
    charged: dict[str, int]
    claimed: dict[str, int]
    spent: dict[str, int]
    deposited: dict[str, int]
    gas: dict[str, int]
    exact: int
    spent_exact: int
    sold: tuple[Row[Any], ...]
    bought: tuple[Row[Any], ...]
    payments: tuple[Row[Any], ...]
    transactions: tuple[Row[Any], ...]
    purchases: tuple[Row[Any], ...]


@dataclass(slots=True)
class _Sums:
    opening: int = 0
    exact: int = 0
    spent_exact: int = 0
    moved: dict[Place, int] = field(default_factory=lambda: defaultdict(int))
    replaced: set[Place] = field(default_factory=set)
    gas: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_channel: dict[Account, dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )


def read_books(engine: Engine, chain_id: int, wallet: str, block_number: int) -> Books:
    """Everything reconciliation needs as of a block, read in one transaction; `wallet` is the
    node's, lower-case hex."""
    with engine.connect() as connection:
        ours = (_EVENTS.c.chain_id == chain_id, _EVENTS.c.orphaned.is_(False))
        above = _rows(connection, _EVENTS, *ours, _EVENTS.c.block_number > block_number)
        later = frozenset((row.tx_hash, row.log_index) for row in above)
        seen = (*ours, _EVENTS.c.block_number <= block_number)
        others = _EVENTS.c.channel_id.not_in(select(_SELLER.c.channel_id))
        elsewhere = _elsewhere(connection, chain_id)
        opening = f"opening:{chain_id}:"
        rows = _of_chain(connection.execute(select(_LEDGER)), opening, elsewhere)
        sums = _sum(rows, wallet, later)
        booked = sums.by_channel[Account.CHARGED].keys() | sums.by_channel[Account.CLAIMED].keys()
        return Books(
            opening=sums.opening,
            moved=dict(sums.moved),
            later=later,
            replaced=frozenset(sums.replaced),
            settled=_settled(
                _rows(connection, _EVENTS, *seen, _EVENTS.c.name == "Settled"), wallet
            ),
            strangers=_strangers(_rows(connection, _EVENTS, *seen, others), booked),
            charged=dict(sums.by_channel[Account.CHARGED]),
            claimed=dict(sums.by_channel[Account.CLAIMED]),
            spent=dict(sums.by_channel[Account.SPENT]),
            deposited=dict(sums.by_channel[Account.DEPOSITED]),
            gas=dict(sums.gas),
            exact=sums.exact,
            spent_exact=sums.spent_exact,
            sold=_rows(connection, _SELLER, _SELLER.c.chain_id == chain_id),
            bought=_rows(connection, _BUYER, _BUYER.c.chain_id == chain_id),
            payments=_rows(connection, _PAYMENTS, *_on_chain(_PAYMENTS, chain_id, _PAYING)),
            transactions=_rows(connection, _TXS, *_on_chain(_TXS, chain_id, _SENT)),
            purchases=tuple(
                row
                for row in _rows(connection, _PURCHASES, _PURCHASES.c.state.in_(_BUYING))
                if row.tx_hash not in elsewhere
            ),
        )


def _elsewhere(connection: Connection, chain_id: int) -> frozenset[str]:
    """Transactions on other chains: a node may have been on another network before."""
    others = select(_EVENTS.c.tx_hash).where(_EVENTS.c.chain_id != chain_id)
    return frozenset(connection.scalars(others))


def _of_chain(rows: Iterable[Row[Any]], opening: str, elsewhere: Set[str]) -> Iterator[Row[Any]]:
    """Rows of the ledger name no chain: their transaction does, and the key of an opening."""
    for row in rows:
        opened = row.key.startswith("opening:")
        if row.key.startswith(opening) if opened else row.tx_hash not in elsewhere:
            yield row


def _on_chain(table: Any, chain_id: int, states: Sequence[str]) -> tuple[Any, Any]:
    return table.c.chain_id == chain_id, table.c.state.in_(states)


def _settled(events: Iterable[Row[Any]], wallet: str) -> tuple[SettledEvent, ...]:
    return tuple(
        SettledEvent(row.tx_hash, row.log_index, int(args["amount"]))
        for row in events
        if (args := read_args(row.args))["receiver"] == wallet
    )


def _strangers(events: Sequence[Row[Any]], booked: Set[str]) -> dict[tuple[str, str], int]:
    """A channel in the ledger is nobody else's, though its row is gone."""
    events = [row for row in events if row.channel_id not in booked]
    created = [row for row in events if row.name == "ChannelCreated"]
    configs = {row.channel_id: read_args(row.args)["config"] for row in created}
    claimed: dict[tuple[str, str], int] = defaultdict(int)
    for row in events:
        if row.name == "Claimed" and row.channel_id in configs:
            config = configs[row.channel_id]
            by = config["receiver"], config["receiverAuthorizer"]
            claimed[by] += int(read_args(row.args)["claimAmount"])
    return dict(claimed)


def _rows(connection: Connection, table: Any, *where: Any) -> tuple[Row[Any], ...]:
    return tuple(connection.execute(select(table).where(*where)))


def _sum(rows: Iterable[Row[Any]], wallet: str, later: frozenset[Place]) -> _Sums:
    sums = _Sums()
    for row in rows:
        if row.account in _BY_EVENT and (row.tx_hash, row.log_index) in later:
            continue
        match Account(row.account):
            case Account.WALLET if not row.key.endswith(f":{wallet}"):
                sums.replaced.add((row.tx_hash, row.log_index))
            case Account.WALLET if row.tx_hash is None:
                sums.opening += row.amount
            case Account.WALLET:
                sums.moved[row.tx_hash, row.log_index] += row.amount
            case Account.GAS:
                sums.gas[row.tx_hash] += row.amount
            case Account.EXACT:
                sums.exact += row.amount
            case Account.SPENT if row.channel_id is None:
                sums.spent_exact += row.amount
            case (Account.CHARGED | Account.CLAIMED | Account.SPENT | Account.DEPOSITED) as account:
                sums.by_channel[account][row.channel_id] += row.amount
                if row.key.startswith("baseline:"):
                    # A channel taken up with history: what was claimed before our books.
                    sums.by_channel[Account.CLAIMED][row.channel_id] += row.amount
    return sums
