"""What a backup says of itself, what it costs, and that it is watched over without anybody."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlmodel import Session

from backups.errors import FolderUnusable, WorkerDied
from backups.header import BackupKey
from backups.manifest import Owed
from backups.models import BackupState
from backups.tasks import Extract, MakeKey, Request
from finance.errors import ChainError
from finance.selling.claim_policy import ClaimPolicy
from node.accounts.audit import SYSTEM
from node.accounts.models import UserSession
from node.db.engine import open_engine, writer
from node.settings import Settings
from node.vault import records
from node.vault.checks import verify
from node.vault.choices import BackupChoices, change_choices
from node.vault.copies import Copies
from node.vault.restore import look_inside, stage
from node.vault.source import outside_of, told
from node.vault.upkeep import Upkeep
from tests.backups.home import PASSWORD, Home, contents
from tests.backups.processes import children_at_work
from tests.backups.told import Told

REPOSITORY = Path(__file__).parent.parent.parent


def test_the_manifest_says_what_is_inside(home: Home) -> None:
    """Version, schema, network, wallet, block, and every file with its checksum."""
    path = home.back_up()
    inside = asyncio.run(look_inside(path, PASSWORD)).manifest
    assert inside.software and inside.schema_revision
    assert (inside.network, inside.chain_id) == ("devnet", 31337)
    assert inside.wallet.lower() == home.keys.wallet.address and inside.block_height == 7
    assert inside.counts["spend_limit"] == 40
    sums = {each.name: each.sha256 for each in inside.members}
    assert set(sums) == {"keys/wallet.json", "farebox.toml", "database.sqlite"}
    for name in ("keys/wallet.json", "farebox.toml"):
        content = (home.settings.data_dir / name).read_bytes()
        assert sums[name] == hashlib.sha256(content).hexdigest()


def test_settings_from_the_environment_are_named_and_secrets_are_not_told() -> None:
    environment = {
        "FAREBOX_NETWORK": "base",
        "FAREBOX_RPC_URLS": "https://user:pw@rpc.example.com/v2/api-key-1,http://[::1]:8545",
        "FAREBOX_PUBLIC_URL": "https://api.example.com",
        "FAREBOX_PASSPHRASE": "of the wallet",
        "FAREBOX_DATABASE_URL": "postgresql+psycopg://role:db-secret@db/farebox",
        "FAREBOX_GATEWAY_BIND": "",
        "FAREBOX_ELSE": "of another program",
        "PATH": "/bin",
    }
    settings = Settings(
        data_dir=Path("/nowhere"),
        network="base",
        rpc_urls=environment["FAREBOX_RPC_URLS"].split(","),
        public_url=environment["FAREBOX_PUBLIC_URL"],
        passphrase=environment["FAREBOX_PASSPHRASE"],
        database_url=environment["FAREBOX_DATABASE_URL"],
    )
    found = {each.name: each.value for each in outside_of(settings, environment)}
    assert found == {
        "FAREBOX_NETWORK": "base",
        "FAREBOX_RPC_URLS": "https://rpc.example.com,http://[::1]:8545",
        "FAREBOX_DATABASE_URL": "postgresql",
        "FAREBOX_PASSPHRASE": "",
        "FAREBOX_PUBLIC_URL": "https://api.example.com",
    }
    lines = [told(each) for each in outside_of(settings, environment)]
    assert "FAREBOX_PASSPHRASE" in lines and "FAREBOX_NETWORK=base" in lines


def test_a_restore_says_which_settings_no_file_holds(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAREBOX_PUBLIC_URL", "https://api.example.com")
    home.settings = home.settings.model_copy(update={"public_url": "https://api.example.com"})
    path = home.back_up()
    monkeypatch.delenv("FAREBOX_PUBLIC_URL")
    (tmp_path / "password").write_text(PASSWORD)
    restored = _farebox(
        *("--data-dir", str(tmp_path / "new"), "backup", "restore", str(path), "--yes"),
        *("--password-file", str(tmp_path / "password"), "--json"),
    )
    assert "FAREBOX_PUBLIC_URL=https://api.example.com" in restored["set_outside"]


def test_a_restore_signs_everybody_out_and_says_what_is_valid_again(
    home: Home, tmp_path: Path
) -> None:
    session = UserSession(
        id="s", token_hash="h", user_id="u", created_at=1, last_seen_at=1, expires_at=2**40,
        address="", user_agent="", csrf="c",
    )  # fmt: skip
    with Session(home.engine) as books:
        books.add(session)
        books.commit()
    (tmp_path / "password").write_text(PASSWORD)
    _farebox(
        *("--data-dir", str(tmp_path / "new"), "backup", "restore", str(home.back_up()), "--yes"),
        *("--password-file", str(tmp_path / "password"), "--json"),
    )
    engine = open_engine(f"sqlite:///{tmp_path / 'new' / 'farebox.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM user_session").scalar() == 0
        query = "SELECT message FROM event WHERE type = 'restored'"
        assert "valid again" in str(connection.exec_driver_sql(query).scalar())
    engine.dispose()


def test_memory_does_not_grow_with_the_database(home: Home) -> None:
    """Sixty megabytes more, and the worker takes a third of that: what SQLite keeps of pages."""
    small = _peak_kib(home.create("small.farebox"))
    with home.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE large AS WITH RECURSIVE n(i) AS"
            " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)"
            " SELECT randomblob(100000) AS content FROM n"
        )
    large = _peak_kib(home.create("large.farebox"))
    assert (home.folder / "large.farebox").stat().st_size > 60_000_000
    assert large < small + 24_000, f"{small} KiB, then {large} KiB"
    assert large < 200 * 1024


def _peak_kib(request: Request) -> int:
    """The most memory of a worker, from its first step to its last."""
    script = (
        "import sys, backups.worker\n"
        "backups.worker.main()\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "sys.stderr.writelines(line.split()[1] for line in lines if line.startswith('VmHWM'))\n"
    )
    done = _work(request, [sys.executable, "-c", script])
    assert b'"code"' not in done.stdout, done.stdout
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stderr)


def _work(
    request: Request, command: list[str], most_bytes: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """A worker's answers; `most_bytes`: no file may grow further."""

    def confine() -> None:
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=confine,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdin.write(msgspec.json.encode(request) + b"\n")
    process.stdin.flush()
    out = process.stdout.read()
    errors = process.stderr.read()
    process.stdin.close()
    return subprocess.CompletedProcess(command, process.wait(), out, errors)


