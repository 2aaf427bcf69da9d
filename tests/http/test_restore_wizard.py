"""A new node becomes one that was backed up, in its setup wizard."""

from __future__ import annotations

import resource
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import Engine, text

from backups.tasks import MadeKey
from node.db.engine import open_engine, writer
from tests.backups.home import PASSWORD, Home, make_home, make_key
from tests.console_world import Console, serve_console


@pytest.fixture(scope="module")
def key() -> MadeKey:
    return make_key()


@pytest.fixture
def lost(tmp_path: Path, key: MadeKey) -> Home:
    home = make_home(tmp_path / "lost", key)
    home.engine.dispose()
    return home


@pytest.fixture
def console(migrated_engine: Engine, tmp_path: Path) -> Iterator[Console]:
    data_dir = tmp_path / "new"
    data_dir.mkdir(mode=0o700)
    with serve_console(migrated_engine, data_dir, users=False, database_url="") as console:
        yield console


def test_a_backup_is_looked_into_agreed_to_and_taken_when_the_node_ends(
    console: Console, lost: Home, tmp_path: Path
) -> None:
    file = tmp_path / "copy.farebox"
    shutil.move(lost.back_up(), file)
    ended: list[bool] = []
    pending = console.parts.backups.pending
    pending.ask = lambda: ended.append(True)
    with httpx.Client(base_url=console.url, trust_env=False, timeout=60) as guest:
        guest.headers["origin"] = console.url
        assert "Backup file" in guest.get("/setup/restore").text
        wrong = guest.post("/setup/restore", data={"path": str(file), "password": "not it at all"})
        assert wrong.status_code == 422 and "does not open" in wrong.text
        with file.open("rb") as content:
            shown = guest.post(
                "/setup/restore", data={"password": PASSWORD}, files={"file": content}
            )
        assert shown.status_code == 200
        assert lost.keys.wallet.address[2:8] in shown.text.lower()
        assert "must not run again" in shown.text
        source = shown.text.split('name="source" value="')[1].split('"')[0]
        again = guest.post("/setup/restore/begin", data={"source": source, "password": "not it"})
        assert again.status_code == 422 and "does not open" in again.text
        assert lost.keys.wallet.address[2:8] in again.text.lower(), "what is agreed to still shows"
        begun = guest.post("/setup/restore/begin", data={"source": source, "password": PASSWORD})
        assert begun.status_code == 303
        deadline = time.monotonic() + 60
        while "Finish and stop this node" not in (page := guest.get("/setup/restore").text):
            assert time.monotonic() < deadline, page
            time.sleep(0.2)
        assert not ended and pending.staged is None, "nothing is taken before it is said"
        assert "The node stops now" in guest.post("/setup/restore/finish").text
    assert ended and pending.staged is not None
    assert (pending.staged.folder / "keys" / "wallet.json").exists()


