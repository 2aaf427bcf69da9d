"""Looking at backups again: on request, and once a week by a restore into a temporary place."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from backups.client import run_task
from backups.errors import BackupDamaged, BackupError, CheckFailed, FolderUnusable, NotABackup
from backups.folder import is_there, work_folder
from backups.manifest import Manifest
from backups.models import BackupState
from backups.tasks import Check, Extract, Outcome, Postgres
from node.db.engine import open_engine
from node.db.migrations import metadata, upgrade
from node.vault import records
from node.vault.records import BackupView
from node.vault.restored import mark_lost
from node.vault.service import Vault
from node.vault.source import database_of, wallets_of

_NOT_GOOD = (BackupDamaged, CheckFailed, NotABackup)


async def verify(vault: Vault, backup_id: str) -> BackupView:
    """Open a backup again and check every byte; its row then says what came of it.

    Raises BackupUnknown, BackupBusy, FolderUnusable.
    """
    async with vault.at_work("verify", backup_id):
        backup = await _existing(vault, backup_id)
        outcome = await _check(vault, backup)
        if outcome is not None:
            await _found_good(vault, backup_id, remark=outcome.remark or backup.remark)
    return await asyncio.to_thread(records.read_backup, vault.engine, backup_id)


async def adopt(vault: Vault, backup_id: str) -> BackupView:
    """Check a file that got its name, which none does before it is whole, when the node ended
    before it could say so, found its database locked, or was restored from it; a good one is then
    like every other. Raises as `verify`."""
    backup = await asyncio.to_thread(records.read_backup, vault.engine, backup_id)
    elsewhere = backup.state is BackupState.ELSEWHERE
    since = "was restored after" if elsewhere else "ended, or could not note it, when"
    async with vault.at_work("verify", backup_id):
        outcome = await _check(vault, backup)
        if outcome is not None:
            await _found_good(
                vault,
                backup_id,
                remark=f"The node {since} it was written; it was checked later.",
                size_bytes=outcome.size,
                sha256=await asyncio.to_thread(_sha256, backup.path),
                manifest=records.manifest_text(outcome.manifest),
            )
    return await asyncio.to_thread(records.read_backup, vault.engine, backup_id)


async def _check(vault: Vault, backup: BackupView) -> Outcome | None:
    """Read every byte; None for a damaged one. Its row says so, and why one could not be read."""
    path = backup.path
    try:
        identity = await asyncio.to_thread(vault.identity_of, backup.recipient)
        request = Check(path=str(path), work=str(path.parent), identity=identity)
        return await run_task(request, Outcome, vault.report)
    except _NOT_GOOD as error:
        await _change(vault, backup.id, state=BackupState.DAMAGED, error=str(error))
        return None
    except BackupError as error:
        await _change(vault, backup.id, error=f"It could not be checked: {error}")
        raise


async def _found_good(vault: Vault, backup_id: str, **values: object) -> None:
    good = {"verified_at": vault.now(), "state": BackupState.GOOD, "error": ""}
    await _change(vault, backup_id, **good, **values)


async def test_restore(vault: Vault, backup_id: str) -> BackupView:
    """Make a whole data directory of a backup in a temporary place, bring its database to this
    version's schema and read every table; the row says how it went. Raises as `verify`."""
    async with vault.at_work("test", backup_id):
        backup = await _existing(vault, backup_id)
        assert backup.manifest is not None
        try:
            await _try(vault, backup)
        except (BackupError, SQLAlchemyError) as error:
            why = str(error)
            await _change(vault, backup_id, tested_at=vault.now(), test_error=why)
            if isinstance(error, _NOT_GOOD):
                await _change(vault, backup_id, state=BackupState.DAMAGED, error=why)
        else:
            await _change(vault, backup_id, tested_at=vault.now(), test_error="")
    return await asyncio.to_thread(records.read_backup, vault.engine, backup_id)


async def _try(vault: Vault, backup: BackupView) -> None:
    identity = await asyncio.to_thread(vault.identity_of, backup.recipient)
    folder = backup.path.parent
    if backup.manifest is not None and backup.manifest.database == "postgres":
        database = database_of(vault.around.settings)
        server = database.conninfo if isinstance(database, Postgres) else None
        request = Check(
            path=str(backup.path), work=str(folder), identity=identity, server=server, full=True
        )
        outcome = await run_task(request, Outcome, vault.report)
        if outcome.remark:
            raise FolderUnusable(outcome.remark)
        return
    with work_folder(folder) as place:
        extract = Extract(
            path=str(backup.path), into=str(place), only=backup.id, identity=identity, full=True
        )
        manifest = (await run_task(extract, Outcome, vault.report)).manifest
        vault.report("opening", 0, 0)
        await asyncio.to_thread(_open_books, place, manifest, wallets_of(vault.around.settings))


def _open_books(place: Path, manifest: Manifest, wallets: set[str]) -> None:
    """As a node that was restored would: newest schema, every table, one of this node's wallets."""
    if not (place / "keys" / "wallet.json").exists() or manifest.wallet.lower() not in wallets:
        raise CheckFailed("This backup does not hold this node's wallet.")
    database = place / manifest.database_member.name
    engine = open_engine(make_url("sqlite://").set(database=str(database)).render_as_string())
    try:
        upgrade(engine)
        with engine.connect() as connection:
            for table in metadata().sorted_tables:
                connection.execute(select(table).limit(1)).all()
            for name in ("seller_channel", "buyer_channel", "listing"):
                found = connection.scalar(select(func.count()).select_from(metadata().tables[name]))
                if found != manifest.counts.get(name, 0):
                    raise CheckFailed(f"The restored table {name} does not hold all its rows.")
    finally:
        engine.dispose()


async def _existing(vault: Vault, backup_id: str) -> BackupView:
    backup = await asyncio.to_thread(records.read_backup, vault.engine, backup_id)
    if not await asyncio.to_thread(is_there, backup.path):
        if backup.good:
            data_dir = vault.around.settings.data_dir
            await asyncio.to_thread(mark_lost, vault.engine, backup, data_dir)
        raise FolderUnusable(f"{backup.path} is not there any more.")
    return backup


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _change(vault: Vault, backup_id: str, **values: object) -> None:
    await asyncio.to_thread(records.change, vault.engine, backup_id, **values)
