"""Streams that are open now, as their rows have them: a new one is there within a tick."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, RowMapping, func, select
from sqlmodel import col

from catalog.models import Listing
from node.usage.models import Call, Side
from node.usage.stream_rows import StreamSession, StreamState
from node.usage.streams import MINUTE

MOST = 10_000
_COLUMNS = (
    col(StreamSession.id),
    col(StreamSession.kind),
    col(StreamSession.listing_id),
    func.coalesce(col(Listing.name), "").label("listing"),
    col(StreamSession.payer),
    col(StreamSession.started_at),
    col(StreamSession.minute_atoms),
    col(StreamSession.paid_until),
    func.coalesce(col(Call.amount_atoms), 0).label("opening"),
)


@dataclass(frozen=True, slots=True)
class LiveStream:
    """One open stream. `minute_atoms` is 0 and `paid_until` None where its opening was all
    that was to be paid; `listing` is a name, empty for one that is gone."""

    id: str
    kind: str
    listing_id: str
    listing: str
    payer: str
    started_at: int
    seconds: int
    minute_atoms: int
    paid_until: int | None
    paid_atoms: int


@dataclass(frozen=True, slots=True)
class LiveStreams:
    """The longest open first; `total` counts those beyond what was asked for too."""

    streams: tuple[LiveStream, ...]
    total: int


def read_live(
    engine: Engine,
    side: Side,
    now: int,
    *,
    listing_id: str | None = None,
    key_id: str | None = None,
    most: int = MOST,
) -> LiveStreams:
    """Open streams of a listing or a key (blocking)."""
    conditions = [
        col(StreamSession.state) == StreamState.OPEN,
        col(StreamSession.side) == side,
    ]
    if listing_id is not None:
        conditions.append(col(StreamSession.listing_id) == listing_id)
    if key_id is not None:
        conditions.append(col(StreamSession.key_id) == key_id)
    found = (
        select(*_COLUMNS)
        .outerjoin(Listing, col(Listing.id) == col(StreamSession.listing_id))
        .outerjoin(Call, col(Call.id) == col(StreamSession.id))
        .where(*conditions)
        .order_by(col(StreamSession.started_at), col(StreamSession.id))
        .limit(most)
    )
    counted = select(func.count()).select_from(StreamSession).where(*conditions)
    with engine.connect() as connection:
        total = connection.scalar(counted) or 0
        rows = connection.execute(found).mappings().all()
    return LiveStreams(tuple(_live(row, now) for row in rows), total)


def paid_so_far(opening_atoms: int, minute_atoms: int, started_at: int, until: int | None) -> int:
    """What a stream has cost: its opening, and each minute after the first."""
    if until is None:
        return opening_atoms
    return opening_atoms + minute_atoms * max((until - started_at) // MINUTE - 1, 0)


def _live(row: RowMapping, now: int) -> LiveStream:
    started_at, until, minute_atoms = row["started_at"], row["paid_until"], row["minute_atoms"]
    return LiveStream(
        id=row["id"],
        kind=row["kind"],
        listing_id=row["listing_id"],
        listing=row["listing"],
        payer=row["payer"] or "",
        started_at=started_at,
        seconds=max(now - started_at, 0),
        minute_atoms=minute_atoms,
        paid_until=until,
        paid_atoms=paid_so_far(row["opening"], minute_atoms, started_at, until),
    )
