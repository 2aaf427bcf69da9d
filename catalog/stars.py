"""My APIs: what each user has marked."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select
from sqlmodel import col

from catalog.discovered import Star
from catalog.errors import ListingUnknown
from catalog.models import Listing


def set_star(
    connection: Connection, user_id: str, listing_id: str, starred: bool, now: int
) -> None:
    """Mark a listing, or take the mark away; twice is harmless. Raises ListingUnknown."""
    mine = (col(Star.user_id) == user_id, col(Star.listing_id) == listing_id)
    connection.execute(delete(Star).where(*mine))
    if not starred:
        return
    if connection.scalar(select(col(Listing.id)).where(col(Listing.id) == listing_id)) is None:
        raise ListingUnknown("There is no such listing. It may have been removed.")
    connection.execute(insert(Star), {"user_id": user_id, "listing_id": listing_id, "at": now})
