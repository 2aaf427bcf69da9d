"""Commands on a machine in trouble end with a sentence, and leave nothing that is half done."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from node.db.engine import sqlite_url
from node.lock import FILE_NAME, hold_data_dir, hold_database, running_node
from tests.unit.test_cli import Farebox, farebox, fresh, made_once, with_settings

__all__ = ("farebox", "fresh", "made_once")


def run_on_full_disk(farebox: Farebox, *arguments: str) -> subprocess.CompletedProcess[str]:
    """No file may grow, as on a disk that is full."""
    return subprocess.run(
        [sys.executable, "-m", "node.cli", *arguments],
        env=farebox.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )


def assert_sentence(stderr: str) -> None:
    assert stderr.startswith("farebox: ") and "Traceback" not in stderr, stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://farebox@127.0.0.1:9/farebox",  # nothing listens there
        "sqlite:////nowhere/farebox.db",
    ],
)
@pytest.mark.parametrize("command", [("up",), ("db", "upgrade"), ("key", "create", "app")])
def test_database_that_is_not_there_is_a_sentence(
    farebox: Farebox, url: str, command: tuple[str, ...]
) -> None:
    done = with_settings(farebox, FAREBOX_DATABASE_URL=url).run(*command)
    assert done.returncode == 4
    assert_sentence(done.stderr)
    assert len(done.stderr.splitlines()) == 1 and "sqlalche.me" not in done.stderr


@pytest.mark.parametrize("name", ["farebox.db", "books.db"])
def test_a_file_of_sqlite_has_one_process_whatever_their_data_directories(
    farebox: Farebox, tmp_path: Path, name: str
) -> None:
    """It would take what the other has reserved for left by one that is gone, and sell it again."""
    first, url = tmp_path / "first", sqlite_url(tmp_path / "first" / name)
    with hold_data_dir(first), hold_database(url, first):
        # An address of no machine: a node that starts all the same ends there.
        elsewhere = {"FAREBOX_DATABASE_URL": url, "FAREBOX_GATEWAY_BIND": "192.0.2.1:8402"}
        done = with_settings(farebox, **elsewhere).run("up")
    assert done.returncode == 4 and f"{first / name}" in done.stderr
    assert_sentence(done.stderr)
    assert not (first / name).exists()


def test_whoever_asks_whether_a_node_runs_keeps_none_from_starting(tmp_path: Path) -> None:
    """As `farebox status` does, again and again for a supervisor, for a moment each time."""

    def start() -> object:
        with hold_data_dir(tmp_path):
            return running_node(tmp_path)["pid"]

    with (tmp_path / FILE_NAME).open("w") as asking, ThreadPoolExecutor() as pool:
        fcntl.flock(asking, fcntl.LOCK_SH)
        starting = pool.submit(start)
        wait((starting,), timeout=0.1)
        fcntl.flock(asking, fcntl.LOCK_UN)
        assert starting.result(timeout=10) == os.getpid()


def test_full_disk_under_the_books_is_a_sentence(farebox: Farebox) -> None:
    farebox.json("listing", "list")
    done = run_on_full_disk(farebox, "key", "create", "app")
    assert done.returncode == 4
    assert_sentence(done.stderr)
    assert farebox.json("key", "list") == []


def test_full_disk_under_an_export_leaves_no_empty_file(farebox: Farebox, tmp_path: Path) -> None:
    out = tmp_path / "wallet.json"
    done = run_on_full_disk(farebox, "wallet", "export", "--out", str(out))
    assert done.returncode == 3
    assert_sentence(done.stderr)
    assert not out.exists()


def test_what_is_said_of_a_damaged_wallet_helps(farebox: Farebox, tmp_path: Path) -> None:
    wallet, key = farebox.home / "keys" / "wallet.json", tmp_path / "key"
    wallet.write_text("{")
    key.write_text("0x" + "5d" * 32)
    done = farebox.run("wallet", "import", str(key), "--replace")
    assert done.returncode == 3 and "move the file away" in done.stderr
    assert_sentence(done.stderr)
    wallet.rename(tmp_path / "away")
    address = farebox.json("wallet", "import", str(key))["address"]
    assert farebox.json("wallet", "show")["address"] == address


def test_output_that_cannot_be_written_is_a_sentence(farebox: Farebox) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "node.cli", "wallet", "show"],
            env=farebox.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 4
    assert_sentence(done.stderr)


def test_full_disk_at_init_does_not_keep_the_network_from_the_next(fresh: Farebox) -> None:
    settings = {"FAREBOX_PASSPHRASE": "correct horse"}
    new = Farebox(fresh.home, settings)
    done = run_on_full_disk(new, "init", "--network", "base")
    assert done.returncode == 4
    assert_sentence(done.stderr)
    assert new.json("init", "--network", "base")["network"] == "base"


def test_init_for_another_network_than_the_settings_name_makes_nothing(fresh: Farebox) -> None:
    fresh.home.mkdir(mode=0o700)
    (fresh.home / "farebox.toml").write_text('network = "base-sepolia"\n')
    new = Farebox(fresh.home, {"FAREBOX_PASSPHRASE": "correct horse"})
    done = new.run("init", "--network", "base")
    assert done.returncode == 3 and "base-sepolia" in done.stderr
    assert not (fresh.home / "keys").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("listing", "pause"),
        ("key", "revoke"),
        ("user", "unlock"),
        ("backup", "verify"),
        ("call", "weather", "/", "-d"),
    ],
)
def test_argument_that_is_no_text_is_said_so(farebox: Farebox, command: tuple[str, ...]) -> None:
    password = farebox.home.parent / "password"
    password.write_text("a password for backups\n")
    environment = {"FAREBOX_BACKUP_PASSWORD_FILE": str(password)}
    done = with_settings(farebox, **environment).run(*command, "caf\udce9")
    assert done.returncode == 2
    assert_sentence(done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_stream_is_no_trouble(farebox: Farebox, closed: str) -> None:
    """As supervisors and `nohup farebox … <&-` leave them."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m node.cli wallet export {closed}', sys.executable],
        env=farebox.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == ""


