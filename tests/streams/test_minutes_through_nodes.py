"""Streams by the minute between two nodes: processes, a chain, real money, kills and restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from catalog.drafts import Draft
from catalog.editing import add_listing
from catalog.models import ListingOrigin, PriceUnit
from finance.buying.signing import exact_payload, header, token_domain
from finance.buying.terms import choose
from finance.ledger import Account
from finance.money import Usdc
from finance.wallet.signer import Signer
from finance.x402.values import EXACT
from finance.x402.wire import decode_required
from node.db.engine import open_engine, writer
from tests.chain_fixtures import DevchainProcess
from tests.recovery import market_world
from tests.recovery.market_world import (
    LISTING,
    NETWORK,
    PRICE,
    SLUG,
    Market,
    open_market,
    transfer,
)
from tests.recovery.node_home import NodeHome
from tests.streams.test_streams_through_nodes import StreamApi, open_socket, say

MINUTE = 60


def list_by_minute(home: NodeHome, url: str, origin: ListingOrigin) -> None:
    """As `market_world.list_api`, at a price per minute."""
    engine = open_engine(home.database_url)
    try:
        draft = Draft(LISTING, SLUG, url, origin=origin, price=Usdc(PRICE), unit=PriceUnit.MINUTE)
        with writer(engine).begin() as connection:
            add_listing(connection, draft, lambda _: "", int(time.time()))
    finally:
        engine.dispose()


@pytest.fixture
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


@pytest.fixture(autouse=True)
def by_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(market_world, "Api", StreamApi)
    monkeypatch.setattr(market_world, "list_api", list_by_minute)


async def stream_of(market: Market) -> str:
    """The one open stream at the seller."""

    async def known() -> str | None:
        rows = await market.seller.rows("SELECT id FROM stream_session WHERE state = 'open'")
        return str(rows[0][0]) if rows else None

    return str(await market_world.until("the stream is in the books", known))


class ByHand:
    """Somebody with a wallet who pays minutes at the gateway, each once."""

    def __init__(self, market: Market, stream: str) -> None:
        self.market, self.signer = market, Signer.random()
        self.url = f"{market.seller.sold_at}/v1/{SLUG}/.farebox/streams/{stream}"
        transfer(market.chain, Signer.from_hex(market.chain.keys[8]), self.signer.address, 10**6)

    async def sign(self) -> str:
        async with self.market.session.post(self.url) as unpaid:
            assert unpaid.status == 402, await unpaid.text()
            required = decode_required(unpaid.headers["PAYMENT-REQUIRED"])
        terms = choose(required, NETWORK, (EXACT,))
        until = int(time.time()) + 300
        payload, nonce = exact_payload(self.signer, terms, token_domain(NETWORK), until)
        return header(terms, payload, f"by-hand-{nonce.hex()}").decode()

    async def present(self, payment: str) -> tuple[int, Any]:
        headers = {"PAYMENT-SIGNATURE": payment}
        timeout = aiohttp.ClientTimeout(total=60)
        try:
            async with self.market.session.post(
                self.url, headers=headers, timeout=timeout
            ) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError):
            return 0, None


async def test_a_minute_that_was_paid_is_booked_once_whoever_is_killed(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        socket = await open_socket(market)
        await say(socket, "first")
        hand = ByHand(market, await stream_of(market))
        first, second = await hand.sign(), await hand.sign()
        status, told = await hand.present(first)
        assert status == 200
        # Killed with a minute on its way: it may be charged or not, but once.
        racing = asyncio.create_task(hand.present(second))
        await asyncio.sleep(0.1)
        await market.seller.kill_9()
        await racing
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        await market.seller.start()
        assert await hand.present(first) == (200, told)  # its answer, not a second charge
        late, _ = await hand.present(second)
        assert late in (200, 410, 402, 409), late
        await market.all_settled()
        await market.claim_all()
        exact = await market.seller.booked(Account.EXACT)
        assert exact == PRICE * (2 if late == 200 else 1)
        assert await market.seller.booked(Account.CHARGED) == PRICE
        assert await market.seller.number("SELECT SUM(amount_atoms) FROM call") == exact + PRICE
        await market.reconcile()


@pytest.mark.soak
async def test_nodes_pay_each_other_minute_by_minute_through_a_kill_of_the_buyer(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        socket = await open_socket(market)
        started = time.monotonic()
        while time.monotonic() - started < 2 * MINUTE + 20:
            await say(socket, "still there?")
            await asyncio.sleep(5)
        minutes = "SELECT COUNT(*) FROM call WHERE path LIKE '/.farebox/%' AND status = 200"
        assert await market.seller.number(minutes) == await market.buyer.number(minutes) == 2
        await market.buyer.kill_9()
        await market.buyer.start()
        await asyncio.sleep(MINUTE + 15)  # nobody pays for a stream that is gone
        assert await market.seller.number(minutes) == 2
        await market.all_settled()
        await market.claim_all()
        assert await market.seller.booked(Account.CHARGED) == 3 * PRICE
        assert await market.buyer.booked(Account.SPENT) == -3 * PRICE
        await market.reconcile()
