"""A real market: what the dashboard says was earned and spent is what the chain moved."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aiohttp

from finance.chain.rpc import Rpc
from finance.ledger import Account
from finance.selling.mirror import Mirror
from finance.wallet.signer import Signer
from node.db.journal import Journal
from tests.chain_fixtures import DevchainProcess
from tests.console_world import PASSWORD
from tests.recovery.market_world import PRICE, Errand, Market, open_market
from tests.recovery.node_home import NETWORK, NodeHome, until
from tests.treasury.market_console import cookie_of, database, program

BOUGHT = 9


async def all_time(home: NodeHome, side: str) -> dict[str, Any]:
    """What the node's JSON API says, and its breakdown, which must agree."""
    async with program(home) as api:
        async with api.get(f"/api/dashboard?side={side}") as answer:
            sums: dict[str, Any] = (await answer.json())["all_time"]
        async with api.get(f"/api/breakdown?side={side}") as answer:
            [row] = (await answer.json())["items"]
    assert row["sums"] == sums
    return sums


async def claimed_on_chain(market: Market) -> int:
    """The total of all channels' claims, asked of the contract."""
    rows = await market.seller.rows("SELECT channel_id FROM seller_channel")
    ids = [row.channel_id for row in rows]
    with database(market.seller) as engine:
        journal = Journal(engine)
        async with Rpc([market.chain.rpc_url], NETWORK.chain_id) as rpc:
            found = await Mirror(journal, rpc, NETWORK).read(ids)
        journal.close()
    return sum(found[each].total_claimed for each in ids)


async def refund_from_the_page(market: Market) -> None:
    """As the seller's operator does it: from the list, with the password, to its return."""
    session, before = cookie_of(market.seller), market.usdc(market.buyer)
    base = f"http://127.0.0.1:{market.seller.console_port}"
    cookies = {session["name"]: session["value"]}
    async with aiohttp.ClientSession(base, cookies=cookies) as browser:
        path = await _first(browser, "/finance/channels", r'href="([^"]+/0x[0-9a-f]+/refund)"')
        unspent = await market.seller.number(
            "SELECT balance_atoms - charged_atoms FROM seller_channel WHERE channel_id = :id",
            id=path.split("/")[-2],
        )
        assert await _first(browser, path, f"({unspent / 10**6:g}) USDC")
        form = {"csrf": await _first(browser, path, r'name="csrf" value="([^"]+)"')}
        async with browser.post(path, data={**form, "password": "wrong"}) as answer:
            assert answer.status == 422 and "field__error" in await answer.text()
        right = {**form, "password": PASSWORD}
        async with browser.post(path, data=right, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()

        async def returned() -> bool:
            return market.usdc(market.buyer) == before + unspent

        await until("the unspent money is back", returned)

        async def nothing_left() -> bool:
            async with browser.get("/finance/channels") as answer:
                return path not in await answer.text()

        await until("the list offers no second refund", nothing_left)


async def _first(browser: aiohttp.ClientSession, path: str, pattern: str) -> str:
    """The first place on a page that the pattern's group finds."""
    async with browser.get(path) as answer:
        return str(re.findall(pattern, await answer.text())[0])


async def test_spent_earned_both_ledgers_and_the_chain_are_one_figure(
    chain: DevchainProcess, tmp_path: Path
) -> None:
    async with open_market(chain, tmp_path) as market:
        await market.buy_many([Errand(f"errand {n}") for n in range(BOUGHT)], at_once=3)
        await market.all_settled()
        before = market.usdc(market.seller)
        await market.claim_all()
        spent = await all_time(market.buyer, "buyer")
        earned = await all_time(market.seller, "seller")
        charged = BOUGHT * PRICE
        assert (spent["calls"], spent["errors"], spent["amount_atoms"]) == (BOUGHT, 0, charged)
        assert earned["amount_atoms"] == charged
        assert -await market.buyer.booked(Account.SPENT) == charged
        assert await market.seller.booked(Account.CHARGED) == charged

        async def claim_booked() -> bool:
            return await market.seller.booked(Account.CLAIMED) == charged

        await until("the claim is booked from its event", claim_booked)
        assert await claimed_on_chain(market) == charged
        assert market.usdc(market.seller) - before == charged
        # A stranger's exact payment moves its money at once, past every channel.
        await market.buy_exact(Errand("stranger"), Signer.from_hex(chain.keys[3]))
        await market.all_settled()
        earned = await all_time(market.seller, "seller")
        assert earned["amount_atoms"] == charged + PRICE
        assert market.usdc(market.seller) - before == charged + PRICE
        await refund_from_the_page(market)
        await market.reconcile()
