"""What moved on the chain, one line each, newest first: from the ledger, our transactions
and what arrived.

Charges are not listed: calls have their own page, and there are thousands a second. What
they come to shows here when it is swept. Each source is read by its own index, a page at a
time, so that ten million charges beside it cost nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Engine,
    String,
    and_,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from finance.chain.events import BATCH_SETTLEMENT_HEX, read_args
from finance.ledger import Account
from finance.models import ChainEvent, ChainTx, LedgerEntry, TxState
from finance.networks import ERC3009_COLLECTOR_ADDRESS
from finance.operations import Arrival, Token

_LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_EVENT = ChainEvent.__table__  # type: ignore[attr-defined]
_ARRIVAL = Arrival.__table__  # type: ignore[attr-defined]


class Action(StrEnum):
    """What a line is about."""

    RECEIVED = "received"  # somebody sent it
    SALE = "sale"  # a call paid by an exact payment
    SWEEP = "sweep"  # claimed vouchers turned into money
    RETURNED = "returned"  # out of a channel we paid through
    DEPOSIT = "deposit"  # into a channel we pay through
    PURCHASE = "purchase"  # a call bought by an exact payment
    WITHDRAWAL = "withdrawal"
    GAS = "gas"
    TAKEN_BACK = "taken_back"  # booked before, reorganised away


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines; times are Unix seconds, `since` included and `before` not."""

    action: Action | None = None
    token: Token | None = None
    since: int | None = None
    before: int | None = None
    text: str = ""


class Place(NamedTuple):
    """Where a line stands; lines are ordered by it, the newest (largest) first."""

    at: int
    source: str
    id: int

    def text(self) -> str:
        return f"{self.at}.{self.source}.{self.id}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """Undo `text`; None for anything else."""
        at, _, rest = text.partition(".")
        source, _, number = rest.partition(".")
        if not (at.isdecimal() and source in _SOURCES and number.isdecimal()):
            return None
        if len(at) > 12 or len(number) > 18:
            return None
        return cls(int(at), source, int(number))


@dataclass(frozen=True, slots=True)
class Line:
    """One movement: `amount` signed, in atoms or wei; `other` is who was on the other side."""

    place: Place
    at: int
    action: Action
    token: Token
    amount: int
    tx_hash: str | None
    purpose: str
    other: str
    channel_id: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some lines, and where to go on (None: there are no more)."""

    lines: tuple[Line, ...]
    older: Place | None


# One source each: `w` and `g` are ledger rows, `e` ETH sent by us, `a` ETH that arrived.
_SOURCES = ("a", "e", "g", "w")
_COLLECTOR = ERC3009_COLLECTOR_ADDRESS.lower()
_SWEEPS = ("claim", "refund")
_WITHDRAWALS = ("withdraw_usdc", "withdraw_eth")


def _party(name: str, address: str) -> Any:
    """Whether an event's argument is this address (arguments are JSON of one writer)."""
    return _EVENT.c.args.contains(f'"{name}": "{address}"')


_IN = _LEDGER.c.amount > 0
_action: Any = case(
    (_LEDGER.c.account == Account.GAS.value, Action.GAS.value),
    (
        and_(
            _LEDGER.c.key.startswith("reversal:"), ~_LEDGER.c.key.startswith("reversal:reversal:")
        ),
        Action.TAKEN_BACK.value,
    ),
    (and_(_IN, _TX.c.purpose == "settle"), Action.SALE.value),
    (and_(_IN, _TX.c.purpose.in_(_SWEEPS)), Action.SWEEP.value),
    (and_(_IN, _party("from", BATCH_SETTLEMENT_HEX)), Action.RETURNED.value),
    (_IN, Action.RECEIVED.value),
    (_TX.c.purpose.in_(_WITHDRAWALS), Action.WITHDRAWAL.value),
    (
        or_(_party("to", BATCH_SETTLEMENT_HEX), _party("to", _COLLECTOR)),
        Action.DEPOSIT.value,
    ),
    else_=Action.PURCHASE.value,
)


def read_history(engine: Engine, wanted: Filter, after: Place | None, count: int) -> Page:
    """Up to `count` lines older than `after` (blocking)."""
    with engine.connect() as connection:
        found = _merged(connection, wanted, after, count + 1)
    older = found[count - 1].place if len(found) > count else None
    return Page(tuple(found[:count]), older)


def all_history(engine: Engine, wanted: Filter, step: int = 500) -> Iterator[Line]:
    """Every line of a filter, read page by page (blocking)."""
    after: Place | None = None
    while True:
        page = read_history(engine, wanted, after, step)
        yield from page.lines
        if page.older is None:
            return
        after = page.older


def _merged(connection: Connection, wanted: Filter, after: Place | None, count: int) -> list[Line]:
    sources = []
    for source, read in (("w", _ledger), ("g", _ledger), ("e", _sent_eth), ("a", _arrived_eth)):
        rows = read(source, wanted, after, count)
        if rows is not None:
            sources.append([_line(source, row) for row in connection.execute(rows)])
    merged = heapq.merge(*sources, key=lambda line: line.place, reverse=True)
    return [line for line, _ in zip(merged, range(count), strict=False)]


