"""One chain for the treasury's tests, and a wallet with money on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.chain_fixtures import DevchainProcess
from tests.treasury.wallet_world import WalletWorld


@pytest_asyncio.fixture
async def world(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[WalletWorld]:
    async with WalletWorld(chain, tmp_path) as world:
        yield world
        await world.assert_books_equal_chain()
