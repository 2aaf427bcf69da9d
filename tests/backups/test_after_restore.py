"""A restored node takes its old files in hand, where they are on this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backups.header import BackupKey
from backups.models import BackupState
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine
from node.settings import Settings
from node.vault import records
from node.vault.choices import BackupChoices, change_choices
from node.vault.copies import Copies
from node.vault.restore import look_inside, stage, swap, sweep_staged
from node.vault.upkeep import Upkeep
from tests.backups.home import LIMIT, PASSWORD, Home, at, limits


async def test_the_file_of_a_restore_is_kept_by_the_rule_like_every_other(
    home: Home, tmp_path: Path
) -> None:
    """In the books that it holds it was not finished yet; else no rule ever lets it go."""
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)
    choices = BackupChoices(every_hours=0, folder=str(tmp_path / "kept"))
    change_choices(home.engine, choices, SYSTEM, 1)
    made = await home.vault.back_up_now("manual")
    target = Settings(data_dir=tmp_path / "restored", network="devnet")
    manifest = (await look_inside(made.path, PASSWORD)).manifest
    staged = await stage(made.path, PASSWORD, manifest, target)
    await asyncio.to_thread(swap, staged, target)
    restored = at(target.data_dir, home)
    vault = restored.vault
    upkeep = Upkeep(vault, Copies(restored.engine, home.keys.unseal))
    await upkeep.run(made.started_at + 60)
    found = records.read_backup(restored.engine, made.id)
    assert (found.state, found.sha256, found.size_bytes) == ("good", made.sha256, made.size_bytes)
    records.change(restored.engine, made.id, started_at=1_000_000)
    await vault.back_up_now("manual")
    await upkeep.prune(found)
    assert records.read_backup(restored.engine, made.id).state is BackupState.REMOVED
    assert not made.path.exists()
    restored.engine.dispose()


@pytest.mark.parametrize("chain_id", [31337, 4711])
def test_the_network_that_held_is_the_one_of_the_restored_settings(
    home: Home, tmp_path: Path, chain_id: int
) -> None:
    """Its environment had another than its file; else it looks for its books on that chain."""
    toml = home.settings.data_dir / "farebox.toml"
    toml.write_text('# of the first days\n network= "base-sepolia"  # once\nchain_id = 1\n')
    home.settings = home.settings.model_copy(update={"chain_id": chain_id})
    path, target = home.back_up(), tmp_path / "restored"
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    staged = asyncio.run(stage(path, PASSWORD, manifest, Settings(data_dir=target)))
    swap(staged, Settings(data_dir=target))
    chain = Settings(data_dir=target).chain
    assert (chain.name, chain.chain_id) == ("devnet", chain_id)
    assert "# of the first days" in (target / "farebox.toml").read_text()


def test_restored_settings_name_the_books_that_were_restored(home: Home, tmp_path: Path) -> None:
    """The backup's name others: of a file that is not here, or that the restore is to replace."""
    toml, target = home.settings.data_dir / "farebox.toml", tmp_path / "restored"
    toml.write_text(f'{toml.read_text()}database_url = "sqlite:///{tmp_path}/others.db"\n')
    path = home.back_up()
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    staged = asyncio.run(stage(path, PASSWORD, manifest, Settings(data_dir=target)))
    swap(staged, Settings(data_dir=target))
    engine = open_engine(Settings(data_dir=target).database)
    assert limits(engine) == 40 * LIMIT
    engine.dispose()


def test_what_a_killed_restore_left_is_found_whatever_the_directory_is_called(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "node[1]*"
    never, old = (tmp_path / f".{data_dir.name}.restoring-{each}" for each in ("ab", "cd"))
    never.mkdir()
    old.mkdir()
    (old / "node.lock").touch()
    sweep_staged(data_dir)
    [kept] = tmp_path.iterdir()
    assert kept.name.startswith(f"{data_dir.name}.before-restore-")
