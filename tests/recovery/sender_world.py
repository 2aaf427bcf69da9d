"""A sender with a real database and a real chain, and what the chain says happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from finance.chain.fees import GasCaps
from finance.chain.rpc import Rpc
from finance.chain.sender import Sender
from finance.networks import NETWORKS, Network
from finance.wallet.signer import Signer
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from tests.chain_fixtures import ChainProcess

DEVNET = NETWORKS["devnet"]
FAR_AWAY = "0x" + "be" * 20


@dataclass
class SenderWorld:
    """One sender and what belongs to it."""

    sender: Sender
    rpc: Rpc
    journal: Journal
    engine: Engine

    def rows(self, query: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(query))

    def tx(self, ref: str) -> Any:
        (row,) = self.rows(f"SELECT * FROM chain_tx WHERE ref = '{ref}'")
        return row

    def gas_booked(self) -> int:
        (row,) = self.rows("SELECT SUM(amount) FROM ledger_entry WHERE account = 'gas'")
        return int(row[0] or 0)


@asynccontextmanager
async def sender_world(
    database: Path,
    urls: Sequence[str],
    key: str,
    *,
    caps: GasCaps | None = None,
    network: Network = DEVNET,
    stuck_seconds: float = 2.0,
    timeout_seconds: float = 10.0,
) -> AsyncIterator[SenderWorld]:
    """A started sender; leaving stops it and closes its database, as a shutdown does."""
    engine = open_engine(f"sqlite:///{database}")
    upgrade(engine)
    journal = Journal(engine)
    async with Rpc(urls, network.chain_id, timeout_seconds) as rpc:
        signer = Signer.from_hex(key)
        caps = caps or GasCaps.default(network)
        sender = Sender(rpc, signer, network, journal, caps, stuck_seconds)
        await sender.start()
        try:
            yield SenderWorld(sender, rpc, journal, engine)
        finally:
            await sender.stop()
            journal.close()
            engine.dispose()


def transfer(to: str, atoms: int) -> bytes:
    """Calldata of USDC.transfer."""
    return bytes.fromhex("a9059cbb") + bytes(12) + bytes.fromhex(to[2:]) + atoms.to_bytes(32, "big")


def usdc_of(chain: ChainProcess, address: str) -> int:
    data = "0x70a08231" + address[2:].lower().rjust(64, "0")
    return int(chain.rpc("eth_call", {"to": chain.usdc, "data": data}, "latest"), 16)


def eth_of(chain: ChainProcess, address: str) -> int:
    return int(chain.rpc("eth_getBalance", address, "latest"), 16)


def nonce_of(chain: ChainProcess, address: str, tag: str = "latest") -> int:
    return int(chain.rpc("eth_getTransactionCount", address, tag), 16)


def fresh_address(number: int) -> str:
    """An address nobody has used, so that its balance counts the transfers of one test."""
    return "0x" + f"{0xFA0000 + number:040x}"
