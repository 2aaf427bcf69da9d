"""Money in a channel comes back: from the seller, or through the contract when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest_asyncio

from finance.x402.abi import calldata
from finance.x402.text import to_hex
from tests.chain_fixtures import DevchainProcess
from tests.console_world import PASSWORD
from tests.recovery.market_world import BUYER_ATOMS, PRICE, Errand, Market, open_market
from tests.recovery.node_home import until
from tests.recovery.seller_world import chain_now
from tests.treasury.market_console import program


@pytest_asyncio.fixture
async def market(chain: DevchainProcess, tmp_path: Path) -> AsyncIterator[Market]:
    async with open_market(chain, tmp_path) as market:
        yield market


async def channels(api: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with api.get("/api/finance/channels/buying") as answer:
        found = await answer.json()
        return list(found["items"])


async def close(api: aiohttp.ClientSession, channel: str, password: str = PASSWORD) -> int:
    path = f"/api/finance/channels/buying/{channel}/close"
    async with api.post(path, json={"password": password}) as answer:
        await answer.read()
        return answer.status


async def until_step(api: aiohttp.ClientSession, *steps: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        [channel, *_] = await channels(api)
        closing = channel["closing"]
        return channel if closing and closing["step"] in steps else None

    found = await until(f"a closing is {steps}", there)
    assert isinstance(found, dict)
    return found


async def test_a_seller_gives_back_what_is_unspent(market: Market) -> None:
    for number in range(3):
        await market.buy(Errand(f"errand {number}"))
    async with program(market.buyer) as api:
        [channel] = await channels(api)
        assert channel["state"] == "open" and channel["unspent_atoms"] > 0
        assert await close(api, channel["channel_id"], "wrong") == 403
        assert await close(api, channel["channel_id"]) == 200
        closed = await until_step(api, "closed")
        assert closed["state"] == "closed" and closed["unspent_atoms"] == 0
        assert await close(api, channel["channel_id"]) == 409
    assert market.usdc(market.buyer) == BUYER_ATOMS - 3 * PRICE
    leaves = "SELECT COUNT(*) FROM chain_tx WHERE purpose LIKE 'channel%'"
    assert await market.buyer.number(leaves) == 0  # the seller paid the gas
    # The next call opens another channel.
    await market.buy(Errand("one more"))
    await market.all_settled()
    await market.claim_all()
    await market.reconcile()


async def test_an_endpoint_that_lags_behind_ends_no_closing(market: Market) -> None:
    """Of endpoints that answer in turns one does not know the announcement yet, and a reorg
    takes it out for a while: that is not a withdrawal that is finished."""
    await market.buy(Errand("an errand"))
    await market.seller.kill_9()
    selector = to_hex(calldata("pendingWithdrawals", ("bytes32",), bytes(32)))[:10]

    def none_pending(call: dict[str, Any], answer: Any) -> Any:
        asked = call["params"][0]["data"].startswith(selector)
        return "0x" + "00" * 64 if asked else answer

    async with program(market.buyer) as api:
        [channel] = await channels(api)
        assert await close(api, channel["channel_id"]) == 200
        await until_step(api, "waiting")
        market.buyer.relay.answers["eth_call"] = none_pending
        await asyncio.sleep(3)
        [channel] = await channels(api)
    assert (channel["state"], channel["closing"]["step"]) == ("refunding", "waiting")


async def test_what_a_closing_waits_for_is_told(market: Market) -> None:
    """Who only buys needs no ETH, but for leaving a seller that is gone."""
    await market.buy(Errand("an errand"))
    await market.seller.kill_9()
    market.chain.rpc("anvil_setBalance", market.buyer.address, "0x0")
    lines = "SELECT COUNT(*) FROM event WHERE message LIKE '%insufficient funds%'"

    async def told() -> bool:
        return await market.buyer.number(lines) == 1

    async with program(market.buyer) as api:
        [channel] = await channels(api)
        assert await close(api, channel["channel_id"]) == 200
        await until("it is told what is missing", told, 20)
        await asyncio.sleep(3)
        assert await told(), "not at every try"
        market.chain.rpc("anvil_setBalance", market.buyer.address, hex(10**18))
        await until_step(api, "waiting")


async def test_a_seller_that_is_gone_keeps_nothing_but_what_it_is_owed(market: Market) -> None:
    """The money leaves through the contract, over a restart, and nothing is signed meanwhile,
    least of all for a call that may have been charged."""
    for number in range(3):
        await market.buy(Errand(f"errand {number}"))
    left_open = Errand("left open")
    market.api.delay_seconds = 60
    asked = asyncio.create_task(market.ask(left_open))
    async with asyncio.timeout(10):
        while not market.api.served[left_open.name]:
            await asyncio.sleep(0.05)
    await market.seller.kill_9()
    assert await asked >= 500
    market.api.delay_seconds = 0
    async with program(market.buyer) as api:
        [channel] = await channels(api)
        assert await close(api, channel["channel_id"]) == 200
        waiting = await until_step(api, "waiting")
    assert waiting["state"] == "refunding" and waiting["closing"]["finalize_after"] > 0
    await market.buyer.kill_9()
    await market.buyer.start()
    async with program(market.buyer) as api:
        assert (await until_step(api, "waiting"))["state"] == "refunding"
        signed = "SELECT signed_atoms FROM buyer_channel"
        before = await market.buyer.number(signed)
        assert await market.ask(Errand("while it is closed")) != 200
        assert await market.ask(left_open) == 502
        assert any(each.startswith("502 charge_unknown") for each in left_open.tries)
        assert await market.buyer.number(signed) == before
    wait = waiting["closing"]["finalize_after"] - chain_now(market.chain)
    assert wait > 0
    market.chain.rpc("evm_increaseTime", wait + 1)
    market.chain.rpc("evm_mine")
    await market.buyer.kill_9()  # it would look again within a minute
    await market.buyer.start()
    async with program(market.buyer) as api:
        closed = await until_step(api, "closed", "failed")
    assert closed["closing"]["step"] == "closed", closed
    assert closed["unspent_atoms"] == 0 and closed["balance_atoms"] == 3 * PRICE
    assert market.usdc(market.buyer) == BUYER_ATOMS - 3 * PRICE
    purposes = "SELECT COUNT(*) FROM chain_tx WHERE purpose = 'channel_leave'"
    assert await market.buyer.number(purposes) == 1
    # What the seller is owed waits for it in the channel.
    await market.seller.start()
    await market.claim_all()
    assert market.usdc(market.seller) == 3 * PRICE
    # Of what is taken out nothing can be charged any more: that call may be paid for anew.
    never = "SELECT COUNT(*) FROM purchase WHERE state = 'failed' AND error = 'not_charged'"
    assert await market.buyer.number(never) == 1
    # And is; only that this chain is ahead of our clocks now, for which a new deposit is too late.
    assert await market.ask(left_open) == 402
    assert any("authorization_valid_before" in each for each in left_open.tries)
    await market.reconcile()