def _ledger(source: str, wanted: Filter, after: Place | None, count: int) -> Any | None:
    """USDC of the wallet (`w`), or gas (`g`)."""
    token = Token.USDC if source == "w" else Token.ETH
    if wanted.token not in (None, token):
        return None
    if (source == "g" and wanted.action not in (None, Action.GAS)) or (
        source == "w" and wanted.action is Action.GAS
    ):
        return None
    account = Account.WALLET if source == "w" else Account.GAS
    query = (
        select(
            _LEDGER.c.at,
            _LEDGER.c.id,
            _action.label("action"),
            cast(_LEDGER.c.amount, String).label("amount"),
            _LEDGER.c.tx_hash,
            func.coalesce(_TX.c.purpose, "").label("purpose"),
            func.coalesce(_EVENT.c.args, "{}").label("args"),
            _LEDGER.c.channel_id,
        )
        .select_from(_joined())
        # The words of the partial index, so that it is used.
        .where(_LEDGER.c.account == account.value, _LEDGER.c.tx_hash.is_not(None))
        .where(*_within(_LEDGER.c.at, wanted), *_older(source, _LEDGER.c.at, _LEDGER.c.id, after))
    )
    if source == "w" and wanted.action is not None:
        query = query.where(_action == wanted.action.value)
    if wanted.text:
        columns = (_LEDGER.c.tx_hash, _TX.c.purpose, _EVENT.c.args, _LEDGER.c.channel_id)
        query = query.where(_mentions(wanted.text, *columns))
    return query.order_by(_LEDGER.c.at.desc(), _LEDGER.c.id.desc()).limit(count)


def _joined() -> Any:
    same_tx = _TX.c.tx_hash == _LEDGER.c.tx_hash
    same_event = and_(
        _EVENT.c.tx_hash == _LEDGER.c.tx_hash,
        _EVENT.c.log_index == _LEDGER.c.log_index,
        _EVENT.c.id == _newest_event(),
    )
    return _LEDGER.outerjoin(_TX, same_tx).outerjoin(_EVENT, same_event)


def _newest_event() -> Any:
    """A reorganised event may be there twice: once orphaned, once not."""
    other = ChainEvent.__table__.alias("other_event")  # type: ignore[attr-defined]
    return (
        select(func.max(other.c.id))
        .where(other.c.tx_hash == _LEDGER.c.tx_hash, other.c.log_index == _LEDGER.c.log_index)
        .correlate(_LEDGER)
        .scalar_subquery()
    )


def _sent_eth(source: str, wanted: Filter, after: Place | None, count: int) -> Any | None:
    if wanted.token is Token.USDC or wanted.action not in (None, Action.WITHDRAWAL):
        return None
    query = (
        select(
            _TX.c.created_at.label("at"),
            _TX.c.id,
            literal(Action.WITHDRAWAL.value).label("action"),
            (literal("-") + _TX.c.value_wei).label("amount"),
            _TX.c.tx_hash,
            _TX.c.purpose,
            _TX.c.to.label("other"),
        )
        .where(
            _TX.c.purpose == "withdraw_eth",
            _TX.c.state.in_([TxState.MINED.value, TxState.FINAL.value]),
        )
        .where(*_within(_TX.c.created_at, wanted))
        .where(*_older(source, _TX.c.created_at, _TX.c.id, after))
    )
    if wanted.text:
        query = query.where(_mentions(wanted.text, _TX.c.tx_hash, _TX.c.purpose, _TX.c.to))
    return query.order_by(_TX.c.created_at.desc(), _TX.c.id.desc()).limit(count)


def _arrived_eth(source: str, wanted: Filter, after: Place | None, count: int) -> Any | None:
    if wanted.token is Token.USDC or wanted.action not in (None, Action.RECEIVED):
        return None
    query = (
        select(
            _ARRIVAL.c.at,
            _ARRIVAL.c.block_number.label("id"),
            literal(Action.RECEIVED.value).label("action"),
            _ARRIVAL.c.amount,
            _ARRIVAL.c.tx_hash,
            literal("").label("purpose"),
            _ARRIVAL.c.source.label("other"),
        )
        .where(_ARRIVAL.c.token == Token.ETH.value)
        .where(*_within(_ARRIVAL.c.at, wanted))
        .where(*_older(source, _ARRIVAL.c.at, _ARRIVAL.c.block_number, after))
    )
    if wanted.text:
        query = query.where(_mentions(wanted.text, _ARRIVAL.c.source))
    return query.order_by(_ARRIVAL.c.at.desc(), _ARRIVAL.c.block_number.desc()).limit(count)


def _within(at: Any, wanted: Filter) -> list[Any]:
    limits = []
    if wanted.since is not None:
        limits.append(at >= wanted.since)
    if wanted.before is not None:
        limits.append(at < wanted.before)
    return limits


def _older(source: str, at: Any, id_: Any, after: Place | None) -> list[Any]:
    """Lines of this source that come after the place in the order of all sources."""
    if after is None:
        return []
    if source == after.source:
        here = and_(at == after.at, id_ < after.id)
        return [at <= after.at, or_(at < after.at, here)]
    return [at <= after.at] if source < after.source else [at < after.at]


def _mentions(text: str, *columns: Any) -> Any:
    needle = text.lower()
    return or_(*(func.lower(column).contains(needle, autoescape=True) for column in columns))


def _line(source: str, row: Any) -> Line:
    token = Token.USDC if source == "w" else Token.ETH
    base = Line(
        Place(row.at, source, row.id),
        row.at,
        Action(row.action),
        token,
        int(row.amount),
        row.tx_hash,
        row.purpose,
        "",
        None,
    )
    if source not in ("w", "g"):
        return replace(base, other=row.other)
    args = read_args(row.args)
    other = args.get("from" if base.amount > 0 else "to", "")
    return replace(base, other=str(other), channel_id=row.channel_id)
