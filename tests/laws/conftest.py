"""The promises of payments.md, on the healthy build or on one that breaks them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chain_fixtures import ChainProcess, DevchainProcess
from tests.http.conftest import market  # noqa: F401  (fixture)
from tests.http.plans_world import Seller, open_seller
from tests.http.proxy_world import BuyerNode
from tests.laws.faults import load_faults
from tests.laws.worlds import CHAIN_URL, RunningChain, Shop, UnreachableChain, open_shop
from tests.laws.x402_seller import X402Seller
from tests.recovery.seller_world import World


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault", default=None, help="break a law (tests/laws/faults.py)")


@pytest.fixture(scope="session", autouse=True)
def broken_build(request: pytest.FixtureRequest) -> Iterator[None]:
    """The fault asked for on the command line, for the whole session."""
    # Not parsed when pytest was started above this directory.
    name = request.config.getoption("--fault", default=None)
    with pytest.MonkeyPatch.context() as monkeypatch:
        if name is not None:
            load_faults()[name].apply(monkeypatch)
        yield


@pytest.fixture(scope="session")
def chain() -> Iterator[ChainProcess]:
    """One chain for all: every test has wallets of its own. Broken builds get the same."""
    if url := os.environ.get(CHAIN_URL):
        yield RunningChain(url)
        return
    with DevchainProcess() as process:
        yield process


@pytest_asyncio.fixture
async def shop(chain: ChainProcess, tmp_path: Path) -> AsyncIterator[Shop]:
    """A seller with a real chain; its books equal the chain at the end."""
    async with open_shop(chain, tmp_path) as shop:
        yield shop
        await shop.assert_books_balance()


@pytest_asyncio.fixture
async def planned(chain: ChainProcess, tmp_path: Path) -> AsyncIterator[Seller]:
    """A seller of plans with a real chain."""
    async with World(chain, tmp_path) as world:
        async with open_seller(world) as seller:
            yield seller
        world.assert_books_balance()


@pytest.fixture
def buyer(tmp_path: Path) -> Iterator[BuyerNode]:
    """A buyer's node whose chain is down: to sign, or to refuse to, it needs none."""
    node = BuyerNode(tmp_path, UnreachableChain())
    yield node
    node.check_books()


@pytest_asyncio.fixture
async def seller(buyer: BuyerNode) -> AsyncIterator[X402Seller]:
    """Somebody else's API, listed at the buyer's as `api`; it asks for what a test tells it."""
    seller = X402Seller()
    async with seller.serving() as base:
        buyer.list("api", base)
        yield seller
