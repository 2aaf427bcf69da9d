"""Restoring: look inside, make a whole data directory beside the old one, swap it in.

Until the swap nothing that was there is touched, and after it the old directory is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from backups import postgres
from backups.archive import Progress
from backups.client import run_task
from backups.errors import BackupError, BackupTooNew, DatabaseUnfit, WrongNetwork
from backups.folder import sync_folder, unusable
from backups.manifest import SQLITE_NAME, Manifest
from backups.swap import swap_in
from backups.tasks import Extract, Look, Outcome, Postgres
from finance.networks import NETWORKS
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine, writer
from node.db.migrations import known_revisions, metadata, search_index, upgrade
from node.db.presence import alive
from node.lock import FILE_NAME as LOCK_NAME
from node.preferences import store_preference
from node.settings import Settings
from node.vault.records import manifest_text
from node.vault.restored import VALID_AGAIN, Restored
from node.vault.source import TOML, database_of, outside_of

OLD_NODE = (
    "The old node must not run again: two nodes with one wallet sign against each other's books."
    " If its machine still works, stop it there and remove its data directory."
)

_NAMED = re.compile(r"""^\s*(network|chain_id|database_url)\s*=\s*["']?([^\s"']*)""", re.MULTILINE)
_DATABASE_URL = "FAREBOX_DATABASE_URL"
_GONE_SECONDS = 5.0
_BY_ITSELF = frozenset(
    {
        "alembic_version",
        "audit_entry",
        "chain_cursor",
        "chain_event",
        "delivery",
        "eth_sighting",
        "event",
        "mail",
        "notification",
        "preference",
        "rate_hits",
        "reconciliation",
        "setup_code",
    }
)


@dataclass(frozen=True, slots=True)
class Staged:
    """A whole data directory, ready to be swapped in. Books that belong on a server are in it as a
    dump: they are loaded right before."""

    folder: Path
    manifest: Manifest


async def look_inside(path: Path, password: str) -> Outcome:
    """What a backup says of itself. Raises BackupError; nothing is changed."""
    return await run_task(Look(path=str(path), password=password), Outcome)


def require_fit(manifest: Manifest, settings: Settings) -> None:
    """Raises WrongNetwork, BackupTooNew or DatabaseUnfit, each saying what to do (blocking)."""
    if manifest.network not in NETWORKS:
        raise WrongNetwork(f"This version of Farebox knows no network {manifest.network}.")
    chain = settings.chain
    chosen = "network" in settings.model_fields_set
    other_id = "chain_id" in settings.model_fields_set and manifest.chain_id != chain.chain_id
    if chosen and (manifest.network != chain.name or other_id):
        raise WrongNetwork(
            f"This backup is of a node on {manifest.network} (chain {manifest.chain_id}); this one"
            f" is set to {chain.name} (chain {chain.chain_id}). Restore it where FAREBOX_NETWORK is"
            f" {manifest.network}."
        )
    _require_known(manifest.schema_revision)
    _require_database(manifest, settings)


def _require_known(revision: str) -> None:
    if revision not in known_revisions():
        raise BackupTooNew(
            f"This backup has a newer database (schema {revision}) than this version of Farebox"
            " knows. Install the version that wrote it, or a later one."
        )


def _require_database(manifest: Manifest, settings: Settings) -> None:
    database = database_of(settings)
    if manifest.database == "postgres":
        if not isinstance(database, Postgres):
            raise DatabaseUnfit(
                "This backup holds a PostgreSQL database. Name an empty one in"
                " FAREBOX_DATABASE_URL and restore again."
            )
        postgres.require_room(database.conninfo, _room())
    elif isinstance(database, Postgres) or Path(database.path) != database_file(settings):
        raise DatabaseUnfit(
            "This backup holds an SQLite database, which is restored into the data directory."
            " Take FAREBOX_DATABASE_URL out of the settings and restore again."
        )


def _room() -> postgres.Room:
    """A node that was started and never set up has made its schema, and nothing in it that counts:
    so is the database in which the wizard of a new node restores."""
    made = (search_index.TABLE, "alembic_version", postgres.UNFINISHED)
    own = frozenset({*metadata().tables, *made})
    return postgres.Room(own, _BY_ITSELF)


def database_file(settings: Settings) -> Path:
    """Where SQLite's file is when nobody says otherwise."""
    return settings.data_dir.absolute() / "farebox.db"


async def stage(
    path: Path,
    password: str,
    manifest: Manifest,
    settings: Settings,
    progress: Progress | None = None,
) -> Staged:
    """Check all of a backup and make a data directory of it, beside the one in use.

    Raises BackupError; what was half made is removed then.
    """
    await asyncio.to_thread(require_fit, manifest, settings)
    folder = await asyncio.to_thread(_new_folder, settings.data_dir)
    try:
        request = Extract(path=str(path), into=str(folder), password=password, only=manifest.id)
        found = (await run_task(request, Outcome, progress)).manifest
        await asyncio.to_thread(_furnish, folder, found, settings)
    except BaseException as error:
        await asyncio.to_thread(shutil.rmtree, folder, True)
        if isinstance(error, OSError):
            raise unusable(folder, error) from None
        raise
    return Staged(folder, found)


def swap(staged: Staged, settings: Settings) -> Path | None:
    """Put the staged directory in place; where the old one is kept, None if it was empty
    (blocking). Only for whoever holds the data directory, with nothing else in its database.
    Raises BackupError; the old directory is there then, and the staged one gone."""
    data_dir = settings.data_dir
    kept = _kept_name(data_dir)
    try:
        if staged.manifest.database == "postgres":
            _load_books(staged, settings)
        swap_in(staged.folder, data_dir, kept)
    except BackupError:
        discard(staged)
        raise
    if not kept.exists():
        return None
    if {each.name for each in kept.iterdir()} <= {LOCK_NAME}:
        shutil.rmtree(kept, ignore_errors=True)
        return None
    return kept


def _kept_name(data_dir: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return data_dir.parent / f"{data_dir.name}.before-restore-{stamp}-{secrets.token_hex(2)}"


def discard(staged: Staged) -> None:
    """Forget a staged directory (blocking)."""
    shutil.rmtree(staged.folder, ignore_errors=True)


def sweep_staged(data_dir: Path) -> None:
    """Clear up after restores that were killed (blocking). Only for whoever holds the data
    directory: what has a lock file was in use, and is the old one; the rest never was."""
    for folder in data_dir.parent.glob(f".{escape(data_dir.name)}.restoring-*"):
        if (folder / LOCK_NAME).exists():
            folder.rename(_kept_name(data_dir))
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _new_folder(data_dir: Path) -> Path:
    folder = data_dir.parent / f".{data_dir.name}.restoring-{secrets.token_hex(4)}"
    try:
        data_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise unusable(data_dir.parent, error) from None
    return folder


def _furnish(folder: Path, manifest: Manifest, settings: Settings) -> None:
    """Settings that name chain and database, books that know they were restored, all on disk."""
    _name_place(folder / TOML, manifest, settings)
    database = database_of(settings)
    dump = folder / manifest.database_member.name
    if isinstance(database, Postgres):
        postgres.check(dump, database.conninfo, manifest.counts, False)
    else:
        assert dump.name == SQLITE_NAME
        dump.rename(folder / "farebox.db")
        file = str(folder / "farebox.db")
        _mark(make_url("sqlite://").set(database=file).render_as_string(), manifest)
    for place, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(place) / name)
        sync_folder(Path(place))


def _load_books(staged: Staged, settings: Settings) -> None:
    database = database_of(settings)
    assert isinstance(database, Postgres)
    _require_nobody(settings.database)
    dump = staged.folder / staged.manifest.database_member.name
    postgres.restore(dump, database.conninfo, _room())
    _mark(settings.database, staged.manifest)
    dump.unlink()


def _require_nobody(url: str) -> None:
    """Raises DatabaseUnfit while a process runs on the database: it would go on with the restored
    books under another wallet. One that has just ended may show itself for a moment."""
    engine, deadline = open_engine(url), time.monotonic() + _GONE_SECONDS
    try:
        while alive(engine):
            if time.monotonic() > deadline:
                raise DatabaseUnfit(
                    "Another process of this node runs on the database to restore into. Stop it,"
                    " and restore again; nothing was changed."
                )
            time.sleep(0.1)
    except SQLAlchemyError as error:
        why = getattr(error, "orig", None) or type(error).__name__
        raise DatabaseUnfit(f"The PostgreSQL database cannot be used: {why}.") from error
    finally:
        engine.dispose()


def _mark(url: str, manifest: Manifest) -> None:
    """This version's schema, and books that know they were restored. Raises DatabaseUnfit."""
    engine = open_engine(url)
    try:
        upgrade(engine)
        with writer(engine).begin() as connection:
            mark_restored(connection, manifest, int(time.time()))
            connection.execute(text(f"DROP TABLE IF EXISTS {postgres.UNFINISHED}"))
    except SQLAlchemyError as error:
        why = getattr(error, "orig", None) or type(error).__name__
        raise DatabaseUnfit(
            f"The database in this backup cannot be brought to this version's schema: {why}."
        ) from error
    finally:
        engine.dispose()


def _name_place(toml: Path, manifest: Manifest, settings: Settings) -> None:
    """Chain and books, in the settings of the restored node. Those of the backup may name none,
    since the environment did, or others: a network that never held, the database of the old node.
    """
    there = toml.read_text(encoding="utf-8") if toml.exists() else ""
    named = dict(_NAMED.findall(there))
    place: dict[str, str | int] = {"network": manifest.network}
    if manifest.chain_id != NETWORKS[manifest.network].chain_id:
        place["chain_id"] = manifest.chain_id
    outside = {each.name for each in outside_of(settings, os.environ)}
    if settings.database_url and ("database_url" in named or _DATABASE_URL not in outside):
        place["database_url"] = settings.database_url
    if named == {name: str(value) for name, value in place.items()}:
        return
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in place.items()]
    others = [line for line in there.splitlines(keepends=True) if not _NAMED.match(line)]
    handle = os.open(toml, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write("".join((*lines, *others)))


def mark_restored(connection: Connection, manifest: Manifest, now: int) -> None:
    """What the restored books must know: nothing they say of the chain is certain until the
    chain was asked, and nobody is signed in."""
    connection.execute(text("UPDATE seller_channel SET synced_at = 0"))
    connection.execute(text("UPDATE purchase SET state = 'unknown' WHERE state = 'intent'"))
    # Perhaps somebody was signed out since, or has changed a password that was known.
    connection.execute(text("DELETE FROM user_session"))
    if connection.dialect.name == "postgresql":
        # Whichever process has a file of then finds it; none could say that one is nowhere.
        connection.execute(text("UPDATE backup SET state = 'elsewhere' WHERE state = 'good'"))
    connection.execute(
        text(
            "UPDATE backup SET state = 'elsewhere', finished_at = :at, manifest = :manifest,"
            " error = '' WHERE id = :id"
        ),
        {"at": manifest.created_at, "manifest": manifest_text(manifest), "id": manifest.id},
    )
    fact = Restored(
        backup_id=manifest.id,
        backup_at=manifest.created_at,
        restored_at=now,
        wallet=manifest.wallet,
        wallet_nonce=manifest.wallet_nonce,
        lost_atoms=manifest.owed_atoms,
    )
    store_preference(connection, fact, SYSTEM, now)
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.created_at))
    connection.execute(
        text("INSERT INTO event (at, type, severity, message) VALUES (:at, :type, :how, :text)"),
        {
            "at": now,
            "type": "restored",
            "how": "warning",
            "text": f"This node was restored from a backup made {made}. {OLD_NODE} {VALID_AGAIN}",
        },
    )


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
