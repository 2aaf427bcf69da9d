"""A buyer's node for tests: real chain, real database, real servers, our proxy in uvicorn.

Sellers are somebody else's: the official middleware in its own process, or one that
does exactly what a test tells it to.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from sqlalchemy import text
from sqlmodel import Session, SQLModel, select

from catalog.models import Listing, ListingOrigin
from finance.buying.models import SpendCounter, SpendLimit
from finance.buying.policy import BuyingPolicy
from finance.chain.rpc import Rpc
from finance.models import BuyerChannel, LedgerEntry, Purchase
from finance.networks import NETWORKS, Network
from finance.wallet.signer import Keys, Signer
from node.db.engine import open_engine, writer
from node.db.journal import Journal
from node.proxy.app import Proxy
from node.usage.models import Call, CallRollup, CallTotal, ConsumerKey, Event
from tests.chain_fixtures import ChainProcess
from tests.http.scripted_seller import Behave, ScriptedSeller, hangs, honest
from tests.ports import free_port

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 90  # on a machine that is busy with other tests
SECRET = "fbx_" + "a" * 40
NETWORK = NETWORKS["devnet"]


@contextmanager
def process(*arguments: str, port: int) -> Iterator[str]:
    """A Python module as a server process; its base URL once it listens."""
    child = subprocess.Popen([sys.executable, "-m", *arguments], cwd=_ROOT)
    try:
        _wait_for(port, child)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


def _wait_for(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise RuntimeError(f"{child.args!r} ended with {child.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{child.args!r} does not listen")


@contextmanager
def official_seller(chain: ChainProcess, price_atoms: int = 1000) -> Iterator[str]:
    """The x402 package's FastAPI middleware with its facilitator; sells below /paid/."""
    upstream_port, port = free_port(), free_port()
    with process("tests.bench.upstream", str(upstream_port), port=upstream_port) as upstream:
        arguments = ["--port", str(port), "--rpc", chain.rpc_url, "--key", chain.keys[5]]
        arguments += ["--upstream", upstream, "--price", str(price_atoms)]
        with process("tests.bench.official_seller", *arguments, port=port) as base:
            yield base


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """An ASGI app under uvicorn in this loop; its base URL."""
    port = free_port()
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


