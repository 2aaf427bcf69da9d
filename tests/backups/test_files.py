"""Writing and restoring when the machine does its worst: the last good backup and the node's
own files stay as they were, and no half file is ever taken for a good one."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from backups.client import run_task
from backups.errors import BackupBusy, BackupError, FolderUnusable, SnapshotFailed, WorkerDied
from backups.folder import hold_folder
from backups.tasks import Check, Look, Outcome, Request, perform
from node.settings import Settings
from node.vault.restore import look_inside, stage, swap, sweep_staged
from tests.backups.home import LIMIT, PASSWORD, Home, at, contents, limits
from tests.backups.processes import children_at_work

SOAK = os.environ.get("FAREBOX_SOAK") == "1"
KILLS = 60 if SOAK else 8
_random = random.Random(8)


def test_what_was_backed_up_is_what_is_restored(home: Home, tmp_path: Path) -> None:
    path, target = home.back_up(), tmp_path / "elsewhere"
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    assert manifest.counts["spend_limit"] == 40
    staged = asyncio.run(stage(path, PASSWORD, manifest, Settings(data_dir=target)))
    assert swap(staged, Settings(data_dir=target)) is None
    for name in ("keys/wallet.json", "farebox.toml"):
        assert (target / name).read_bytes() == (home.settings.data_dir / name).read_bytes()
        assert (target / name).stat().st_mode & 0o077 == 0
    restored = at(target, home)
    assert limits(restored.engine) == 40 * LIMIT
    restored.engine.dispose()


def test_restoring_over_a_node_keeps_all_of_the_old_one(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "kept.farebox"
    home.back_up().rename(path)
    old, target = home.files(), home.settings.data_dir
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    home.engine.dispose()
    staged = asyncio.run(stage(path, PASSWORD, manifest, home.settings))
    assert home.files() == old, "not before the swap"
    kept = swap(staged, home.settings)
    assert kept is not None and contents(kept) == old
    assert not list(target.parent.glob(".*restoring*"))


def test_a_restore_whose_old_directory_cannot_be_kept_changes_nothing(
    home: Home, tmp_path: Path
) -> None:
    """Its name is so long that the one it would be kept under is none of this file system."""
    path = home.back_up().rename(tmp_path / "kept.farebox")
    home.engine.dispose()
    target = home.settings.data_dir.rename(tmp_path / ("n" * 230))
    settings, old = Settings(data_dir=target, network="devnet"), contents(target)
    manifest = asyncio.run(look_inside(path, PASSWORD)).manifest
    staged = asyncio.run(stage(path, PASSWORD, manifest, settings))
    with pytest.raises(FolderUnusable, match="too long"):
        swap(staged, settings)
    assert contents(target) == old
    assert sorted(tmp_path.iterdir()) == [path, target], "what was made for it is gone"


def test_the_standard_tools_open_a_backup(home: Home, tmp_path: Path) -> None:
    """The two commands of the README, with the passphrase typed as a person does."""
    if any(shutil.which(tool) is None for tool in ("age", "zstd", "tar")):
        pytest.skip("age or zstd is missing: install age and zstd")
    path = home.back_up()
    key = "head -c 4096 B | sed -n '/^-----BEGIN/,/^-----END/p' > key.age"
    rest = "tail -c +4097 B > B.age; age -d -i key.age B.age | zstd -d | tar x"
    subprocess.run(["sh", "-c", key.replace("B", str(path), 1)], cwd=tmp_path, check=True)
    place = tmp_path / "opened"
    place.mkdir()
    script = rest.replace("B.age", "../B.age").replace("4097 B", f"4097 {path}")
    _type(["sh", "-c", script.replace("key.age", "../key.age")], PASSWORD, place)
    for name in ("keys/wallet.json", "farebox.toml"):
        assert (place / name).read_bytes() == (home.settings.data_dir / name).read_bytes()
    assert sqlite3.connect(place / "database.sqlite").execute("PRAGMA quick_check").fetchone()


def _type(command: list[str], line: str, folder: Path) -> None:
    """Run a command on a terminal of its own and answer its question."""
    script = (
        "import os, pty, sys, time\n"
        "pid, terminal = pty.fork()\n"
        "if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])\n"
        "os.read(terminal, 100); time.sleep(0.2); os.write(terminal, sys.stdin.buffer.read())\n"
        "try:\n"
        "    while os.read(terminal, 1000): pass\n"
        "except OSError: pass\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    typed = f"{line}\n".encode()
    subprocess.run([sys.executable, "-c", script, *command], input=typed, cwd=folder, check=True)


def test_snapshot_is_of_one_moment_while_others_write(home: Home) -> None:
    """Every row of the first table was written in one transaction with one of the second."""
    path = home.settings.data_dir / "farebox.db"
    with sqlite3.connect(path) as setup:
        setup.execute("CREATE TABLE first (a)")
        setup.execute("CREATE TABLE second (a, b)")
    writes = 0
    with _writing(path) as count:
        outcome = asyncio.run(run_task(home.create(), Outcome))
        writes = count()
    counts = outcome.manifest.counts
    assert counts["first"] == counts["second"]
    assert writes > counts["first"], "writing went on meanwhile"


@contextmanager
def _writing(path: Path) -> Iterator[object]:
    stop, done = threading.Event(), [0]

    def write() -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        while not stop.is_set():
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO first VALUES (1)")
            connection.execute("INSERT INTO second VALUES (1, randomblob(3000))")
            connection.execute("COMMIT")
            done[0] += 1
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while not done[0]:
            time.sleep(0.01)
        yield lambda: done[0]
    finally:
        stop.set()
        thread.join()


def test_full_disk_leaves_the_last_good_backup_and_no_half_one(home: Home) -> None:
    """A limit on the size of files stands for the full disk: writes fail half-way."""
    good = home.back_up("good.farebox").read_bytes()
    before = home.files()
    size = (home.settings.data_dir / "farebox.db").stat().st_size
    for tenths in (1, 5, 9):
        answer = _worker(home.create("next.farebox"), size * tenths // 10)
        assert answer["code"] in ("backup_folder_unusable", "snapshot_failed"), answer
        assert "full" in answer["message"] or "copied" in answer["message"], answer
        assert home.files() == before
    assert (home.folder / "good.farebox").read_bytes() == good
    assert home.back_up("after.farebox").exists(), "with room again it goes on"


def _worker(request: Request, most_bytes: int) -> dict[str, str]:
    """What the worker answers when no file may grow beyond `most_bytes`."""

    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    process = subprocess.Popen(
        [sys.executable, "-m", "backups.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=confine,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(msgspec.json.encode(request) + b"\n")
    process.stdin.flush()  # and left open: the worker ends with it
    found: dict[str, str] = [json.loads(line) for line in process.stdout][-1]
    process.stdin.close()
    process.wait()
    return found


def test_folder_without_rights_is_a_sentence(home: Home) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/1/backups")  # not even root makes a folder there
    else:
        target = home.settings.data_dir / "closed" / "backups"
        target.parent.mkdir(mode=0o500)
    with pytest.raises(FolderUnusable, match="cannot be"):
        asyncio.run(run_task(home.create(folder=str(target)), Outcome))


def test_a_database_that_is_not_there_is_a_sentence(home: Home) -> None:
    request = home.create()
    gone = msgspec.structs.replace(request.database, path=str(home.folder / "none.db"))
    with pytest.raises(SnapshotFailed, match="no database"):
        asyncio.run(run_task(msgspec.structs.replace(request, database=gone), Outcome))


def test_killed_at_any_moment_while_writing(home: Home) -> None:
    good = home.back_up("good.farebox").read_bytes()
    seconds = _seconds(home)
    for number in range(KILLS):
        name = f"kill-{number}.farebox"
        died = _killed_after(home.create(name), seconds * _random.random())
        names = {path.name for path in home.folder.glob("*.farebox")}
        if name in names:  # it was quicker than the kill: then it is whole
            asyncio.run(run_task(_check(home, name), Outcome))
            (home.folder / name).unlink()
        else:
            assert died
        assert (home.folder / "good.farebox").read_bytes() == good
        assert sqlite3.connect(home.settings.data_dir / "farebox.db").execute(
            "PRAGMA quick_check"
        ).fetchone() == ("ok",)
    home.back_up("last.farebox")
    assert [path.name for path in home.folder.iterdir() if path.name.startswith(".work")] == []


def test_killed_at_any_moment_while_restoring(home: Home, tmp_path: Path) -> None:
    """A process that restores is killed; the old node's files are all there, and the next
    attempt clears away what was left."""
    path = tmp_path / "one.farebox"
    home.back_up().rename(path)
    before, target = home.files(), home.settings.data_dir
    home.engine.dispose()
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    command = [sys.executable, "-m", "node.cli", "--data-dir", str(target), "backup", "restore"]
    command += [str(path), "--yes", "--password-file", str(password)]
    whole, restored = 0, 0
    for number in range(max(3, KILLS // 3)):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0 + 2.5 * number / max(3, KILLS // 3))
            raise subprocess.TimeoutExpired(command, 0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        now = home.files()
        kept = sorted(target.parent.glob("node.before-restore-*"))
        staged = [each for each in target.parent.glob(".node.restoring-*") if _in_use(each)]
        if now == before:
            whole += 1
        else:
            restored += 1
            old = [*kept, *staged]
            assert any(contents(each) == before for each in old), "the old directory is kept"
            shutil.rmtree(target)
            next(each for each in old if contents(each) == before).rename(target)
    assert whole + restored
    sweep_staged(target)
    assert not list(target.parent.glob(".node.restoring-*"))


def _in_use(folder: Path) -> bool:
    return (folder / "node.lock").exists()


def _check(home: Home, name: str) -> Check:
    path = str(home.folder / name)
    return Check(path=path, work=str(home.folder), identity=home.key.identity)


def _seconds(home: Home) -> float:
    began = time.monotonic()
    home.back_up("timed.farebox")
    (home.folder / "timed.farebox").unlink()
    return time.monotonic() - began


def _killed_after(request: Request, seconds: float) -> bool:
    """Whether the worker was killed before it was done."""

    async def work() -> bool:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "backups.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        await process.stdin.drain()
        await asyncio.sleep(seconds)
        if process.returncode is None:
            process.kill()
        await process.communicate()
        return process.returncode != 0

    return asyncio.run(work())


async def test_worker_that_dies_is_an_error_and_not_a_wait(home: Home) -> None:
    task = asyncio.create_task(run_task(home.create(), Outcome))
    for _ in range(200):
        await asyncio.sleep(0.05)
        if children := children_at_work():
            os.kill(children[0], signal.SIGKILL)
            break
    with pytest.raises(WorkerDied, match="Nothing was changed"):
        await task


def test_one_writer_at_a_time(home: Home) -> None:
    with hold_folder(home.folder), pytest.raises(BackupBusy, match="running in this folder"):
        asyncio.run(run_task(home.create(), Outcome))


def test_a_backup_beside_a_check_does_not_make_a_good_one_damaged(home: Home) -> None:
    """`farebox backup create` while the node looks through an older one."""
    path, written = home.back_up(), False

    def beside(_stage: str, done: int, total: int) -> None:
        nonlocal written
        if not written and done == total > 100_000:  # all of the database has been taken out
            written = True
            home.back_up("two.farebox")

    request = Check(path=str(path), work=str(home.folder), identity=home.key.identity)
    found = perform(request, beside)
    assert written and isinstance(found, Outcome) and found.manifest.id == "one.farebox"
    assert not list(home.folder.glob(".work-*"))


async def test_secrets_are_in_no_command_line_environment_file_or_message(home: Home) -> None:
    """While the worker writes and reads: its command line, its environment, every file beside
    the backup, and what it says."""
    said: list[object] = []
    secrets = [home.key.identity.encode(), PASSWORD.encode()]
    seen = await _watch(home, home.create(), secrets, said)
    path = str(home.folder / "one.farebox")
    seen += await _watch(home, Look(path=path, password=PASSWORD), secrets, said)
    wrong = Look(path=path, password="another password, wrong")
    with pytest.raises(BackupError) as caught:
        await run_task(wrong, Outcome)
    assert seen > 0, "the worker was seen at work"
    for secret in (*secrets, b"another password, wrong"):
        assert secret.decode() not in f"{said} {caught.value!r} {caught.value.__cause__!r}"
        assert all(secret not in each for each in contents(home.settings.data_dir).values())


async def _watch(home: Home, request: Request, secrets: list[bytes], said: list[object]) -> int:
    def listen(*words: object) -> None:
        said.append(words)

    task, seen = asyncio.create_task(run_task(request, Outcome, listen)), 0
    while not task.done():
        await asyncio.sleep(0.03)
        for pid in children_at_work():
            for name in ("cmdline", "environ"):
                try:
                    content = Path(f"/proc/{pid}/{name}").read_bytes()
                except OSError:
                    continue
                seen += bool(content)
                assert not any(secret in content for secret in secrets), name
        for path in home.settings.data_dir.rglob("*"):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except OSError:
                continue
            assert not any(secret in content for secret in secrets), path
    await task
    return seen
