"""What every command starts from: settings, passphrase, wallet, database."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

import typer
from sqlalchemy import Engine

from finance.wallet.place import has_wallet
from node.db.engine import open_engine
from node.db.revisions import is_newest
from node.errors import NotInitialised, PassphraseMissing
from node.settings import Settings, load_settings, resolve_passphrase

if TYPE_CHECKING:
    # Loaded by those who open the wallet only: it brings the libraries of keys.
    from finance.wallet.keystore import Keystore
    from finance.wallet.signer import Keys


def read_settings(context: typer.Context) -> Settings:
    """The settings of the data directory named on the command line or in the environment."""
    return load_settings(context.find_root().obj)


def passphrase(settings: Settings, prompt: str = "Passphrase of the wallet: ") -> str:
    """The passphrase, asked for on a terminal when neither environment nor file gives it."""
    return resolve_passphrase(settings, (lambda: getpass.getpass(prompt)) if _asks() else None)


def new_passphrase(settings: Settings) -> str:
    """A passphrase for a new wallet: asked for twice on a terminal."""
    given = passphrase(settings, "Choose a passphrase for the wallet: ")
    asked = settings.passphrase is None and settings.passphrase_file is None
    if asked and getpass.getpass("The same again: ") != given:
        raise PassphraseMissing("The two passphrases differ; nothing was made.")
    return given


def require_node(settings: Settings) -> None:
    """Raises NotInitialised when no node was made here."""
    if not has_wallet(settings.keystore_dir):
        raise NotInitialised(f"There is no wallet in {settings.data_dir} yet. Run: farebox init")


def require_wallet(settings: Settings) -> Keystore:
    """The wallet's keystore. Raises NotInitialised when there is none."""
    from finance.wallet.keystore import Keystore

    require_node(settings)
    return Keystore(settings.keystore_dir)


def unlock(settings: Settings) -> Keys:
    return require_wallet(settings).unlock(passphrase(settings))


def open_database(settings: Settings) -> Engine:
    """The node's database, at the newest schema. Raises BackupBeforeUpgrade."""
    engine = open_engine(settings.database)
    if not is_newest(engine):
        # Imported here: Alembic and the backups take longer to load than most commands run.
        from node.vault.before import require_upgraded

        require_upgraded(engine)
    return engine


def database_of(context: typer.Context) -> Engine:
    """For commands that need nothing else of a node that was made. Raises NotInitialised."""
    settings = read_settings(context)
    require_node(settings)
    return open_database(settings)


def _asks() -> bool:
    return sys.stdin.isatty()