class BuyerNode:
    """The buyer's data and keys; `running` is one life of its proxy."""

    def __init__(
        self, directory: Path, chain: ChainProcess, wallet: int = 1, url: str = ""
    ) -> None:
        self.chain = chain
        self.url = url or f"sqlite:///{directory / 'farebox.db'}"
        self.keys = Keys(
            Signer.from_hex(chain.keys[wallet]), Signer.random(), Signer.random(), bytes(32)
        )
        self.engine = open_engine(self.url)
        with writer(self.engine).begin() as connection:
            SQLModel.metadata.create_all(connection)
        hashed = hashlib.sha256(SECRET.encode()).hexdigest()
        self.add(ConsumerKey(id="key-1", name="app", secret_hash=hashed))

    def add(self, *rows: SQLModel) -> None:
        with Session(writer(self.engine)) as session:
            session.add_all(rows)
            session.commit()

    def list(self, slug: str, base_url: str) -> None:
        """Put a bought URL into the catalog."""
        row = Listing(id=f"listing-{slug}", slug=slug, name=slug, base_url=base_url)
        row.origin = ListingOrigin.REMOTE
        self.add(row)

    def limit(self, scope: str, atoms: int, subject: str = "*") -> None:
        self.add(SpendLimit(scope=scope, subject=subject, limit_atoms=atoms))

    @asynccontextmanager
    async def running(
        self,
        policy: BuyingPolicy | None = None,
        rpc_url: str | None = None,
        network: Network = NETWORK,
        **options: Any,
    ) -> AsyncIterator[Running]:
        journal = Journal(self.engine)
        async with Rpc([rpc_url or self.chain.rpc_url], network.chain_id) as rpc:
            allowed = ("127.0.0.1", "localhost")
            proxy = Proxy(journal, self.keys, network, rpc, allowed, policy, **options)
            await proxy.start()
            async with served(proxy) as base, httpx.AsyncClient(timeout=60, verify=False) as client:
                yield Running(proxy, base, client)
            await proxy.stop()
            assert not proxy.buyer.books.running
        journal.close()

    def rows(self, table: type[Any]) -> Any:
        with Session(self.engine) as session:
            return list(session.exec(select(table)))

    @property
    def channels(self) -> list[BuyerChannel]:
        return list(self.rows(BuyerChannel))

    @property
    def purchases(self) -> list[Purchase]:
        return sorted(self.rows(Purchase), key=lambda row: (row.created_at, row.call_id))

    @property
    def calls(self) -> list[Call]:
        return list(self.rows(Call))

    @property
    def events(self) -> list[Event]:
        return list(self.rows(Event))

    def booked(self, account: str) -> int:
        return sum(row.amount for row in self.rows(LedgerEntry) if row.account == account)

    def counted(self, scope: str) -> int:
        return sum(row.spent_atoms for row in self.rows(SpendCounter) if row.scope == scope)

    def check_books(self) -> None:
        """What was spent is what channels and authorizations were charged, and was counted."""
        exact = sum(row.charged_atoms for row in self.purchases if row.scheme == "exact")
        charged = sum(row.charged_atoms for row in self.channels)
        assert -self.booked("spent") == exact + charged
        assert self.counted("day") >= exact + charged
        with self.engine.connect() as connection:
            bad = "SELECT count(*) FROM buyer_channel WHERE charged_atoms > signed_atoms"
            assert connection.execute(text(bad)).scalar() == 0
        self.check_calls()

    def check_calls(self) -> None:
        """What calls cost, on the pages, is what the ledger says was spent on calls."""
        spent = [row for row in self.rows(LedgerEntry) if row.account == "spent"]
        on_calls = -sum(row.amount for row in spent if not row.key.startswith("adopted:"))
        assert sum(row.amount_atoms for row in self.calls) == on_calls
        sums = [*self.rows(CallRollup), *self.rows(CallTotal)]
        assert sum(row.amount_atoms for row in sums) == on_calls
        assert sum(row.calls for row in sums) == len(self.calls)


class Running:
    """A proxy that serves."""

    def __init__(self, proxy: Proxy, base: str, client: httpx.AsyncClient) -> None:
        self.proxy, self.base, self.client = proxy, base, client

    async def call(
        self, path: str, method: str = "GET", key: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {SECRET}", **options.pop("headers", {})}
        if key is not None:
            headers["idempotency-key"] = key
        url = f"{self.base}/call/{path}"
        return await self.client.request(method, url, headers=headers, **options)

    async def ask(self, path: str, key: str | None = None) -> None:
        """A call whose task is this one's: it is cut off with it. Nobody reads the answer."""
        headers = [(b"authorization", b"Bearer " + SECRET.encode())]
        if key is not None:
            headers.append((b"idempotency-key", key.encode()))
        path = f"/call/{path}"
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()}

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_: object) -> None: ...

        await self.proxy({**scope, "query_string": b"", "headers": headers}, receive, send)


@asynccontextmanager
async def buying(node: BuyerNode, seller: ScriptedSeller, **options: Any) -> AsyncIterator[Running]:
    """The node's proxy while it runs; the seller is listed as `x`. See `BuyerNode.running`."""
    async with served(seller) as base:
        node.list("x", base)
        async with node.running(**options) as proxy:
            yield proxy


async def left_open(
    proxy: Running, seller: ScriptedSeller, path: str, key: str, behave: Behave = hangs
) -> None:
    """A call that the seller may have charged, and whose answer did not come in time. It is
    honest from then on."""
    seller.behave = behave
    assert (await proxy.call(path, key=key)).status_code == 504
    seller.hang.set()
    seller.behave = honest
