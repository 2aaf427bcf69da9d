"""A node's files without the node: wallet, settings, database, and a vault over them."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from backups.client import run_task
from backups.tasks import Create, MadeKey, MakeKey, Outcome
from finance.wallet.keystore import Keystore
from finance.wallet.signer import Keys
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.settings import Settings
from node.vault.service import Surroundings, Vault
from node.vault.source import database_of, facts_of, files_of

PASSWORD = "correct horse battery staple"
PASSPHRASE = "the wallet's own passphrase"
LIMIT = 3_000


@dataclass(slots=True)
class Home:
    """One data directory, its keys unlocked, its database open."""

    settings: Settings
    keys: Keys
    engine: Engine
    key: MadeKey

    @property
    def vault(self) -> Vault:
        return Vault(Surroundings(self.settings, self.engine, self.keys))

    @property
    def folder(self) -> Path:
        return self.settings.data_dir / "backups"

    def create(self, name: str = "one.farebox", **changes: Any) -> Create:
        """A request to back this home up; its id is its name."""
        facts = facts_of(self.settings, name, "manual", int(time.time()), 7, 3)
        request = {
            "folder": str(self.folder),
            "name": name,
            "recipient": self.key.recipient,
            "key_block": self.key.key_block,
            "identity": self.key.identity,
            "database": database_of(self.settings),
            "files": files_of(self.settings),
            "facts": facts,
        }
        return Create(**(request | changes))

    def back_up(self, name: str = "one.farebox") -> Path:
        """Write a backup and return its file."""
        asyncio.run(run_task(self.create(name), Outcome))
        return self.folder / name

    def files(self) -> dict[str, bytes]:
        """Everything in the data directory but SQLite's and our own book-keeping."""
        return contents(self.settings.data_dir)


def contents(folder: Path) -> dict[str, bytes]:
    """Files below a folder by their path; locks and SQLite's shared memory left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", "node.lock", "farebox.db-shm")
    }


def make_key(password: str = PASSWORD) -> MadeKey:
    return asyncio.run(run_task(MakeKey(password), MadeKey))


def make_home(data_dir: Path, key: MadeKey) -> Home:
    """A new node's files on devnet, with a few rows in its database."""
    os.makedirs(data_dir, mode=0o700)
    (data_dir / "farebox.toml").write_text('network = "devnet"\n')
    settings = Settings(data_dir=data_dir, network="devnet")
    keystore = Keystore(settings.keystore_dir)
    keystore.create(PASSPHRASE)
    return Home(settings, keystore.unlock(PASSPHRASE), _books(settings), key)


def on_server(data_dir: Path, pattern: Home, database_url: str) -> Home:
    """The same wallet over a database on a server."""
    shutil.copytree(pattern.settings.data_dir, data_dir)
    settings = Settings(data_dir=data_dir, network="devnet", database_url=database_url)
    return Home(settings, pattern.keys, _books(settings), pattern.key)


def _books(settings: Settings) -> Engine:
    engine = open_engine(settings.database)
    upgrade(engine)
    with writer(engine).begin() as connection:
        for number in range(40):
            connection.execute(
                text(
                    "INSERT INTO spend_limit (scope, subject, limit_atoms)"
                    " VALUES ('listing', :subject, :atoms)"
                ),
                {"subject": f"listing-{number}", "atoms": LIMIT},
            )
    return engine


def at(data_dir: Path, pattern: Home) -> Home:
    """A copy of a home's files as a home of its own."""
    settings = Settings(data_dir=data_dir, network="devnet")
    return Home(settings, pattern.keys, open_engine(settings.database), pattern.key)


def limits(engine: Engine) -> int:
    """The sum that `make_home` put into the database."""
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT SUM(limit_atoms) FROM spend_limit")) or 0)
