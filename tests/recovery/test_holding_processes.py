"""What a gateway process has reserved is its own while it lives, and free once it is dead."""

from __future__ import annotations

import asyncio
import sys
from asyncio import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from finance.chain.rpc import Rpc
from finance.models import PaymentState
from finance.networks import NETWORKS
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.mirror import Mirror
from finance.selling.reservations import find_known
from node.db import presence
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.migrations import upgrade
from node.egress import EgressPolicy
from node.gateway import app as gateway_app
from node.gateway.app import Gateway
from node.gateway.match import Sale
from node.gateway.ports import Seller
from tests.http.conftest import NoMoney
from tests.recovery.holding_process import ATOMS, AUTHORIZATION
from tests.recovery.node_home import until

_ROOT = Path(__file__).parents[2]
_NETWORK = NETWORKS["devnet"]
_RESERVED = (PaymentState.RESERVED, ATOMS)
_FREED = (PaymentState.RELEASED, 0)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other quickly, and who is missing counts as gone after a moment."""
    monkeypatch.setattr(gateway_app, "TIDY_SECONDS", 0.05)
    monkeypatch.setattr(presence, "GONE_SECONDS", 0.5)


async def test_a_gateway_that_starts_leaves_alone_what_another_one_holds(
    postgres_url: str, soon: None
) -> None:
    engine = _database(postgres_url)
    process = await _holding(postgres_url)
    try:
        async with _gateway(engine):
            await asyncio.sleep(1)
            assert _held(engine) == _RESERVED
        process.kill()
        await process.wait()
        async with _gateway(engine):
            await until("what it held is free", _freed(engine), 10)
    finally:
        await _end(process)
        engine.dispose()


async def test_a_gateway_that_runs_frees_what_a_dead_one_held(
    postgres_url: str, soon: None
) -> None:
    engine = _database(postgres_url)
    process = await _holding(postgres_url)
    try:
        async with _gateway(engine):
            process.kill()
            await process.wait()
            await until("what it held is free", _freed(engine), 10)
    finally:
        await _end(process)
        engine.dispose()


async def test_a_gateway_alone_frees_what_it_held_before_it_was_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'farebox.db'}"
    engine = _database(url)
    process = await _holding(url)
    await _end(process)
    assert _held(engine) == _RESERVED
    async with _gateway(engine):
        assert _held(engine) == _FREED
    engine.dispose()


def _freed(engine: Engine) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return _held(engine) == _FREED

    return look


def _database(url: str) -> Engine:
    engine = open_engine(url)
    upgrade(engine)
    return engine


async def _holding(url: str) -> subprocess.Process:
    arguments = ("-m", "tests.recovery.holding_process", url)
    process = await subprocess.create_subprocess_exec(
        sys.executable, *arguments, cwd=_ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"holding\n"
    return process


async def _end(process: subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _gateway(engine: Engine) -> AsyncIterator[None]:
    """Another gateway on the same books, started and stopped."""
    journal = Journal(engine)
    async with Rpc(["http://127.0.0.1:9"], _NETWORK.chain_id) as rpc:
        channels = SellerChannels(journal, Mirror(journal, rpc, _NETWORK))
        sale = Sale("http://x", bytes(20), bytes(20), 1, "USDC", "2", bytes(20))
        seller = Seller(
            sale=sale,
            store=journal,
            channels=channels,
            checks=ChainChecks(rpc),
            settlement=NoMoney(),
            refunds=NoMoney(),
            egress=EgressPolicy(()),
            unseal=bytes.fromhex,
            claim_soon=lambda _: None,
        )
        gateway = Gateway(seller)
        await gateway.start()
        yield
        await gateway.stop()
    journal.close()


def _held(engine: Engine) -> tuple[PaymentState, int]:
    """The authorization's state; what the channel was charged."""
    known = find_known(engine, AUTHORIZATION)
    assert known is not None
    with engine.connect() as connection:
        charged = connection.execute(text("SELECT charged_atoms FROM seller_channel"))
        return known.state, int(charged.scalar_one())
