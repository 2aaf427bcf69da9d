"""Streams that are open on a node that is full: of every listing, and of some keys."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select
from sqlmodel import col

from catalog.models import Listing
from node.usage.models import ConsumerKey, Side
from node.usage.stream_rows import StreamSession


def fill_streams(connection: Connection, now: int) -> None:
    """By the minute and not, of both kinds and sides."""
    listings = connection.execute(select(col(Listing.id), col(Listing.origin))).all()
    keys = list(connection.scalars(select(col(ConsumerKey.id)).limit(12)))
    rows = []
    for number, (listing_id, origin) in enumerate(listings):
        key_id = None if origin == "own" else keys[number % len(keys)]
        rows += [_open(f"{number}-{age}", listing_id, key_id, now - age) for age in (7, 4_000)]
    connection.execute(insert(StreamSession), rows)


def _open(name: str, listing_id: str, key_id: str | None, at: int) -> dict[str, object]:
    by_minute = name.endswith("-7")
    return {
        "id": f"stream-{name}",
        "side": Side.SERVED if key_id is None else Side.BOUGHT,
        "listing_id": listing_id,
        "key_id": key_id,
        "payer": "0x" + "5a" * 20 if key_id is None else None,
        "kind": "websocket" if by_minute else "sse",
        "started_at": at,
        "last_tick_at": at,
        "seconds": 0,
        "state": "open",
        "owner": 1,
        "minute_atoms": 123_456 if by_minute else 0,
        "paid_until": at + 60 if by_minute else None,
    }
