"""A seller as the world meets it: `farebox up` in its own process, on a chain, before an API.

Nothing is reached into: listings are added by the command, claims asked for by signal,
rows read from the database file.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import httpx
import uvicorn
from sqlalchemy import Engine, text

from finance.chain.addresses import BATCH_SETTLEMENT_ADDRESS, USDC_ADDRESS
from finance.chain.contracts import usdc_balance_slot
from finance.chain.rpc import Rpc
from finance.networks import NETWORKS
from finance.reconcile import Report, reconcile
from finance.x402.abi import calldata
from node.db.engine import open_engine
from node.db.journal import Journal
from node.lock import running_node
from tests.chain_fixtures import DevchainProcess
from tests.upstream import Upstream

ROOT = Path(__file__).parents[2]
_START_SECONDS = 60
_CLAIM_SECONDS = 20
PRICE = 1_000
DEPOSIT = 10 * PRICE
"""What our 402 suggests, and the official packages deposit unless told otherwise."""
SLUG = "echo-api"
_WORD = {"name": "word", "in": "path", "required": True, "schema": {"type": "string"}}
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "Echo", "version": "1"},
    "paths": {
        "/echo/{word}": {
            "get": {
                "summary": "Says what it heard.",
                "parameters": [
                    _WORD,
                    {
                        "name": "times",
                        "in": "query",
                        "required": True,
                        "schema": {"type": "integer"},
                        "example": 2,
                    },
                ],
                "responses": {
                    "200": {
                        "description": "OK",
                        "content": {"application/json": {"example": {"size": 0}}},
                    }
                },
            },
            "post": {
                "summary": "Weighs what it was sent.",
                "parameters": [_WORD],
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"text": {"type": "string"}},
                                "required": ["text"],
                            }
                        }
                    }
                },
                "responses": {"200": {"description": "OK"}},
            },
        }
    },
}
# All cost PRICE but POST, which costs twice as much.
ROUTES = ("GET /echo/{word}=0.001", "POST /echo/{word}=0.002")


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.05)


@contextmanager
def served_in_thread(app: Any) -> Iterator[str]:
    """An ASGI app under uvicorn in a thread of its own; its base URL."""
    config = uvicorn.Config(app, "127.0.0.1", 0, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 10, "the API listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


class Earned(NamedTuple):
    """Atoms earned as four places know it: the chain, the ledger, the calls, the rollups."""

    wallet: int
    ledger: int
    calls: int
    rollups: int

    def since(self, before: Earned) -> Earned:
        return Earned(*(now - then for now, then in zip(self, before, strict=True)))


class SellerNode:
    """One seller with its chain and its API, from `init` to SIGTERM."""

    def __init__(self, directory: Path, chain: DevchainProcess) -> None:
        self.chain = chain
        self.upstream = Upstream()
        self.data_dir = directory / "seller"
        passphrase = directory / "passphrase"
        passphrase.write_text("correct horse battery staple")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("FAREBOX_")}
        self._environment = inherited | {
            "FAREBOX_DATA_DIR": str(self.data_dir),
            "FAREBOX_NETWORK": "devnet",
            "FAREBOX_RPC_URLS": chain.rpc_url,
            "FAREBOX_PASSPHRASE_FILE": str(passphrase),
            "FAREBOX_GATEWAY_BIND": "127.0.0.1:0",
            "FAREBOX_CONSOLE_BIND": "127.0.0.1:0",
            "FAREBOX_ALLOWED_HOSTS": "127.0.0.1",
        }
        self._log = directory / "seller.log"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            api = stack.enter_context(served_in_thread(self.upstream))
            self.address: str = self.farebox("init", "--network", "devnet")["address"]
            self.chain.rpc("anvil_setBalance", self.address, hex(10**19))
            self._add_listing(api)
            self._process = stack.enter_context(self._up())
            self._engine: Engine = open_engine(f"sqlite:///{self.data_dir / 'farebox.db'}")
            stack.callback(self._engine.dispose)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def farebox(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> Any:
        """Run the command; what it printed as JSON."""
        command = [sys.executable, "-m", "node.cli", *arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True)
        assert done.returncode in accept, done.stderr.decode()
        return json.loads(done.stdout)

    def _add_listing(self, api: str) -> None:
        spec = self.data_dir / "spec.json"
        spec.write_text(json.dumps(SPEC))
        prices = [part for route in ROUTES for part in ("--route", route)]
        described = ("--description", "Says what it heard.", "--tag", "echo", "--spec", str(spec))
        upstream = ("--upstream", f"{api}/base", "--price", "0.001")
        self.farebox("listing", "add", "Echo API", *upstream, *prices, *described)

    @contextmanager
    def _up(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "node.cli", "up"],
                cwd=ROOT,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            wait_until(lambda: self._is_ready(process), _START_SECONDS, "the node is ready")
            self.gateway_url: str = running_node(self.data_dir)["gateway_url"]
            yield process
        finally:
            process.terminate()
            process.wait(30)

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log_tail()
        url = running_node(self.data_dir).get("gateway_url")
        return bool(url) and httpx.get(f"{url}/readyz").status_code == 200

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def url(self, path: str) -> str:
        return f"{self.gateway_url}/v1/{SLUG}/{path}"

    # Money

    def rows(self, sql: str, **params: Any) -> list[Any]:
        with self._engine.connect() as connection:
            return list(connection.execute(text(sql), params).all())

    def number(self, sql: str, **params: Any) -> int:
        return int(self.rows(sql, **params)[0][0] or 0)

    def usdc(self, address: str | None = None) -> int:
        """USDC atoms of an address on the chain, the seller's if none is given."""
        data = "0x70a08231" + (address or self.address)[2:].lower().rjust(64, "0")
        return int(self.chain.rpc("eth_call", {"to": USDC_ADDRESS, "data": data}, "latest"), 16)

    def channel(self, channel_id: str) -> tuple[int, int]:
        """Balance and total claimed of a channel on the chain, in atoms."""
        data = "0x" + calldata("channels", ("bytes32",), bytes.fromhex(channel_id[2:])).hex()
        call = {"to": BATCH_SETTLEMENT_ADDRESS, "data": data}
        words = bytes.fromhex(self.chain.rpc("eth_call", call, "latest")[2:])
        return int.from_bytes(words[:32]), int.from_bytes(words[32:64])

    def fund(self, address: str, atoms: int) -> None:
        slot = f"0x{usdc_balance_slot(address):064x}"
        self.chain.rpc("anvil_setStorageAt", USDC_ADDRESS, slot, f"0x{atoms:064x}")

    def earned(self) -> Earned:
        """What has been earned so far."""
        charged = "SELECT SUM(amount) FROM ledger_entry WHERE account IN ('charged', 'exact')"
        calls = "SELECT SUM(amount_atoms) FROM call WHERE side = 'served'"
        rollup = "SELECT SUM(amount_atoms) FROM call_rollup WHERE side = 'served'"
        return Earned(self.usdc(), *(self.number(sql) for sql in (charged, calls, rollup)))

    def claim(self) -> None:
        """Have what is owed claimed and swept, and wait for it."""
        owed = "SELECT SUM(charged_atoms - total_claimed_atoms) FROM seller_channel"
        if self.number(owed):
            self._process.send_signal(signal.SIGUSR1)
            wait_until(lambda: not self.number(owed), _CLAIM_SECONDS, "vouchers are claimed")
        # The watcher may have seen a claim before its sender has.
        on_its_way = "SELECT COUNT(*) FROM chain_tx WHERE state IN ('signed', 'broadcast')"
        wait_until(lambda: not self.number(on_its_way), _CLAIM_SECONDS, "nothing is on its way")

    def reconcile(self) -> list[Any]:
        """Where books and chain differ, and what is still open."""
        report = asyncio.run(self._compare())
        return [*report.differences, *report.open]

    async def _compare(self) -> Report:
        """As `farebox reconcile` does, without the seconds a new process takes."""
        journal = Journal(self._engine)
        try:
            async with Rpc([self.chain.rpc_url], self.chain.chain_id) as rpc:
                return await reconcile(journal, rpc, self.address, NETWORKS["devnet"])
        finally:
            await asyncio.to_thread(journal.close)
