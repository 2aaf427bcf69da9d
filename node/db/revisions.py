"""Whether a database is at the newest schema, asked without loading Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError

_VERSIONS = Path(__file__).parent / "migrations" / "versions"
_REVISION = text("SELECT version_num FROM alembic_version")


def newest_revision() -> str:
    """The newest schema this version knows: files of revisions begin with their numbers."""
    return max(path.name.partition("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))


def is_newest(engine: Engine) -> bool:
    """False also for an empty database (blocking)."""
    try:
        with engine.connect() as connection:
            return bool(connection.scalar(_REVISION) == newest_revision())
    except (OperationalError, ProgrammingError):
        return False
