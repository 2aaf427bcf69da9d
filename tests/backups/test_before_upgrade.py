"""An update of the software writes a backup before it touches the database's schema."""

from __future__ import annotations

import socket
import sys

import pytest
from sqlalchemy import text

from backups.header import BackupKey
from backups.models import BackupState
from node import cli
from node.accounts.audit import SYSTEM
from node.app import run
from node.db.migrations import downgrade, head_revision, revision_of, script_directory
from node.errors import DatabaseTooNew, PortTaken
from node.preferences import change_preference
from node.vault import records
from node.vault.before import BackupBeforeUpgrade, upgrade_with_backup
from node.vault.choices import BackupChoices
from tests.backups.home import LIMIT, PASSPHRASE, Home, limits

FIRST = "0007"


def _older() -> list[str]:
    """Every schema since there are backups but the newest, the newest of them first."""
    found = [each.revision for each in script_directory().walk_revisions(FIRST, "head")]
    return found[1:]


def _at(home: Home, revision: str, password: bool = True) -> Home:
    """As a node of that version left its files."""
    key = BackupKey(home.key.recipient, home.key.key_block)
    if password:
        sealed = home.keys.seal(home.key.identity.encode())
        records.store_key(home.engine, key, sealed, SYSTEM, 1)
    downgrade(home.engine, revision)
    return home


def _require_backup_of(home: Home, revision: str) -> None:
    assert revision_of(home.engine) == head_revision()
    assert limits(home.engine) == 40 * LIMIT
    (backup,) = records.good_backups(home.engine)
    assert backup.reason == "migration" and backup.path.is_file()
    assert backup.manifest is not None and backup.manifest.schema_revision == revision


@pytest.mark.parametrize("revision", _older())
def test_every_older_schema_is_backed_up_before_it_changes(home: Home, revision: str) -> None:
    """One that this version's code cannot write a backup from would lock every such node out."""
    _at(home, revision)
    upgrade_with_backup(home.engine, home.settings, home.keys)
    _require_backup_of(home, revision)


def test_up_backs_up_before_it_changes_the_schema(home: Home) -> None:
    """The start ends at a port that is taken: long after the database was brought up to date."""
    _at(home, _older()[0])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        bound = {"gateway_bind": f"127.0.0.1:{port}", "rpc_urls": ["http://127.0.0.1:9"]}
        with pytest.raises(PortTaken):
            run(home.settings.model_copy(update=bound), home.keys)
    _require_backup_of(home, _older()[0])


def _db_upgrade(home: Home, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setenv("FAREBOX_PASSPHRASE", PASSPHRASE)
    data_dir = str(home.settings.data_dir)
    monkeypatch.setattr(sys, "argv", ["farebox", "--data-dir", data_dir, "db", "upgrade", *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_db_upgrade_backs_up_before_it_changes_the_schema(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _at(home, _older()[0])
    assert _db_upgrade(home, monkeypatch) == 0
    _require_backup_of(home, _older()[0])


def test_a_backup_that_fails_leaves_the_schema_and_names_the_way_on(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused as often as it fails; an operator who cannot mend it says so, and is let through."""
    closed = home.settings.data_dir / "file"
    closed.write_text("no folder")
    change_preference(home.engine, BackupChoices(folder=str(closed / "backups")), SYSTEM, 1)
    revision = _older()[0]
    _at(home, revision)
    for _ in range(2):
        with pytest.raises(BackupBeforeUpgrade, match=r"cannot be used: .* --without-backup$"):
            upgrade_with_backup(home.engine, home.settings, home.keys)
    assert _db_upgrade(home, monkeypatch) == BackupBeforeUpgrade.exit_code
    assert "nothing was changed" in capsys.readouterr().err
    assert revision_of(home.engine) == revision and limits(home.engine) == 40 * LIMIT
    states = {each.state for each in records.list_backups(home.engine)[0]}
    assert states == {BackupState.FAILED}
    assert _db_upgrade(home, monkeypatch, "--without-backup") == 0
    assert revision_of(home.engine) == head_revision() and limits(home.engine) == 40 * LIMIT


def test_without_a_backup_password_the_schema_changes_and_the_log_says_so(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    _at(home, _older()[0], password=False)
    upgrade_with_backup(home.engine, home.settings, home.keys)
    assert revision_of(home.engine) == head_revision()
    assert "without a backup" in caplog.text
    with home.engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM backup")) == 0


@pytest.mark.parametrize("options", [(), ("--without-backup",)])
def test_a_newer_schema_is_a_sentence_and_is_not_backed_up_at_every_start(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    """The step back to an older version, which a supervisor starts again and again."""
    _at(home, head_revision())
    with home.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert _db_upgrade(home, monkeypatch, *options) == DatabaseTooNew.exit_code
    assert "schema 9999" in capsys.readouterr().err
    with pytest.raises(DatabaseTooNew):
        run(home.settings, home.keys)
    assert records.list_backups(home.engine)[0] == []
