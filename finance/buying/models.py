"""The tables of what may be signed, and of what was. Amounts are USDC atoms (10^-6)."""

from __future__ import annotations

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from finance.columns import atoms


class SpendLimit(SQLModel, table=True):
    """The most that may be signed, by scope; the tightest of all that apply wins."""

    __tablename__ = "spend_limit"

    scope: str = Field(primary_key=True, description="call, listing, key, day, deposit")
    subject: str = Field(primary_key=True, description="listing id, key id, or * for all")
    limit_atoms: int = atoms("most that may be signed (listing, key, day: per UTC day)")


class SpendCounter(SQLModel, table=True):
    """What was signed so far in a window; counted before signing, given back if unused."""

    __tablename__ = "spend_counter"
    __table_args__ = (CheckConstraint("spent_atoms >= 0"),)

    scope: str = Field(primary_key=True)
    subject: str = Field(primary_key=True)
    window: str = Field(primary_key=True, description="UTC day, 2026-11-21")
    spent_atoms: int = atoms("signed in this window")
