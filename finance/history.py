"""What moved on the chain, one line each, newest first: from the ledger, our transactions
and what arrived.

Charges are not listed: calls have their own page, and there are thousands a second. What
they come to shows here when it is swept. Each source is read by its own index, a page at a
time, so that ten million charges beside it cost nothing.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, String, and_, case, cast, func, literal, or_, select

from finance.actions import Action
from finance.chain.events import read_args
from finance.ledger import Account
from finance.models import ChainEvent, ChainTx, LedgerEntry, TxState
from finance.operations import Arrival, Token

_LEDGER = LedgerEntry.__table__  # type: ignore[attr-defined]
_TX = ChainTx.__table__  # type: ignore[attr-defined]
_EVENT = ChainEvent.__table__  # type: ignore[attr-defined]
_ARRIVAL = Arrival.__table__  # type: ignore[attr-defined]

# How many of the newest lines of the ledger are looked through for a text at a time.
LOOKED_THROUGH = 500

_HASH = re.compile("0x[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines; times are Unix seconds, `since` included and `before` not. `chain_id` None:
    of every network the node has been on."""

    action: Action | None = None
    token: Token | None = None
    since: int | None = None
    before: int | None = None
    text: str = ""
    chain_id: int | None = None


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
    """Some lines, and where to go on (None: there are no more). What has a text is looked for
    a stretch at a time: a page may have few lines, or none, and still go on."""

    lines: tuple[Line, ...]
    older: Place | None


# One source each: `w` and `g` are ledger rows, `e` ETH sent by us, `a` ETH that arrived.
_SOURCES = ("a", "e", "g", "w")
_NEEDED = ("at", "id", "amount", "tx_hash", "log_index", "channel_id")


def read_history(engine: Engine, wanted: Filter, after: Place | None, count: int) -> Page:
    """Up to `count` lines older than `after` (blocking)."""
    with engine.connect() as connection:
        ends = [
            _end(connection, source, wanted, after) for source in "wg" if _looks(source, wanted)
        ]
        end = max(filter(None, ends), default=None)
        found = _merged(connection, wanted, after, count + 1)
    seen = [line for line in found if end is None or line.place >= end]
    if len(seen) > count:
        end = seen[count - 1].place
    return Page(tuple(seen[:count]), end)


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
    """USDC of the wallet (`w`), or gas (`g`). The lines are found first, the rest is read for
    those only."""
    if not _shows(source, wanted):
        return None
    looked = LOOKED_THROUGH if _looks(source, wanted) else count
    lines = _newest(source, wanted, after).limit(looked).subquery()
    query = select(
        lines.c.at,
        lines.c.id,
        lines.c.action,
        cast(lines.c.amount, String).label("amount"),
        lines.c.tx_hash,
        func.coalesce(_purpose(lines), "").label("purpose"),
        func.coalesce(_args(lines), "{}").label("args"),
        lines.c.channel_id,
    )
    if wanted.text:
        query = query.where(_mentions(wanted.text, lines.c.tx_hash, _purpose(lines), _args(lines)))
    return query.order_by(lines.c.at.desc(), lines.c.id.desc()).limit(count)


def _shows(source: str, wanted: Filter) -> bool:
    if source == "w":
        return wanted.token in (None, Token.USDC) and wanted.action is not Action.GAS
    return wanted.token in (None, Token.ETH) and wanted.action in (None, Action.GAS)


def _looks(source: str, wanted: Filter) -> bool:
    """Whether the lines have to be looked through. A whole hash has an index."""
    return bool(wanted.text) and not _hash(wanted) and _shows(source, wanted)


def _hash(wanted: Filter) -> str | None:
    text = wanted.text.lower()
    return text if _HASH.fullmatch(text) else None


