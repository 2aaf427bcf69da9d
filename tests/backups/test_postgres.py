"""PostgreSQL: dumped from one snapshot, loaded again elsewhere, refused where it does not fit."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backups.client import run_task
from backups.errors import DatabaseUnfit
from backups.header import BackupKey
from backups.models import BackupState
from backups.tasks import Check, Outcome, Postgres
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine, writer
from node.db.presence import Presence
from node.settings import Settings
from node.vault import records
from node.vault.copies import Copies
from node.vault.restore import look_inside, mark_restored, stage, swap
from node.vault.source import database_of
from node.vault.upkeep import Upkeep
from tests.backups.home import LIMIT, PASSWORD, Home, limits, on_server
from tests.postgres_server import PostgresServer

DAY = 86_400


def test_a_database_on_a_server_is_backed_up_and_restored_into_an_empty_one(
    tmp_path: Path, home: Home, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    source = on_server(tmp_path / "source", home, url)
    toml = source.settings.data_dir / "farebox.toml"
    toml.write_text(f'{toml.read_text()}database_url = "{url}"\n')
    path = source.back_up()
    source.engine.dispose()
    database = database_of(source.settings)
    assert isinstance(database, Postgres)
    check = Check(
        path=str(path),
        work=str(path.parent),
        identity=home.key.identity,
        server=database.conninfo,
        full=True,
    )
    outcome = asyncio.run(run_task(check, Outcome))
    assert outcome.remark == "" and outcome.manifest.counts["spend_limit"] == 40
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    target = tmp_path / "restored"
    with pytest.raises(DatabaseUnfit, match="Name an empty one"):
        asyncio.run(stage(path, PASSWORD, manifest, Settings(data_dir=target)))
    full = Settings(data_dir=target, database_url=url)
    with pytest.raises(DatabaseUnfit, match="not empty"):
        asyncio.run(stage(path, PASSWORD, manifest, full))
    settings = Settings(data_dir=target, database_url=postgres.new_database())
    staged = asyncio.run(stage(path, PASSWORD, manifest, settings))
    swap(staged, settings)
    settings = Settings(data_dir=target)
    restored = replace(source, settings=settings, engine=open_engine(settings.database))
    assert restored.engine.url != source.engine.url and limits(restored.engine) == 40 * LIMIT
    restored.engine.dispose()


async def test_a_file_of_before_a_restore_is_found_by_the_process_that_has_it_and_stays_so(
    tmp_path: Path, home: Home, postgres: PostgresServer
) -> None:
    one = on_server(tmp_path / "one", home, postgres.new_database())
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(one.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    made = await one.vault.back_up_now("manual")
    assert made.manifest is not None
    with writer(one.engine).begin() as connection:
        mark_restored(connection, made.manifest, made.started_at + 1)
    elsewhere = replace(one, settings=one.settings.model_copy(update={"data_dir": tmp_path}))
    copies, now, states = Copies(one.engine, home.keys.unseal), made.started_at + 60, []
    for each, folder in ((one, "one"), (elsewhere, "away"), (one, "one")):
        if folder == "away":
            one.settings.data_dir.rename(tmp_path / folder)
        states.append(records.read_backup(one.engine, made.id).state)
        await Upkeep(each.vault, copies).run(now)
        if folder == "away":
            (tmp_path / folder).rename(one.settings.data_dir)
    assert states == [BackupState.ELSEWHERE, BackupState.GOOD, BackupState.GOOD]
    one.engine.dispose()


async def test_books_are_not_put_under_a_process_that_runs(
    tmp_path: Path, home: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on with them, under the wallet that it was started with."""
    source = on_server(tmp_path / "source", home, postgres.new_database())
    await run_task(source.create(), Outcome)
    source.engine.dispose()
    target = Settings(data_dir=tmp_path / "restored", database_url=postgres.new_database())
    path = source.folder / "one.farebox"
    staged = await stage(path, PASSWORD, (await look_inside(path, PASSWORD)).manifest, target)
    engine = open_engine(target.database)
    other = Presence(engine)
    other.show()
    monkeypatch.setattr("node.vault.restore._GONE_SECONDS", 0.0)
    with pytest.raises(DatabaseUnfit, match="Stop it"):
        swap(staged, target)
    other.leave()
    engine.dispose()
    assert not target.data_dir.exists() and not staged.folder.exists()


async def test_a_backup_reaches_the_server_that_the_node_reaches(
    tmp_path: Path, home: Home, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address may leave to libpq's environment what is secret, and name a server's stand-in."""
    plain, _, host = postgres.new_database().partition("?host=")
    node = on_server(tmp_path / "server", home, f"{plain}?host=/nowhere&host={host}")
    await run_task(node.create("one.farebox"), Outcome)
    monkeypatch.setenv("PGHOST", host)
    node.settings = node.settings.model_copy(update={"database_url": plain})
    await run_task(node.create("two.farebox"), Outcome)
    node.engine.dispose()


async def test_a_file_on_the_machine_of_another_process_is_not_said_to_be_gone(
    tmp_path: Path, home: Home, postgres: PostgresServer
) -> None:
    """Else that one finds it again, and both go on so, with backups that nobody asked for."""
    one = on_server(tmp_path / "one", home, postgres.new_database())
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(one.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    other = replace(one, settings=one.settings.model_copy(update={"data_dir": tmp_path / "other"}))
    shutil.copytree(one.settings.keystore_dir, other.settings.keystore_dir)
    made = await one.vault.back_up_now("manual")
    elsewhere = one.settings.data_dir.rename(tmp_path / "elsewhere")
    seen_by_other = Upkeep(other.vault, Copies(one.engine, home.keys.unseal))
    await seen_by_other.run(made.started_at + 60)
    await seen_by_other.run(made.started_at + 8 * DAY)  # its own is due then, and a test restore
    states = [each.state for each in records.list_backups(one.engine)[0]]
    assert states == [BackupState.GOOD, BackupState.GOOD]
    elsewhere.rename(one.settings.data_dir)
    made.path.unlink()
    await Upkeep(one.vault, Copies(one.engine, home.keys.unseal)).run(made.started_at + 60)
    assert records.read_backup(one.engine, made.id).state is BackupState.MISSING
    one.engine.dispose()
