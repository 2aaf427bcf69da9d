"""A backup before the schema changes: the one that leads back to the version before."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from backups.errors import BackupError, NoBackupKey
from finance.wallet.signer import Keys
from node.accounts.audit import SYSTEM
from node.db.migrations import head_revision, revision_of, upgrade
from node.errors import NodeError
from node.settings import Settings
from node.vault import records
from node.vault.service import Surroundings, Vault

_log = logging.getLogger(__name__)


class BackupBeforeUpgrade(NodeError):
    """The schema would change, and no backup could be made first."""

    code = "backup_before_upgrade"


def needs_backup(engine: Engine) -> bool:
    """Whether the database has content of an older schema, and backups are set up (blocking)."""
    at = revision_of(engine)
    if at is None or at == head_revision():
        return False
    try:
        records.current_key(engine)
    except (NoBackupKey, SQLAlchemyError):
        return False
    return True


def upgrade_with_backup(engine: Engine, settings: Settings, keys: Keys) -> None:
    """Bring the schema to the newest revision, after a backup where one is due (blocking).

    Raises BackupBeforeUpgrade with nothing changed.
    """
    if needs_backup(engine):
        _log.info("the database's schema changes; a backup is written first")
        vault = Vault(Surroundings(settings, engine, keys), time.time)
        try:
            asyncio.run(vault.back_up_now("migration", SYSTEM))
        except BackupError as error:
            raise BackupBeforeUpgrade(
                f"The database has to be brought to a newer schema, and the backup before it"
                f" failed: {error} Mend that and start again; nothing was changed."
            ) from error
    upgrade(engine)


def require_upgraded(engine: Engine) -> None:
    """For commands without the wallet's passphrase: raises BackupBeforeUpgrade rather than to
    change the schema of a node that has backups (blocking)."""
    if needs_backup(engine):
        raise BackupBeforeUpgrade(
            "The database has an older schema. Run: farebox db upgrade (it writes a backup first)."
        )
    upgrade(engine)
