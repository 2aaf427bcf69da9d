"""One node as a process that tests may kill; its files stay, and can be looked into."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import text

from finance.chain.rpc import Rpc
from finance.ledger import Account
from finance.networks import NETWORKS, Network
from finance.reconcile import Report, reconcile
from finance.wallet.signer import Keys
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.demo.processes import run_command
from tests.ports import free_port as free_port  # for those who start servers beside these
from tests.recovery.faulty_rpc import FaultyRpc
from tests.recovery.forked import Forked

NETWORK = NETWORKS["devnet"]
PASSPHRASE = "only for tests"
READY_SECONDS = 90.0
WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.05


async def until(
    what: str, holds: Callable[[], Awaitable[Any]], seconds: float = WAIT_SECONDS
) -> Any:
    """The first true value of `holds()`; fails after `seconds`, saying what did not come."""
    deadline = time.monotonic() + seconds
    while not (value := await holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what} (last: {value!r})"
        await asyncio.sleep(_LOOK_SECONDS)
    return value


@dataclass(slots=True)
class NodeHome:
    """One node: its folder, its relay to the chain, and its process while it runs."""

    name: str
    folder: Path
    relay: FaultyRpc
    gateway_port: int
    console_port: int
    keys: Keys
    part: Forked | None = None
    starts: int = 0
    database: str = ""  # where that is not SQLite in its folder
    public_url: str = ""  # where buyers reach it, if something stands before it
    network: Network = NETWORK

    @property
    def data_dir(self) -> Path:
        return self.folder / self.name

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data_dir / 'farebox.db'}"

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    @property
    def sold_at(self) -> str:
        """The gateway as buyers know it."""
        return self.public_url or self.gateway_url

    @property
    def address(self) -> str:
        return self.keys.wallet.address

    @property
    def environment(self) -> dict[str, str]:
        return {
            "FAREBOX_DATA_DIR": str(self.data_dir),
            "FAREBOX_NETWORK": self.network.name,
            "FAREBOX_RPC_URLS": self.relay.url,
            "FAREBOX_PASSPHRASE": PASSPHRASE,
            "FAREBOX_DATABASE_URL": self.database_url,
            "FAREBOX_PUBLIC_URL": self.sold_at,
            "FAREBOX_GATEWAY_BIND": f"127.0.0.1:{self.gateway_port}",
            "FAREBOX_CONSOLE_BIND": f"127.0.0.1:{self.console_port}",
            "FAREBOX_ALLOWED_HOSTS": "127.0.0.1",
        }

    async def start(self, wait: bool = True) -> None:
        """`farebox up`; each start has a log of its own."""
        self.starts += 1
        log = self.folder / f"{self.name}-{self.starts}.log"
        self.part = Forked.up(log, self.environment)
        if wait:
            await self.ready()

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as session:

            async def is_ready() -> bool:
                assert self.part is not None
                self.part.require_alive()
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.gateway_url}/readyz") as answer:
                        return answer.status == 200
                return False

            await until(f"{self.name} is ready", is_ready, READY_SECONDS)

    async def kill_9(self) -> None:
        """The machine's power goes: no handler runs, nothing is flushed."""
        assert self.part is not None
        self.part.signal(signal.SIGKILL)
        await self.part.wait()
        self.part = None

    async def stop(self) -> None:
        if self.part is not None:
            await self.part.stop()
            self.part = None

    def claim_now(self) -> None:
        """As an operator asks for it."""
        assert self.part is not None
        self.part.signal(signal.SIGUSR1)

    async def rows(self, query: str, **values: Any) -> list[Any]:
        """Rows of the node's own database, also while it runs."""
        return await asyncio.to_thread(self._rows, query, values)

    def _rows(self, query: str, values: dict[str, Any]) -> list[Any]:
        engine = open_engine(self.database_url)
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(query), values).all())
        finally:
            engine.dispose()

    async def number(self, query: str, **values: Any) -> int:
        return int((await self.rows(query, **values))[0][0] or 0)

    async def booked(self, account: Account) -> int:
        """The sum of one account of the ledger."""
        query = "SELECT SUM(amount) FROM ledger_entry WHERE account = :account"
        return await self.number(query, account=account.value)

    async def reconcile(self) -> Report:
        """What `farebox reconcile` does, without starting a process for it."""
        engine = open_engine(self.database_url)
        journal = Journal(engine)
        try:
            async with Rpc([self.relay.upstream], self.network.chain_id) as rpc:
                return await reconcile(journal, rpc, self.address, self.network)
        finally:
            await asyncio.to_thread(journal.close)
            engine.dispose()

    async def reconcile_by_command(self) -> dict[str, Any]:
        """`farebox reconcile --json`."""
        found = await run_command(("reconcile", "--json"), self.environment, accept=(0, 1))
        assert isinstance(found, dict)
        return found

    def log(self) -> str:
        """Everything its processes wrote."""
        paths = sorted(
            self.folder.glob(f"{self.name}-*.log"), key=lambda each: each.stat().st_mtime
        )
        return "\n".join(f"=== {each.name}\n{each.read_text(errors='replace')}" for each in paths)


def fresh_database(home: NodeHome) -> None:
    """A database as `farebox init` makes it."""
    engine = open_engine(home.database_url)
    upgrade(engine)
    engine.dispose()


def copy_database(home: NodeHome, to: Path) -> None:
    """The database of a stopped node, with its write-ahead log."""
    to.mkdir()
    for path in home.data_dir.glob("farebox.db*"):
        shutil.copy2(path, to / path.name)


def put_database_back(home: NodeHome, source: Path) -> None:
    for path in home.data_dir.glob("farebox.db*"):
        path.unlink()
    for path in source.iterdir():
        shutil.copy2(path, home.data_dir / path.name)