def _newest(source: str, wanted: Filter, after: Place | None) -> Any:
    """Rows of the ledger, found by one index each: the conditions are the words of its own."""
    action: Any = _LEDGER.c.action if source == "w" else literal(Action.GAS.value)
    columns = (_LEDGER.c[name] for name in _NEEDED)
    return (
        select(*columns, action.label("action"))
        .where(*_conditions(source, wanted), *_within(_LEDGER.c.at, wanted))
        .where(*_of_network(source, wanted))
        .where(*_older(source, _LEDGER.c.at, _LEDGER.c.id, after))
        .order_by(_LEDGER.c.at.desc(), _LEDGER.c.id.desc())
    )


def _conditions(source: str, wanted: Filter) -> list[Any]:
    account = Account.WALLET.value if source == "w" else Account.GAS.value
    action = wanted.action.value if source == "w" and wanted.action else None
    if (whole := _hash(wanted)) is not None:
        # In an expression the other indices are not used, which would bring the order, too.
        found = [_LEDGER.c.tx_hash == whole, _LEDGER.c.account.concat("") == account]
        return [*found, _LEDGER.c.action.concat("") == action] if action else found
    if action:
        return [_LEDGER.c.action == action]
    return [_LEDGER.c.account == account, _LEDGER.c.tx_hash.is_not(None)]


def _of_network(source: str, wanted: Filter) -> list[Any]:
    """Rows of the ledger name no chain: their transaction does."""
    if wanted.chain_id is None:
        return []
    seen = _EVENT if source == "w" else _TX
    elsewhere = select(seen.c.id).where(
        seen.c.tx_hash == _LEDGER.c.tx_hash, seen.c.chain_id != wanted.chain_id
    )
    return [~elsewhere.exists()]


def _end(connection: Connection, source: str, wanted: Filter, after: Place | None) -> Place | None:
    """The last line looked through; None when there are no more behind it."""
    lines = _newest(source, wanted, after).offset(LOOKED_THROUGH - 1).limit(1)
    row = connection.execute(lines).first()
    return None if row is None else Place(row.at, source, row.id)


def _purpose(lines: Any) -> Any:
    """What a transaction of ours was sent for; one of its number is mined at the most."""
    query = select(_TX.c.purpose).where(_TX.c.tx_hash == lines.c.tx_hash).limit(1)
    return query.correlate(lines).scalar_subquery()


def _args(lines: Any) -> Any:
    """A reorganised event may be there twice: once orphaned, once not."""
    here = and_(_EVENT.c.tx_hash == lines.c.tx_hash, _EVENT.c.log_index == lines.c.log_index)
    query = select(_EVENT.c.args).where(here).order_by(_EVENT.c.id.desc()).limit(1)
    return query.correlate(lines).scalar_subquery()


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
    if wanted.chain_id is not None:
        query = query.where(_TX.c.chain_id == wanted.chain_id)
    if wanted.text:
        query = query.where(_mentions(wanted.text, _TX.c.tx_hash, _TX.c.purpose, _TX.c.to))
    return query.order_by(_TX.c.created_at.desc(), _TX.c.id.desc()).limit(count)


def _arrived_eth(source: str, wanted: Filter, after: Place | None, count: int) -> Any | None:
    actions = (None, Action.RECEIVED, Action.TAKEN_BACK)
    if wanted.token is Token.USDC or wanted.action not in actions:
        return None
    gone = _ARRIVAL.c.amount.startswith("-")
    action = case((gone, Action.TAKEN_BACK.value), else_=Action.RECEIVED.value)
    query = (
        select(
            _ARRIVAL.c.at,
            _ARRIVAL.c.block_number.label("id"),
            action.label("action"),
            _ARRIVAL.c.amount,
            _ARRIVAL.c.tx_hash,
            literal("").label("purpose"),
            _ARRIVAL.c.source.label("other"),
        )
        .where(_ARRIVAL.c.token == Token.ETH.value)
        .where(*_within(_ARRIVAL.c.at, wanted))
        .where(*_older(source, _ARRIVAL.c.at, _ARRIVAL.c.block_number, after))
    )
    if wanted.chain_id is not None:
        query = query.where(_ARRIVAL.c.chain_id == wanted.chain_id)
    if wanted.action:
        query = query.where(action == wanted.action.value)
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
