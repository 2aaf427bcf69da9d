"""The full-text index of the catalog: FTS5 on SQLite, a tsvector on PostgreSQL.

Neither is a table the models could describe, so they are made here by hand, and
left out when models and schema are compared (`is_described`). Their rows are made
from `listing` and may be lost without harm: see catalog.search_index.
"""

from __future__ import annotations

from typing import Any, Final

from alembic import op

TABLE: Final = "listing_search"

_SQLITE = f"""
CREATE VIRTUAL TABLE {TABLE} USING fts5(
    listing_id UNINDEXED, name, tags, description, operations,
    tokenize = 'unicode61', prefix = '2 3'
)"""
_POSTGRESQL = (
    f"CREATE TABLE {TABLE} (listing_id VARCHAR PRIMARY KEY, document TSVECTOR NOT NULL)",
    f"CREATE INDEX {TABLE}_document ON {TABLE} USING gin (document)",
)


def create_index() -> None:
    """Inside a revision's transaction."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in (_SQLITE,) if sqlite else _POSTGRESQL:
        op.execute(statement)


def drop_index() -> None:
    op.execute(f"DROP TABLE {TABLE}")


def is_described(name: str | None, kind: str, _parents: Any = None) -> bool:
    """Alembic's `include_name`: False for the index and the tables it consists of."""
    return kind != "table" or not (name or "").startswith(TABLE)
