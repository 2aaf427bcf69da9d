"""Open streams, as the JSON API gives them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class StreamOut(BaseModel):
    """One open stream. By the minute, `minute_atoms` is its price and `paid_until` (Unix
    seconds) how far it is paid; else 0 and null. `paid_atoms` is all it has cost so far."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: Literal["websocket", "sse"]
    listing_id: str
    listing: str
    payer: str
    started_at: int
    seconds: int
    minute_atoms: int
    paid_until: int | None
    paid_atoms: int