def test_what_a_node_writes_into_a_folder_that_was_there_is_for_its_owner_only(
    fresh: Farebox,
) -> None:
    """The default of a systemd StateDirectory or of a volume lets everybody look into it."""
    fresh.home.mkdir()
    fresh.home.chmod(0o755)
    before = os.umask(0o022)
    try:
        fresh.json("init")
    finally:
        os.umask(before)
    open_to_others = [each.name for each in fresh.home.rglob("*") if each.stat().st_mode & 0o077]
    assert open_to_others == []


def test_node_that_starts_after_a_killed_one_is_not_taken_for_it(farebox: Farebox) -> None:
    """Nor for none: the wallet is in use. Its start waits for an endpoint that keeps silent."""
    address = "http://127.0.0.1:9"
    killed = {"pid": 1, "gateway_url": address, "gateway_here": address, "console_url": address}
    (farebox.home / "node.lock").write_text(json.dumps(killed))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        rpc = f"http://127.0.0.1:{silent.getsockname()[1]}"
        node = with_settings(farebox, FAREBOX_RPC_URLS=rpc)
        with node.up(expect_ready=False) as process:
            silent.accept()
            facts = node.json("status", code=1)
            assert facts["pid"] == process.pid and facts["health"] == "starting"
            assert facts["running"] and facts["gateway_url"] is None
            wallet = str(farebox.home / "keys" / "wallet.json")
            assert node.run("wallet", "import", wallet, "--replace").returncode == 4


@pytest.mark.parametrize("name", ["100%25", "node?2", "node#3", "a:b@c ü"])
def test_books_are_in_the_data_directory_whatever_its_name(tmp_path: Path, name: str) -> None:
    """Read as an address, two such names would have been one file."""
    node = Farebox(tmp_path / "nodes" / name, {"FAREBOX_PASSPHRASE": "correct horse"})
    node.json("init")
    assert sorted(each.name for each in node.home.iterdir()) == [
        "farebox.db",
        "farebox.toml",
        "keys",
    ]
    assert list(node.home.parent.iterdir()) == [node.home]
    password = tmp_path / "password"
    password.write_text("a password for backups\n")
    node.json("backup", "password", "--password-file", str(password))
    assert node.json("backup", "create")["state"] == "good"
