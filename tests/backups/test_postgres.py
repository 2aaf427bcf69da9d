"""PostgreSQL: dumped from one snapshot, loaded again elsewhere, refused where it does not fit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from backups.client import run_task
from backups.errors import DatabaseUnfit
from backups.tasks import Check, Outcome, Postgres
from node.db.engine import open_engine
from node.settings import Settings
from node.vault.restore import look_inside, stage, swap
from node.vault.source import database_of
from tests.backups.home import LIMIT, PASSWORD, Home, limits, on_server
from tests.postgres_server import PostgresServer


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
