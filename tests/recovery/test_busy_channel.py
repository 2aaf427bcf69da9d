"""A channel that somebody else uses at this moment: another process of the same buyer, say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from finance.buying.channels import channel_of_row
from finance.buying.models import SpendLimit
from finance.buying.signing import header, voucher_payload
from finance.ledger import Account
from finance.x402.values import BATCH_SETTLEMENT_SCHEME
from finance.x402.vouchers import sign_voucher
from finance.x402.wire import PAYMENT_SIGNATURE
from node.db.engine import open_engine, writer
from tests.chain_fixtures import DevchainProcess
from tests.recovery.market_world import PRICE, Errand, Market, open_market
from tests.recovery.node_home import NETWORK

DEPOSIT = 100 * PRICE


@pytest.fixture(scope="module")
def chain() -> Iterator[DevchainProcess]:
    with DevchainProcess(block_seconds=0.5) as process:
        yield process


async def test_a_call_goes_through_another_channel_while_the_first_is_in_use_elsewhere(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        await market.buy(Errand("first"))
        async with in_use(market, seconds=1.5):
            await market.buy(Errand("second"))
            assert await market.seller.number("SELECT COUNT(*) FROM seller_channel") == 2
        await check(market, ["first", "elsewhere", "second"])


async def test_a_call_waits_for_the_channel_where_the_limits_allow_no_other(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        await limit_day(market, DEPOSIT + PRICE // 2)
        await market.buy(Errand("first"))
        async with in_use(market, seconds=0.6):
            await market.buy(Errand("second"))
        assert await market.seller.number("SELECT COUNT(*) FROM seller_channel") == 1
        await check(market, ["first", "elsewhere", "second"])


async def limit_day(market: Market, atoms: int) -> None:
    await market.buyer.stop()
    engine = open_engine(f"sqlite:///{market.buyer.data_dir / 'farebox.db'}")
    row = {"scope": "day", "subject": "*", "limit_atoms": atoms}
    with writer(engine).begin() as connection:
        connection.execute(SpendLimit.__table__.insert(), row)  # type: ignore[attr-defined]
    engine.dispose()
    await market.buyer.start()


@asynccontextmanager
async def in_use(market: Market, seconds: float) -> AsyncIterator[None]:
    """The buyer's only channel pays for another process's call, which the API makes last."""
    terms = await market.terms(Errand("elsewhere"), BATCH_SETTLEMENT_SCHEME)
    [row] = await market.buyer.rows("SELECT * FROM buyer_channel")
    channel = channel_of_row(row)
    due = row.charged_atoms + PRICE
    key = market.buyer.keys.voucher.private
    signature = sign_voucher(key, channel.id, due, NETWORK.chain_id)
    payload = voucher_payload(channel.head, due, signature)
    headers = {PAYMENT_SIGNATURE: header(terms, payload, "elsewhere-0123456789").decode()}
    market.api.delay_seconds = seconds
    url = market._at_gateway(Errand("elsewhere"))
    task = asyncio.create_task(_status(market, url, headers))
    while not market.api.served["elsewhere"]:
        await asyncio.sleep(0.01)
    market.api.delay_seconds = 0.0
    yield
    assert await task == 200


async def _status(market: Market, url: str, headers: dict[str, str]) -> int:
    async with market.session.get(url, headers=headers) as answer:
        await answer.read()
        return answer.status


async def check(market: Market, served: list[str]) -> None:
    """Each call was made once and charged once; the buyer's books catch up with the seller's."""
    assert market.api.served == dict.fromkeys(served, 1)
    charged = "SELECT SUM(charged_atoms) FROM seller_channel"
    assert await market.seller.number(charged) == len(served) * PRICE
    more = [Errand(f"later-{number}") for number in range(4)]
    await market.buy_many(more, at_once=2)
    total = (len(served) + len(more)) * PRICE
    assert await market.seller.number(charged) == total
    assert await market.buyer.booked(Account.SPENT) == -total
