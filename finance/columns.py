"""Column types that tables of every package share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Index, Integer, text
from sqlmodel import Field

# SQLite only numbers rows of a plain INTEGER key, which has 64 bits there.
ROW_ID: Any = BigInteger().with_variant(Integer(), "sqlite")


def atoms(description: str, default: int = 0) -> int:
    """A column of 64 bits, in USDC atoms."""
    value: int = Field(default=default, sa_type=BigInteger, description=description)
    return value


def index_where(where: str, name: str, *columns: str, unique: bool = False) -> Index:
    """An index of the rows for which `where` holds, in words that both databases know. A query
    uses it that says the same in the same words."""
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
