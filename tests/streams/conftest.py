"""The gateway's market, and one that sells streams."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.http.conftest import Market, market
from tests.streams.socket_world import SocketMarket, socket_market

__all__ = ["market", "sockets"]


@pytest.fixture
async def sockets(market: Market) -> AsyncIterator[SocketMarket]:
    async with socket_market(market) as sockets:
        yield sockets
