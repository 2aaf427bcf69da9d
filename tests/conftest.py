"""What every test may use, and what none may touch."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine

from finance.wallet import keystore
from node.accounts import passwords
from node.db.engine import open_engine, writer
from node.db.migrations import upgrade
from node.process import spare_the_collector
from node.settings import Settings
from node.usage.calls import CallRecord
from tests.chain_fixtures import DevchainProcess
from tests.postgres_server import MISSING, PostgresServer, find_postgres

CHROMIUM = os.environ.get("FAREBOX_CHROMIUM", "/usr/bin/chromium")

_TRUE_HASHER, _TRUE_WORK = passwords._HASHER, keystore.SCRYPT_WORK


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """What makes passwords dear to guess would make every sign-in and every new wallet of the
    tests wait for it. Tests of that cost ask for `true_costs`; processes have it anyway."""
    hasher = PasswordHasher(time_cost=1, memory_cost=256, parallelism=1)
    with pytest.MonkeyPatch.context() as cheap:
        cheap.setattr(passwords, "_HASHER", hasher)
        cheap.setattr(passwords, "_NOBODY", hasher.hash("nobody's"))
        cheap.setattr(keystore, "SCRYPT_WORK", 2**10)
        yield


@pytest.fixture
def true_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords cost what they cost in a node."""
    monkeypatch.setattr(passwords, "_HASHER", _TRUE_HASHER)
    monkeypatch.setattr(keystore, "SCRYPT_WORK", _TRUE_WORK)


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A test never touches the operator's own node: no settings from outside, no ~/.farebox."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"FAREBOX_{name.upper()}", raising=False)
    monkeypatch.setenv("FAREBOX_DATA_DIR", str(tmp_path / "farebox"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What has only a long form is left to `make soak`."""
    if os.environ.get("FAREBOX_SOAK") == "1":
        return
    long = [item for item in items if item.get_closest_marker("soak") is not None]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_configure() -> None:
    gc.disable()  # until all tests are found: none of what is loaded goes away again


def pytest_collection_finish() -> None:
    """Thousands of tests and all modules are looked through for garbage once."""
    spare_the_collector()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything is installed: a promise that was skipped there was not kept."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, which CI may not: {reason}"
    return report


@pytest.fixture(scope="session")
def devchain() -> Iterator[DevchainProcess]:
    """A chain for many files: to start one takes longer than most tests."""
    with DevchainProcess(accounts=24) as process:
        yield process


@pytest.fixture(scope="module")
def chain(devchain: DevchainProcess) -> Iterator[DevchainProcess]:
    """A chain as nobody used it: what a file did there is undone after it, also to its clock."""
    snapshot = devchain.rpc("evm_snapshot")
    yield devchain
    devchain.rpc("evm_setAutomine", True)
    assert devchain.rpc("evm_revert", snapshot)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    binaries = find_postgres()
    if binaries is None:
        pytest.skip(MISSING)
    with PostgresServer(binaries) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """An empty database on PostgreSQL."""
    return postgres.new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, once on each that Farebox runs on."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path / 'farebox.db'}"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file at the newest schema: made once, copied for each test."""
    path = tmp_path_factory.mktemp("schema") / "migrated.db"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def migrated_engine(migrated_file: Path, tmp_path: Path) -> Iterator[Engine]:
    """A database at the newest schema."""
    engine = open_engine(f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'migrated.db')}")
    yield engine
    engine.dispose()


def book_calls(engine: Engine, *records: CallRecord) -> None:
    """Calls as the journal writes them, from a test that has no event loop."""
    with writer(engine).begin() as connection:
        for record in records:
            row, sums = record.write(), record.increment()
            connection.execute(row.statement, dict(row.params))
            connection.execute(sums.statement, dict(sums.key) | dict(sums.deltas))
