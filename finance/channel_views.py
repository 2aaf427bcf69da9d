"""Channels as their owner looks at them, a page at a time; amounts in atoms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, select

from finance.buying.closing_rows import ClosingRow, closings_in
from finance.chunks import CHUNK, in_chunks
from finance.models import BuyerChannel, ChannelState, SellerChannel
from finance.snapshot import snapshot

_SOLD = SellerChannel.__table__  # type: ignore[attr-defined]
_BOUGHT = BuyerChannel.__table__  # type: ignore[attr-defined]
_UNCLAIMED = _SOLD.c.charged_atoms - _SOLD.c.streaming_atoms - _SOLD.c.total_claimed_atoms
_UNSPENT = _BOUGHT.c.balance_atoms - _BOUGHT.c.charged_atoms


@dataclass(frozen=True, slots=True)
class SoldChannel:
    """Somebody pays us through it. `unclaimed` was delivered and is only a voucher yet;
    `unspent` is still the payer's; `leaves_at`: from then on the payer may have it (0: it
    has not asked)."""

    channel_id: str
    payer: str
    state: str
    balance: int
    charged: int
    claimed: int
    unclaimed: int
    unspent: int
    leaves_at: int
    last_request_at: int


@dataclass(frozen=True, slots=True)
class BoughtChannel:
    """We pay somebody through it. `unspent` is still ours."""

    channel_id: str
    origin: str
    receiver: str
    state: str
    stop_reason: str
    balance: int
    charged: int
    unspent: int
    withdraw_delay: int
    withdraw_requested_at: int
    closing: ClosingRow | None

    @property
    def closable(self) -> bool:
        return self.unspent > 0 and self.state in ("open", "stopped", "withdrawing")


@dataclass(frozen=True, slots=True)
class SoldTotals:
    """All channels we are paid through: how many, what they hold, and what is at risk."""

    channels: int
    balance: int
    unclaimed: int
    leaving: int


def sold_channels(engine: Engine, chain_id: int, count: int, skip: int = 0) -> list[SoldChannel]:
    """What owes most comes first (blocking)."""
    query = (
        select(_SOLD, _UNCLAIMED.label("unclaimed"))
        .where(_SOLD.c.chain_id == chain_id)
        .order_by(_UNCLAIMED.desc(), _SOLD.c.last_request_at.desc(), _SOLD.c.channel_id)
        .limit(count)
        .offset(skip)
    )
    with engine.connect() as connection:
        rows: Any = connection.execute(query)
        return [_sold(row) for row in rows]


def export_sold(engine: Engine, chain_id: int) -> Iterator[SoldChannel]:
    """All of them by their ids."""
    ordered = select(_SOLD, _UNCLAIMED.label("unclaimed")).where(_SOLD.c.chain_id == chain_id)
    ordered = ordered.order_by(_SOLD.c.channel_id).limit(CHUNK)

    def read(last: SoldChannel | None) -> list[SoldChannel]:
        query = ordered.where(_SOLD.c.channel_id > (last.channel_id if last else ""))
        with engine.connect() as connection:
            return [_sold(row) for row in connection.execute(query)]

    return in_chunks(read)


def sold_channel(engine: Engine, chain_id: int, channel_id: str) -> SoldChannel | None:
    """One of them (blocking)."""
    one = (_SOLD.c.chain_id == chain_id) & (_SOLD.c.channel_id == channel_id)
    query = select(_SOLD, _UNCLAIMED.label("unclaimed")).where(one)
    with engine.connect() as connection:
        row: Any = connection.execute(query).first()
    return None if row is None else _sold(row)


def sold_totals(engine: Engine, chain_id: int) -> SoldTotals:
    """(blocking)"""
    at_risk = func.sum(_UNCLAIMED).filter(_UNCLAIMED > 0)
    query = select(
        func.count(),
        func.sum(_SOLD.c.balance_atoms - _SOLD.c.total_claimed_atoms),
        at_risk,
        func.count().filter(_SOLD.c.withdraw_requested_at > 0),
    ).where(_SOLD.c.chain_id == chain_id)
    with engine.connect() as connection:
        channels, balance, unclaimed, leaving = connection.execute(query).one()
    return SoldTotals(channels, int(balance or 0), int(unclaimed or 0), leaving)


def bought_channels(
    engine: Engine, chain_id: int, count: int, skip: int = 0
) -> list[BoughtChannel]:
    """Those with unspent money first, the most on top (blocking)."""
    ended = _BOUGHT.c.state == ChannelState.CLOSED
    query = (
        select(_BOUGHT)
        .where(_BOUGHT.c.chain_id == chain_id)
        .order_by(ended, _UNSPENT.desc(), _BOUGHT.c.channel_id)
        .limit(count)
        .offset(skip)
    )
    return _read_bought(engine, query)


def export_bought(engine: Engine, chain_id: int) -> Iterator[BoughtChannel]:
    """All of them by their ids."""
    ordered = select(_BOUGHT).where(_BOUGHT.c.chain_id == chain_id)
    ordered = ordered.order_by(_BOUGHT.c.channel_id).limit(CHUNK)

    def read(last: BoughtChannel | None) -> list[BoughtChannel]:
        after = _BOUGHT.c.channel_id > (last.channel_id if last else "")
        return _read_bought(engine, ordered.where(after))

    return in_chunks(read)


def bought_channel(engine: Engine, chain_id: int, channel_id: str) -> BoughtChannel | None:
    """One of them (blocking)."""
    one = (_BOUGHT.c.chain_id == chain_id) & (_BOUGHT.c.channel_id == channel_id)
    found = _read_bought(engine, select(_BOUGHT).where(one))
    return found[0] if found else None


def count_bought(engine: Engine, chain_id: int) -> int:
    """(blocking)"""
    query = select(func.count()).where(_BOUGHT.c.chain_id == chain_id)
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


def _read_bought(engine: Engine, query: Any) -> list[BoughtChannel]:
    with snapshot(engine) as connection:
        rows = connection.execute(query).all()
        closings = closings_in(connection, [row.channel_id for row in rows])
    return [_bought(row, closings.get(row.channel_id)) for row in rows]


def _sold(row: Any) -> SoldChannel:
    asked = row.withdraw_requested_at
    return SoldChannel(
        channel_id=row.channel_id,
        payer=row.payer,
        state=row.state,
        balance=row.balance_atoms,
        charged=row.charged_atoms,
        claimed=row.total_claimed_atoms,
        unclaimed=max(0, row.unclaimed),
        unspent=max(0, row.balance_atoms - max(row.charged_atoms, row.total_claimed_atoms)),
        leaves_at=asked + row.withdraw_delay if asked else 0,
        last_request_at=row.last_request_at,
    )


def _bought(row: Any, closing: ClosingRow | None) -> BoughtChannel:
    return BoughtChannel(
        channel_id=row.channel_id,
        origin=row.origin,
        receiver=row.receiver,
        state=row.state,
        stop_reason=row.stop_reason or "",
        balance=row.balance_atoms,
        charged=row.charged_atoms,
        unspent=max(0, row.balance_atoms - row.charged_atoms),
        withdraw_delay=row.withdraw_delay,
        withdraw_requested_at=row.withdraw_requested_at,
        closing=closing,
    )
