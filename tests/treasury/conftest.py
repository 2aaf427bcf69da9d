"""One chain for the treasury's tests, and a wallet with money on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.chain_fixtures import DevchainProcess
from tests.treasury.wallet_world import WalletWorld


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess() as process:
        yield process


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[WalletWorld]:
    async with WalletWorld(chain, tmp_path) as world:
        yield world
        await world.assert_books_equal_chain()
