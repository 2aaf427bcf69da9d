"""The schema's history (Alembic). Every start brings the database to the newest version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, text
from sqlmodel import SQLModel

import backups.models
import catalog.discovered
import catalog.models
import finance.buying.models
import finance.models
import finance.operations
import node.accounts.models
import node.alerts.models
import node.plans.buying.models
import node.plans.models
import node.preferences
import node.usage.metering
import node.usage.models
import node.usage.stream_rows
from node.db.engine import writer
from node.errors import DatabaseTooNew

MODELS = (
    backups.models,
    catalog.discovered,
    catalog.models,
    finance.buying.models,
    finance.models,
    finance.operations,
    node.accounts.models,
    node.alerts.models,
    node.plans.buying.models,
    node.plans.models,
    node.preferences,
    node.usage.metering,
    node.usage.models,
    node.usage.stream_rows,
)
_UPGRADE_LOCK = 0x66617265  # "fare": one process upgrades PostgreSQL at a time


def metadata() -> MetaData:
    """Every table of the node, as the models say it is."""
    return SQLModel.metadata


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision` in one transaction; twice is harmless.

    Raises DatabaseTooNew.
    """
    revision_of(engine)
    with writer(engine).begin() as connection:
        _lock(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to `revision` (`base`: nothing left) in one transaction."""
    with writer(engine).begin() as connection:
        _lock(connection)
        command.downgrade(_config(connection), revision)


def script_directory() -> ScriptDirectory:
    """The history as Alembic reads it."""
    return ScriptDirectory(str(Path(__file__).parent))


def head_revision() -> str:
    """The newest schema this version knows."""
    return script_directory().get_current_head() or ""


def known_revisions() -> frozenset[str]:
    return frozenset(each.revision for each in script_directory().walk_revisions())


def revision_of(engine: Engine) -> str | None:
    """The schema the database is at; None for an empty one. Raises DatabaseTooNew."""
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in known_revisions():
        raise DatabaseTooNew(
            f"The database is newer (schema {revision}) than this version of Farebox knows."
            " Install the version that wrote it, or a later one."
        )
    return revision


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
