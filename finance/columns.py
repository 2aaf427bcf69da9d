"""Column types that tables of every package share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Integer

# SQLite only numbers rows of a plain INTEGER key, which has 64 bits there.
ROW_ID: Any = BigInteger().with_variant(Integer(), "sqlite")
