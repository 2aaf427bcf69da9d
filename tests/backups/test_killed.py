"""kill -9 of the node and its worker while they back up, copy, let go and restore: what the
history calls good is whole, here and in the bucket, and the last good one is always there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backups.folder import sweep
from backups.header import BackupKey
from backups.models import BackupState, CopyState
from finance.wallet.keystore import Keystore
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine
from node.settings import Settings
from node.vault import records
from node.vault.before import BooksOfAnother, upgrade_with_backup
from node.vault.choices import BackupChoices, S3Choices, change_choices, change_s3
from node.vault.copies import Copies
from node.vault.restore import look_inside, stage, swap, sweep_staged
from node.vault.service import Surroundings, Vault
from node.vault.upkeep import Upkeep
from tests.backups.home import LIMIT, PASSWORD, Home, contents, limits, on_server
from tests.backups.killing import kill_after, kill_at_each_step, kill_before
from tests.postgres_server import PostgresServer

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
KILLS = 60 if SOAK else 3
BUCKET, PREFIX = "backups", "node/"
_random = random.Random(60)


@dataclass(frozen=True)
class Keeper:
    """A home whose backups go into a bucket, each letting the one before go."""

    home: Home
    storage: str
    lives: Iterator[int]

    def life(self) -> Callable[[], None]:
        """What a node does about its backups from its start on, two hours after the life before:
        by then the rule does not keep what that one wrote."""
        ahead = next(self.lives) * 7200
        return lambda: self._live(lambda: time.time() + ahead)

    def _live(self, clock: Callable[[], float]) -> None:
        home = self.home
        engine = open_engine(home.settings.database)
        vault = Vault(Surroundings(home.settings, engine, home.keys), clock)
        upkeep = Upkeep(vault, Copies(engine, home.keys.unseal))
        records.interrupted(engine, int(clock()))
        if home.folder.is_dir():
            sweep(home.folder)

        async def work() -> None:
            await upkeep.run(int(clock()))
            await vault.back_up_now("scheduled")

        asyncio.run(work())
        engine.dispose()

    def good(self) -> list[records.BackupView]:
        return records.good_backups(self.home.engine)

    def objects(self) -> dict[str, str]:
        """What is in the bucket, with its SHA-256."""
        client = _client(self.storage)
        listed = client.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX).get("Contents", [])
        keys = [each["Key"] for each in listed]
        return {
            key: hashlib.sha256(
                client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            ).hexdigest()
            for key in keys
        }

    def require_whole(self, settled: bool = False) -> None:
        """What is called good is: the files, and the copies that were read back. What becomes of
        the copy of a file that was let go is known once a life has `settled` it."""
        there = self.objects()
        rows = records.list_backups(self.home.engine, limit=1000)[0]
        for each in rows:
            if each.state is BackupState.GOOD:
                assert _sha256(each.path) == each.sha256, each.name
            if each.s3_state is CopyState.SENT and (settled or each.removed_at is None):
                assert there.get(each.s3_key) == each.sha256, each.name
            assert each.state not in (BackupState.DAMAGED, BackupState.MISSING), each
        assert any(each.state is BackupState.GOOD for each in rows), "the last good one"
        assert any(each.sha256 in there.values() for each in rows), "its copy, or an older one"
        with sqlite3.connect(self.home.settings.data_dir / "farebox.db") as database:
            assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)


@pytest.fixture
def keeper(home: Home) -> Iterator[Keeper]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    _client(url).create_bucket(Bucket=BUCKET)
    sealed = home.keys.seal(b"secret")
    choices = S3Choices(
        endpoint_url=url,
        bucket=BUCKET,
        prefix=PREFIX,
        access_key_id="key",
        secret_key_sealed=sealed,
    )
    change_s3(home.engine, choices, SYSTEM, 1)
    rule = BackupChoices(keep_all_hours=1, keep_days=0, keep_weeks=0, keep_months=0, every_hours=0)
    change_choices(home.engine, rule, SYSTEM, 1)
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    yield Keeper(home, url, count())
    server.stop()


def test_killed_at_any_moment_while_backups_are_written_copied_and_let_go(keeper: Keeper) -> None:
    keeper.life()()
    began = time.monotonic()
    keeper.life()()
    whole = time.monotonic() - began
    keeper.require_whole()
    assert len(keeper.good()) == 1 and len(keeper.objects()) == 1
    killed = 0
    for _ in range(5 * KILLS):
        began = time.monotonic()
        if kill_after(keeper.life(), whole * _random.random()):
            killed += 1
        else:
            whole = time.monotonic() - began  # the machine has less to do than it had
        keeper.require_whole()
        if killed == KILLS:
            break
    assert killed == KILLS
    keeper.life()()
    keeper.require_whole(settled=True)
    (last,) = keeper.good()
    names = {path.name for path in keeper.home.folder.iterdir()} - {".lock"}
    assert names == {last.name}, "nothing half done, and no file that nobody knows"
    assert last.s3_state is CopyState.SENT and set(keeper.objects()) == {last.s3_key}


def test_killed_at_each_step_of_the_swap(home: Home, tmp_path: Path) -> None:
    """The old directory or the new one, whole; the other is kept, and swept up after."""
    file = tmp_path / "one.farebox"
    home.back_up().rename(file)
    home.engine.dispose()
    (home.settings.data_dir / "node.lock").touch()
    old, pattern = home.files(), tmp_path / "pattern"
    shutil.copytree(home.settings.data_dir, pattern)
    manifest = asyncio.run(look_inside(file, PASSWORD)).manifest
    target = tmp_path / "place" / "node"
    settings = Settings(data_dir=target, network="devnet")
    staged = asyncio.run(stage(file, PASSWORD, manifest, settings))
    new, steps = contents(staged.folder), []

    def work() -> None:
        swap(staged, settings)

    shutil.copytree(staged.folder, tmp_path / "staged")
    shutil.copytree(pattern, target)
    for step in kill_at_each_step(work):
        found = contents(target)
        assert found in (old, new)
        steps.append(found == new)
        sweep_staged(target)
        rest = [contents(each) for each in target.parent.iterdir() if each != target]
        assert rest == ([old] if found == new else []), f"step {step}: {rest!r:.200}"
        shutil.rmtree(target.parent)
        shutil.copytree(pattern, target)
        shutil.copytree(tmp_path / "staged", staged.folder)
    assert contents(target) == new
    assert {True, False} == set(steps), "before and after the moment"


@pytest.mark.parametrize("step", ["versions", "renameat2"], ids=["before its mark", "the swap"])
async def test_killed_between_the_books_on_a_server_and_the_swap_it_does_not_start(
    home: Home, tmp_path: Path, postgres: PostgresServer, step: str
) -> None:
    """The database has the restored books, the data directory another wallet: that is said."""
    source = on_server(tmp_path / "source", home, postgres.new_database())
    file = await asyncio.to_thread(source.back_up)
    source.engine.dispose()
    target = tmp_path / "new"
    url = postgres.new_database()
    settings = Settings(data_dir=target, network="devnet", database_url=url)
    Keystore(settings.keystore_dir).create("of a new node")
    keys = Keystore(settings.keystore_dir).unlock("of a new node")
    manifest = (await look_inside(file, PASSWORD)).manifest
    staged = await stage(file, PASSWORD, manifest, settings)

    def work() -> None:
        swap(staged, settings)

    kill_before(work, step)
    engine = open_engine(url)
    assert limits(engine) == 40 * LIMIT, "the books are there"
    with pytest.raises(BooksOfAnother, match="a restore was interrupted"):
        upgrade_with_backup(engine, settings, keys)
    engine.dispose()
    again = settings.model_copy(update={"database_url": postgres.new_database()})
    swap(await stage(file, PASSWORD, manifest, again), again)
    engine = open_engine(again.database)
    upgrade_with_backup(engine, again, home.keys)
    engine.dispose()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _client(url: str):  # type: ignore[no-untyped-def]
    session = boto3.session.Session("key", "secret", region_name="us-east-1")
    return session.client("s3", endpoint_url=url)
