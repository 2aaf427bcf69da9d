"""A closing whose end the chain refuses for a while; it moves the clock for its whole file."""

from __future__ import annotations

from tests.recovery.market_world import BUYER_ATOMS, PRICE, Errand, Market
from tests.recovery.node_home import until
from tests.recovery.seller_world import USDC, chain_now
from tests.treasury.market_console import program
from tests.treasury.test_closing import channels, close, market, until_step

__all__ = ["market"]  # fixtures


async def test_a_closing_that_cannot_be_finished_while_usdc_moves_for_nobody_is_finished_later(
    market: Market,
) -> None:
    await market.buy(Errand("an errand"))
    await market.seller.kill_9()
    async with program(market.buyer) as api:
        [channel] = await channels(api)
        assert await close(api, channel["channel_id"]) == 200
        waiting = await until_step(api, "waiting")
    await market.buyer.kill_9()
    wait = waiting["closing"]["finalize_after"] - chain_now(market.chain)
    market.chain.rpc("evm_increaseTime", wait + 1)
    market.chain.rpc("evm_mine")
    code = market.chain.rpc("eth_getCode", USDC, "latest")
    market.chain.rpc("anvil_setCode", USDC, "0x5f5ffd")  # reverts whatever it is asked
    lines = "SELECT COUNT(*) FROM event WHERE message LIKE 'Closing channel%waits: execution rev%'"

    async def told() -> bool:
        return await market.buyer.number(lines) == 1

    try:
        await market.buyer.start()
        async with program(market.buyer) as api:
            await until_step(api, "waiting")
            await until("it is told what it waits for", told, 20)
    finally:
        market.chain.rpc("anvil_setCode", USDC, code)
    async with program(market.buyer) as api:
        closed = await until_step(api, "closed", "failed")
    assert closed["closing"]["step"] == "closed", closed
    assert market.usdc(market.buyer) == BUYER_ATOMS - PRICE
