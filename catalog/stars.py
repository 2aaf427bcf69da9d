"""My APIs: what each user has marked."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert
from sqlmodel import col

from catalog.discovered import Star
from catalog.editing import hold_listing
from catalog.errors import ListingUnknown


def set_star(
    connection: Connection, user_id: str, listing_id: str, starred: bool, now: int
) -> None:
    """Mark a listing, or take the mark away; twice is harmless. Raises ListingUnknown."""
    if not hold_listing(connection, listing_id) and starred:
        raise ListingUnknown("There is no such listing. It may have been removed.")
    mine = (col(Star.user_id) == user_id, col(Star.listing_id) == listing_id)
    connection.execute(delete(Star).where(*mine))
    if starred:
        connection.execute(insert(Star), {"user_id": user_id, "listing_id": listing_id, "at": now})
