"""The table of streams: who was connected, to what, from when to when."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Index
from sqlmodel import Field, SQLModel

from finance.columns import index_where


class StreamKind(StrEnum):
    SSE = "sse"
    WEBSOCKET = "websocket"


class StreamState(StrEnum):
    OPEN = "open"
    ENDED = "ended"  # one of the two sides closed it
    CUT = "cut"  # it broke off, or this node ended it: `reason` says why


class StreamSession(SQLModel, table=True):
    """One stream. Written some seconds after it opened, then by each tick: `last_tick_at` is
    as far as its time is known, and its end once it is over."""

    __tablename__ = "stream_session"
    __table_args__ = (
        Index("ix_stream_session_side_until", "side", "last_tick_at"),
        index_where("state = 'open'", "ix_stream_session_open", "owner"),
    )

    id: str = Field(primary_key=True, description="that of the call which opened it")
    side: str = Field(description="served, bought")
    listing_id: str
    key_id: str | None = Field(default=None, description="bought: consumer key")
    payer: str | None = Field(default=None, description="served: who paid; null when free")
    kind: str = Field(description="sse, websocket")
    started_at: int = Field(sa_type=BigInteger, description="Unix seconds")
    last_tick_at: int = Field(sa_type=BigInteger, description="Unix seconds")
    ended_at: int | None = Field(
        default=None, sa_type=BigInteger, description="Unix seconds; null while it is open"
    )
    seconds: int = Field(sa_type=BigInteger, description="connected so far, idle or not")
    state: str = Field(description="open, ended, cut")
    reason: str = Field(default="", description="why it ended, a code; empty while open")
    owner: int = Field(sa_type=BigInteger, description="number of the process that holds it")
    minute_atoms: int = Field(
        default=0,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": "0"},
        description="USDC atoms a minute; 0: not by the minute",
    )
    paid_until: int | None = Field(
        default=None, sa_type=BigInteger, description="by the minute: Unix seconds paid for"
    )
