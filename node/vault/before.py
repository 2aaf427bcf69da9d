"""A backup before the schema changes: the one that leads back to the version before.

Where it fails the schema stays as it is and the node does not start: what failed is said, and
`farebox db upgrade --without-backup` is there for whoever cannot mend it. It waits for nothing
but the database's own snapshot: no claim, no copy elsewhere, no chain. A node without a backup
password has no key to encrypt to; its schema changes without a backup, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from backups.errors import BackupError, NoBackupKey
from backups.postgres import UNFINISHED
from finance.wallet.signer import Keys
from node.accounts.audit import SYSTEM
from node.db.migrations import head_revision, revision_of, upgrade
from node.errors import NodeError
from node.preferences import read_preference
from node.settings import Settings
from node.vault import records
from node.vault.restored import Restored
from node.vault.service import Surroundings, Vault
from node.vault.source import wallets_of

_INTERRUPTED = (
    "a restore was interrupted. Name an empty database in FAREBOX_DATABASE_URL and restore the"
    " backup again."
)
_log = logging.getLogger(__name__)


class BackupBeforeUpgrade(NodeError):
    """The schema would change, and no backup could be made first."""

    code = "backup_before_upgrade"


class BooksOfAnother(NodeError):
    """The database was restored, and the data directory that belongs to it was not."""

    code = "books_of_another"


def needs_backup(engine: Engine) -> bool:
    """Whether the database has content of an older schema, and backups are set up (blocking)."""
    return _outdated(engine) and _has_key(engine)


def upgrade_with_backup(engine: Engine, settings: Settings, keys: Keys) -> None:
    """Bring the schema to the newest revision, after a backup where one is due (blocking).

    Raises BackupBeforeUpgrade or BooksOfAnother with nothing changed.
    """
    _require_own_books(engine, settings)
    if needs_backup(engine):
        _log.info("the database's schema changes; a backup is written first")
        vault = Vault(Surroundings(settings, engine, keys), time.time)
        try:
            asyncio.run(vault.back_up_now("migration", SYSTEM))
        except (BackupError, SQLAlchemyError) as error:
            raise BackupBeforeUpgrade(
                f"The database has to be brought to a newer schema, and the backup before it"
                f" failed: {_sentence(error)} Mend that and start again; nothing was changed. To"
                " go on without one: farebox db upgrade --without-backup"
            ) from error
    elif _outdated(engine):
        _log.warning("the database's schema changes without a backup: no backup password is set")
    upgrade(engine)


def require_upgraded(engine: Engine) -> None:
    """For commands without the wallet's passphrase: raises BackupBeforeUpgrade rather than to
    change the schema of a node that has backups (blocking)."""
    if needs_backup(engine):
        raise BackupBeforeUpgrade(
            "The database has an older schema. Run: farebox db upgrade (it writes a backup first)."
        )
    upgrade(engine)


def _require_own_books(engine: Engine, settings: Settings) -> None:
    """A restore loads books into a server first, and swaps the data directory then: killed between
    the two, this node has another wallet than its books."""
    if inspect(engine).has_table(UNFINISHED):
        raise BooksOfAnother(f"The database was being restored into: {_INTERRUPTED}")
    try:
        wallet = read_preference(engine, Restored).wallet
    except SQLAlchemyError:
        return  # no such table: a new database
    if wallet and wallet.lower() not in wallets_of(settings):
        raise BooksOfAnother(
            f"The database holds the restored books of wallet {wallet}, which is not in"
            f" {settings.keystore_dir}: {_INTERRUPTED}"
        )


def _outdated(engine: Engine) -> bool:
    return revision_of(engine) not in (None, head_revision())


def _has_key(engine: Engine) -> bool:
    try:
        records.current_key(engine)
    except (NoBackupKey, SQLAlchemyError):
        return False
    return True


def _sentence(error: BackupError | SQLAlchemyError) -> str:
    if isinstance(error, BackupError):
        return str(error)
    return f"{getattr(error, 'orig', None) or type(error).__name__}."
