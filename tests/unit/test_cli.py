"""The `farebox` command as an operator types it: real processes, sentences, exit codes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from finance.models import SellerChannel
from node.accounts.trail import TrailFilter, read_trail
from node.cli import main
from node.db.engine import open_engine, sqlite_url, writer

START_SECONDS = 60
COMMAND_SECONDS = 60
UPSTREAM_SECRET = "Bearer upstream-secret-42"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Farebox:
    """One operator's machine: a data directory and an environment."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def own_environment(self) -> dict[str, str]:
        return {"FAREBOX_DATA_DIR": str(self.home), **self.settings}

    @property
    def environment(self) -> dict[str, str]:
        outer = {name: value for name, value in os.environ.items() if "FAREBOX" not in name}
        return {**outer, **self.own_environment}

    def run(self, *arguments: str, text: str = "") -> Done:
        """One command that ends; in this process, because a hundred interpreters take minutes."""
        out, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        streams = redirect_stdout(out), redirect_stderr(errors)
        with pytest.MonkeyPatch.context() as patch, ends_in_time(), streams[0], streams[1]:
            for name, value in self.own_environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(text))
            patch.setattr(sys, "argv", ["farebox", *arguments])
            try:
                main()
                code: object = 0
            except SystemExit as end:
                code = end.code or 0
        return Done(
            int(str(code)), *(stream.buffer.getvalue().decode() for stream in (out, errors))
        )

    def json(self, *arguments: str, code: int = 0, text: str = "") -> Any:
        done = self.run(*arguments, text=text)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def up(self, expect_ready: bool = True) -> Iterator[subprocess.Popen[str]]:
        node = subprocess.Popen(
            [sys.executable, "-m", "node.cli", "up"],
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while expect_ready and self.run("status").returncode:
                assert node.poll() is None, node.stderr.read() if node.stderr else ""
                assert time.monotonic() < deadline
                time.sleep(0.2)  # the node needs the processor more than the question does
            yield node
        finally:
            node.terminate()
            node.communicate(timeout=60)


@contextmanager
def ends_in_time() -> Iterator[None]:
    """An `up` that is not refused, as it should be, would serve for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError("the command does not end")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(COMMAND_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


SETTINGS = {
    "FAREBOX_PASSPHRASE": "correct horse",
    "FAREBOX_NETWORK": "devnet",
    "FAREBOX_RPC_URLS": "http://127.0.0.1:9",  # nothing listens there
    "FAREBOX_GATEWAY_BIND": "127.0.0.1:0",
    "FAREBOX_CONSOLE_BIND": "127.0.0.1:0",
}


@pytest.fixture
def fresh(tmp_path: Path) -> Farebox:
    return Farebox(tmp_path / "node", SETTINGS)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "node"
    Farebox(home, {"FAREBOX_PASSPHRASE": "correct horse"}).json("init", "--network", "devnet")
    return home


@pytest.fixture
def farebox(fresh: Farebox, made_once: Path) -> Farebox:
    shutil.copytree(made_once, fresh.home)
    return fresh


def with_settings(farebox: Farebox, **changes: str) -> Farebox:
    return Farebox(farebox.home, {**farebox.settings, **changes})


def without_passphrase(farebox: Farebox) -> Farebox:
    settings = dict(farebox.settings)
    del settings["FAREBOX_PASSPHRASE"]
    return Farebox(farebox.home, settings)


def test_init_makes_a_wallet_for_its_owner_only(fresh: Farebox) -> None:
    made = fresh.json("init", "--network", "devnet")
    assert made["address"].startswith("0x") and made["network"] == "devnet"
    assert fresh.home.stat().st_mode & 0o077 == 0
    wallet = fresh.home / "keys" / "wallet.json"
    assert wallet.stat().st_mode & 0o077 == 0
    assert 'network = "devnet"' in (fresh.home / "farebox.toml").read_text()
    assert fresh.json("wallet", "show")["address"] == made["address"]


def test_init_twice_keeps_the_first_wallet(farebox: Farebox) -> None:
    before = (farebox.home / "keys" / "wallet.json").read_bytes()
    again = farebox.run("init")
    assert again.returncode == 3 and "wallet already" in again.stderr
    assert (farebox.home / "keys" / "wallet.json").read_bytes() == before


def test_no_passphrase_is_a_sentence_and_makes_nothing(fresh: Farebox) -> None:
    done = without_passphrase(fresh).run("init")
    assert done.returncode == 3 and "FAREBOX_PASSPHRASE_FILE" in done.stderr
    assert not (fresh.home / "keys").exists()


def test_commands_before_init_say_what_to_do(fresh: Farebox) -> None:
    for arguments in (
        ("up",),
        ("status",),
        ("wallet", "show"),
        ("listing", "list"),
        ("reconcile",),
    ):
        done = fresh.run(*arguments)
        assert done.returncode == 3 and "farebox init" in done.stderr, arguments


def test_wrong_passphrase_is_refused_without_showing_it(farebox: Farebox) -> None:
    done = with_settings(farebox, FAREBOX_PASSPHRASE="wrong battery").run("up")
    assert done.returncode == 3
    assert "does not open" in done.stderr and "battery" not in done.stderr


def test_wallet_moves_to_another_node_by_export_and_import(
    farebox: Farebox, tmp_path: Path
) -> None:
    exported = tmp_path / "exported.json"
    assert farebox.run("wallet", "export", "--out", str(exported)).returncode == 0
    assert exported.stat().st_mode & 0o077 == 0
    other = Farebox(tmp_path / "other", farebox.settings)
    moved = other.json("wallet", "import", str(exported))
    assert moved["address"] == farebox.json("wallet", "show")["address"]
    again = other.run("wallet", "import", str(exported))
    assert again.returncode == 3 and "--replace" in again.stderr


def test_a_wallet_that_takes_anothers_place_stands_in_the_audit_log(
    farebox: Farebox, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("0x" + "5d" * 32)
    engine = open_engine(sqlite_url(farebox.home / "farebox.db"))
    with writer(engine).begin() as connection:
        names = ("channel_id", "payer", "payer_authorizer", "receiver", "receiver_authorizer")
        channel = dict.fromkeys((*names, "token", "salt"), "0x00") | {"state": "open"}
        channel |= {"chain_id": 31337, "withdraw_delay": 900}
        connection.execute(insert(SellerChannel).values(SellerChannel(**channel).model_dump()))
    done = farebox.run("wallet", "import", str(key), "--replace")
    address = json.loads(done.stdout)["address"]
    assert "The books have buyers' channels under 0x" in done.stderr
    [entry] = read_trail(engine, TrailFilter(area="wallet")).items
    engine.dispose()
    assert (entry.action, entry.actor_id) == ("wallet.import", "cli")
    assert address in entry.after and "5d5d" not in entry.after


def test_listings_are_added_paused_and_removed(farebox: Farebox) -> None:
    added = farebox.json(
        *("listing", "add", "My Weather", "--upstream", "http://127.0.0.1:1/api"),
        *("--price", "0.001", "--route", "GET /forecast/{city}=0.01"),
    )
    assert added["slug"] == "my-weather"
    [listing] = farebox.json("listing", "list")
    assert (listing["price"], listing["routes"]) == ("0.001", ["GET /forecast/{city}=0.01"])
    assert farebox.json("listing", "pause", "my-weather") == {"paused": 1}
    assert farebox.json("listing", "list")[0]["paused"] is True
    assert (
        farebox.run("listing", "add", "my weather", "--buy", "http://127.0.0.1:1").returncode == 0
    )
    assert farebox.json("listing", "remove", "My Weather") == {"removed": 2}
    assert farebox.json("listing", "list") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("Weather",), "--upstream URL"),
        (("Weather", "--upstream", "ftp://x"), "no http or https address"),
        (("Weather", "--upstream", "http://user:pw@x"), "credentials"),
        (("Weather", "--upstream", "http://x", "--price", "-1"), "no price"),
        (("Weather", "--upstream", "http://x", "--price", "0.0000001"), "no price"),
        (("Weather", "--upstream", "http://x", "--route", "GET forecast=1"), "no route"),
        (("We", "--upstream", "http://x"), "3 to 80"),
        (("Weather", "--upstream", "http://x", "--auth-header", "X-Key"), "standard input"),
    ],
)
def test_listing_that_cannot_be_sold_is_refused(
    farebox: Farebox, arguments: tuple[str, ...], sentence: str
) -> None:
    done = farebox.run("listing", "add", *arguments)
    assert done.returncode == 3 and sentence in done.stderr
    assert farebox.json("listing", "list") == []


def test_a_host_that_was_allowed_is_not_asked_about_again(
    farebox: Farebox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.commands.output.wants_json", lambda as_json: as_json)
    allowed = with_settings(farebox, FAREBOX_ALLOWED_HOSTS="127.0.0.1:1")
    added = ("listing", "add", "Near", "--upstream")
    assert "allowed_hosts" not in allowed.run(*added, "http://127.0.0.1:1/api").stdout
    assert (
        "allowed_hosts"
        in allowed.run(*added[:2], "Other", "--upstream", "http://127.0.0.1:2").stdout
    )


def test_upstream_credential_is_never_stored_or_shown_in_the_clear(farebox: Farebox) -> None:
    farebox.json(
        *("listing", "add", "Weather", "--upstream", "http://127.0.0.1:1", "--price", "1"),
        *("--auth-header", "Authorization", "--auth-value-stdin"),
        text=UPSTREAM_SECRET + "\n",
    )
    assert UPSTREAM_SECRET not in farebox.run("listing", "list").stdout
    for file in farebox.home.rglob("*"):
        if file.is_file():
            assert b"upstream-secret-42" not in file.read_bytes(), file


def test_key_is_shown_once_and_can_be_revoked(farebox: Farebox) -> None:
    made = farebox.json("key", "create", "my app")
    assert made["secret"].startswith("fbx_")
    assert made["secret"] not in farebox.run("key", "list").stdout
    assert farebox.json("key", "revoke", made["id"]) == {"revoked": 1}
    assert farebox.run("key", "revoke", made["id"]).returncode == 1


def test_node_comes_up_alone_without_its_rpc_and_notices_changes(farebox: Farebox) -> None:
    with farebox.up() as node:
        facts = farebox.json("status")
        assert facts["ready"] and facts["pid"] == node.pid
        second_node_on_the_same_directory_is_refused(farebox, node.pid)
        farebox.json(
            "listing", "add", "Weather", "--upstream", "http://127.0.0.1:1", "--price", "1"
        )
        call_that_cannot_be_written_is_not_sent(farebox)
        offer = wait_for(f"{facts['gateway_url']}/v1/weather/x", 402)
        assert "payment-required" in offer.headers
        farebox.json("listing", "remove", "weather")
        wait_for(f"{facts['gateway_url']}/v1/weather/x", 404)
        first = httpx.get(facts["console_url"], follow_redirects=True)
        assert first.url.path == "/setup" and first.status_code == 200
    assert farebox.json("status", code=1)["running"] is False


def second_node_on_the_same_directory_is_refused(farebox: Farebox, first_pid: int) -> None:
    second = farebox.run("up")
    assert second.returncode == 4 and f"process {first_pid}" in second.stderr
    wallet = farebox.home / "keys" / "wallet.json"
    assert "running" in farebox.run("wallet", "import", str(wallet), "--replace").stderr


def call_that_cannot_be_written_is_not_sent(farebox: Farebox) -> None:
    app = with_settings(farebox, FAREBOX_KEY="fbx_x")
    for arguments in (
        ("/a\x01b",),
        ("/", "-H", "X: ü"),
        ("/", "-X", "GE T"),
        ("/", "-X", "POST", "-d", "abc", "-H", "Content-Length: 5"),
        ("/../other/x",),
    ):
        done = app.run("call", "weather", *arguments)
        assert done.returncode == 3 and "nothing was sent" in done.stderr, arguments
    for name in ("..", "../..", "weather/..", "a?b"):
        assert app.run("call", name).returncode, name


def test_node_behind_proxies_is_asked_where_it_listens(farebox: Farebox) -> None:
    """Its public addresses may lead nowhere from here, or to another process of it."""
    public = {
        "FAREBOX_PUBLIC_URL": "http://127.0.0.1:9",  # nothing listens there
        "FAREBOX_CONSOLE_PUBLIC_URL": "https://127.0.0.1:9",
    }
    node = with_settings(farebox, **public)
    with node.up():
        facts = node.json("status")
        assert facts["health"] == "ready" and facts["gateway_url"] == public["FAREBOX_PUBLIC_URL"]
        done = with_settings(node, FAREBOX_KEY="fbx_x").run("call", "weather")
        assert done.returncode == 1 and "secret_invalid" in done.stdout, done.stderr


def test_taken_port_is_a_sentence(farebox: Farebox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        done = with_settings(farebox, FAREBOX_GATEWAY_BIND=bind).run("up")
    assert done.returncode == 4
    assert bind in done.stderr and "FAREBOX_GATEWAY_BIND" in done.stderr


def test_killed_node_leaves_a_directory_the_next_can_use_and_ctrl_c_stops_it(
    farebox: Farebox,
) -> None:
    with farebox.up() as node:
        node.kill()
        node.wait()
        assert farebox.json("status", code=1)["running"] is False
    with farebox.up() as node:
        assert farebox.json("status")["ready"]
        started = time.monotonic()
        node.send_signal(signal.SIGINT)
        assert node.wait(timeout=30) == 0
        assert time.monotonic() - started < 15


def test_unwritable_data_dir_is_a_sentence(tmp_path: Path, fresh: Farebox) -> None:
    (tmp_path / "file").write_text("")
    done = Farebox(tmp_path / "file" / "node", fresh.settings).run("init")
    assert done.returncode == 4 and "cannot be made" in done.stderr


def test_call_without_key_or_node_says_what_is_missing(farebox: Farebox) -> None:
    assert "FAREBOX_KEY" in farebox.run("call", "weather").stderr
    done = with_settings(farebox, FAREBOX_KEY="fbx_x").run("call", "weather")
    assert done.returncode == 4 and "farebox up" in done.stderr


def test_reconcile_without_a_chain_is_no_verdict(farebox: Farebox) -> None:
    done = farebox.run("reconcile")
    assert done.returncode == 5 and done.stdout == ""


def wait_for(url: str, status: int) -> httpx.Response:
    deadline = time.monotonic() + 10
    while (answer := httpx.get(url)).status_code != status:
        assert time.monotonic() < deadline, answer.status_code
        time.sleep(0.1)
    return answer
