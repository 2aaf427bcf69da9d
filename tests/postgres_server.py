"""A PostgreSQL of our own, with its data in a directory that goes with it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import create_engine, text

MISSING = "PostgreSQL is missing: install postgresql"
_ACCOUNT = "postgres"  # initdb refuses root; Debian's package brings this account
_END_ALL = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def find_postgres() -> Path | None:
    """The directory of initdb and pg_ctl, None where PostgreSQL is not installed."""
    on_path = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = [Path(on_path).resolve()] if on_path else installed[-1:]
    return found[0].parent if found else None


class PostgresServer:
    """Runs for the `with` block, reached through a socket that only this machine has."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._databases = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="farebox-pg-"))
        if os.geteuid() == 0:
            account = pwd.getpwnam(_ACCOUNT)
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-A", "trust", "-U", _ACCOUNT, "-E", "UTF8", "--no-sync")
        options = f"-k {self._folder} -c listen_addresses=''"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder)

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"farebox_{self._databases}"
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{_ACCOUNT}@/{database}?host={self._folder}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), *arguments]
        if os.geteuid() == 0:
            command = ["/usr/sbin/runuser", "-u", _ACCOUNT, "--", *command]
        # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", check=False)
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


def end_connections(url: str) -> None:
    """What a server that restarts does to all who are connected to this database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(_END_ALL)
    engine.dispose()