def test_a_disk_that_fills_while_restoring_leaves_nothing(home: Home, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    path = home.back_up()
    inside = asyncio.run(look_inside(path, PASSWORD)).manifest
    before = home.files()
    into = tmp_path / "into"
    into.mkdir()
    request = Extract(path=str(path), into=str(into), only=inside.id, identity=home.key.identity)
    command = [sys.executable, "-m", "backups.worker"]
    done = _work(request, command, inside.database_member.size // 2)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["code"] == "backup_folder_unusable" and "full" in answer["message"]
    assert "nothing that was there has been changed" in answer["message"]
    assert home.files() == before


async def test_no_rights_where_to_restore_is_a_sentence(home: Home, tmp_path: Path) -> None:
    path = await asyncio.to_thread(home.back_up)
    if os.geteuid() == 0:
        target = Path("/proc/1/node")  # not even root makes a folder there
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        target = tmp_path / "closed" / "node"
    inside = (await look_inside(path, PASSWORD)).manifest
    with pytest.raises(FolderUnusable, match="cannot be used"):
        await stage(path, PASSWORD, inside, Settings(data_dir=target))


def test_a_worker_that_fails_in_an_unforeseen_way_tells_no_secret(home: Home) -> None:
    """A request that is cut off and one that makes no sense: what is written to the log."""
    whole = msgspec.json.encode(MakeKey("the password nobody may see"))
    key = home.key.identity.encode()
    senseless = msgspec.json.encode(home.create()).replace(b'"create"', b'"nothing"')
    for line in (whole[:-2], senseless):
        process = subprocess.run(
            [sys.executable, "-m", "backups.worker"],
            input=line + b"\n",
            capture_output=True,
            cwd=REPOSITORY,
            check=False,
        )
        said = process.stdout + process.stderr
        assert process.returncode != 0 and b"Traceback" in said
        assert b"nobody may see" not in said and key not in said


async def test_a_node_logs_no_secret_whatever_becomes_of_a_backup(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vault = home.vault
    await vault.set_password(PASSWORD, SYSTEM, 1)
    await vault.back_up_now("manual")
    identity = vault.identity_of(records.current_key(home.engine).key.recipient)
    task = asyncio.create_task(vault.back_up_now("manual"))
    while not (workers := children_at_work()):
        await asyncio.sleep(0.02)
    os.kill(workers[0], 9)
    with pytest.raises(WorkerDied):
        await task
    rows = [repr(each) for each in records.list_backups(home.engine)[0]]
    said = caplog.text + "".join(rows)
    assert PASSWORD not in said and identity not in said and "AGE-SECRET-KEY" not in said
    assert all(identity.encode() not in each for each in contents(home.folder).values())


class _Unanswered:
    """Claims that the chain does not take."""

    policy = ClaimPolicy()

    async def claim_all(self) -> None:
        raise ChainError("no endpoint answered")


async def test_what_is_owed_and_cannot_be_claimed_first_is_named_and_told(home: Home) -> None:
    _use_key(home)
    _owe(home, 3_000_000)
    vault = home.vault
    vault.around = replace(vault.around, claims=_Unanswered())  # type: ignore[arg-type]
    made = await vault.back_up_now("manual")
    assert made.manifest is not None
    assert [(each.channel_id, each.atoms) for each in made.manifest.owed] == [("0xc1", 3_000_000)]
    found = records.read_backup(home.engine, made.id)
    assert "could not be claimed first (no endpoint answered); 3.000000 USDC was open" in re.sub(
        r"\b3 USDC", "3.000000 USDC", found.remark
    )


class _Meanwhile(_Unanswered):
    """Claims that take as long as whoever is at the console needs for something else."""

    def __init__(self, deed: Callable[[], Awaitable[None]]) -> None:
        self.claim_all = deed  # type: ignore[method-assign]


async def test_a_password_changed_while_a_backup_is_begun_opens_it_and_it_stays_good(
    home: Home,
) -> None:
    _use_key(home)
    _owe(home, 3_000_000)
    vault = home.vault

    async def change() -> None:
        await vault.set_password("the second password", SYSTEM, 2)

    vault.around = replace(vault.around, claims=_Meanwhile(change))  # type: ignore[arg-type]
    made = await vault.back_up_now("manual")
    assert made.current_password
    assert (await look_inside(made.path, "the second password")).manifest == made.manifest
    assert (await verify(vault, made.id)).state is BackupState.GOOD


async def test_a_node_that_a_crowd_owes_is_backed_up_with_the_whole_sum(home: Home) -> None:
    """What is too little to claim may stay owed in each of a great many channels."""
    _use_key(home)
    _owe(home, 5_000)
    with writer(home.engine).begin() as connection:
        columns = connection.exec_driver_sql("PRAGMA table_info(seller_channel)")
        names = [each[1] for each in columns]
        changed = {"channel_id": "printf('0x%064x', number)", "charged_atoms": "7"}
        values = ", ".join(changed.get(name, name) for name in names)
        connection.exec_driver_sql(
            "WITH RECURSIVE many(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM many WHERE"
            f" number < 20000) INSERT INTO seller_channel SELECT {values} FROM seller_channel, many"
        )
    made = await home.vault.back_up_now("manual")
    assert made.manifest is not None
    assert (made.manifest.owed_atoms, made.manifest.owed_channels) == (5_000 + 140_000, 20_001)
    assert made.manifest.owed[0] == Owed("0xc1", 5_000)
    assert (await look_inside(made.path, PASSWORD)).manifest == made.manifest


def _owe(home: Home, atoms: int) -> None:
    """A seller's channel with so much charged and not claimed."""
    table = "seller_channel"
    with writer(home.engine).begin() as connection:
        columns = connection.exec_driver_sql(f"PRAGMA table_info({table})").all()
        values: dict[str, Any] = {
            name: 0 if "INT" in kind.upper() else "0x00"
            for _, name, kind, needed, default, _ in columns
            if needed and default is None
        }
        values |= {"channel_id": "0xc1", "charged_atoms": atoms, "signed_atoms": atoms}
        values |= {"balance_atoms": atoms}
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)


async def test_after_a_clock_that_was_wrong_the_schedule_goes_on_as_it_was_chosen(
    home: Home,
) -> None:
    """A backup and a test restore of a year in the future, as the history tells it."""
    _use_key(home)
    vault, now = home.vault, int(time.time())
    ahead = now + 365 * 86_400
    made = await vault.back_up_now("scheduled")
    records.change(home.engine, made.id, started_at=ahead, verified_at=ahead, tested_at=ahead)
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    assert vault.overdue(now).ever is False
    for later in range(1, 4):
        await upkeep.run(int(time.time()) + later * 60)
    _, count = records.list_backups(home.engine)
    assert count == 2, "one a day, not one a minute"
    assert vault.overdue(now + 31 * 86_400).overdue


async def test_a_restore_is_tried_out_every_week_and_its_result_shows(home: Home) -> None:
    _use_key(home)
    change_choices(home.engine, BackupChoices(every_hours=0), SYSTEM, 1)
    vault, told_of = home.vault, Told()
    vault.around = replace(vault.around, alarm=told_of)
    upkeep = Upkeep(vault, Copies(home.engine, home.keys.unseal))
    made, now = await vault.back_up_now("manual"), int(time.time())
    await upkeep.run(now)
    tested = records.read_backup(home.engine, made.id)
    assert tested.tested_at is not None and tested.test_error == ""
    await upkeep.run(now + 6 * 86_400)
    assert records.read_backup(home.engine, made.id).tested_at == tested.tested_at
    made.path.write_bytes(made.path.read_bytes()[:-1])
    await upkeep.run(now + 7 * 86_400 + 60)
    broken = records.read_backup(home.engine, made.id)
    assert broken.state is BackupState.DAMAGED and broken.test_error
    assert "The weekly test restore failed" in told_of.open["test"]


def _use_key(home: Home) -> None:
    key = BackupKey(home.key.recipient, home.key.key_block)
    records.store_key(home.engine, key, home.keys.seal(home.key.identity.encode()), SYSTEM, 1)


def _farebox(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "node.cli", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found