def test_a_file_that_the_temporary_folder_cannot_hold_is_refused_in_a_sentence(
    console: Console,
) -> None:
    """It is kept there while it arrives, often in memory, and may be larger than that."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    try:
        with httpx.Client(base_url=console.url, trust_env=False, timeout=60) as guest:
            guest.headers["origin"] = console.url
            answer = guest.post("/setup/restore", files={"file": bytes(6 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert answer.status_code == 409 and "Make room" in answer.text


def test_a_node_that_is_set_up_is_restored_by_nobody(
    migrated_engine: Engine, tmp_path: Path
) -> None:
    with (
        serve_console(migrated_engine, tmp_path / "node") as console,
        httpx.Client(base_url=console.url, trust_env=False) as guest,
    ):
        guest.headers["origin"] = console.url
        for answer in (
            guest.get("/setup/restore"),
            guest.post("/setup/restore", data={"path": "/etc/passwd", "password": "x"}),
            guest.post("/setup/restore/finish"),
        ):
            assert answer.status_code == 303 and answer.headers["location"] == "/sign-in"


def test_of_a_file_from_somebody_who_may_not_restore_nothing_is_read(
    migrated_engine: Engine, tmp_path: Path
) -> None:
    """Else whoever reaches the console fills its disk, 64 GiB with each request."""
    with serve_console(migrated_engine, tmp_path / "node") as console:
        there = urlsplit(console.url)
        head = (
            f"POST /setup/restore HTTP/1.1\r\nhost: {there.netloc}\r\norigin: {console.url}\r\n"
            "content-type: multipart/form-data; boundary=x\r\ncontent-length: 1000000000\r\n\r\n"
            '--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nfull'
        )
        with socket.create_connection((there.hostname, there.port or 0), 10) as sending:
            sending.sendall(head.encode())
            answer = sending.recv(4096)
    assert answer.startswith(b"HTTP/1.1 303") and b"/sign-in" in answer


@pytest.mark.parametrize(
    "path", ["a" * 5_000, "/" + "a" * 5_000, "/nul\0byte", "../../etc/passwd", "/dev/null", "/"]
)
def test_a_name_that_no_file_can_have_is_a_sentence(console: Console, path: str) -> None:
    with httpx.Client(base_url=console.url, trust_env=False, timeout=60) as guest:
        guest.headers["origin"] = console.url
        fields = {"path": path, "source": path, "password": PASSWORD}
        for step in ("/setup/restore", "/setup/restore/begin"):
            assert guest.post(step, data=fields).status_code == 422, step


def test_a_form_that_is_sent_twice_prepares_one_restore(
    console: Console, lost: Home, tmp_path: Path
) -> None:
    fields = {"source": str(lost.back_up()), "password": PASSWORD}

    def begin() -> int:
        headers = {"origin": console.url}
        answer = httpx.post(
            f"{console.url}/setup/restore/begin",
            data=fields,
            headers=headers,
            trust_env=False,
            timeout=60,
        )
        return answer.status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(each.result() for each in [pool.submit(begin) for _ in "12"]) == [303, 422]
    _until_it_says(console, "Finish and stop this node")
    assert len(list(tmp_path.glob(".new.restoring-*"))) == 1


def test_books_that_cannot_be_brought_to_this_schema_are_said_to_be_none(
    console: Console, lost: Home, tmp_path: Path
) -> None:
    """Not a page that begins again as if nothing had been asked of it."""
    engine = open_engine(lost.settings.database)
    with writer(engine).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    fields = {"source": str(lost.back_up()), "password": PASSWORD}
    with httpx.Client(base_url=console.url, trust_env=False, timeout=60) as guest:
        guest.headers["origin"] = console.url
        assert guest.post("/setup/restore/begin", data=fields).status_code == 303
    assert "cannot be" in _until_it_says(console, "Backup file")
    assert not list(tmp_path.glob(".new.restoring-*"))


def test_a_file_that_was_sent_and_not_restored_does_not_stay(
    console: Console, lost: Home, tmp_path: Path
) -> None:
    """It may be as large as the disk, and holds a wallet."""
    with httpx.Client(base_url=console.url, trust_env=False, timeout=60) as guest:
        guest.headers["origin"] = console.url

        def send() -> None:
            content = {"file": ("one.farebox", lost_file)}
            shown = guest.post("/setup/restore", data={"password": PASSWORD}, files=content)
            assert shown.status_code == 200
            assert list(tmp_path.glob("new/incoming/*"))

        lost_file = lost.back_up().read_bytes()
        send()
        guest.post("/setup/restore/cancel")
        assert not (tmp_path / "new" / "incoming").exists()
        send()
        console.parts.backups.prepare(int(time.time()))  # as the start after a kill does
        assert not (tmp_path / "new" / "incoming").exists()


def _until_it_says(console: Console, words: str) -> str:
    deadline = time.monotonic() + 60
    while words not in (page := httpx.get(f"{console.url}/setup/restore", trust_env=False).text):
        assert time.monotonic() < deadline, page
        time.sleep(0.2)
    return page
