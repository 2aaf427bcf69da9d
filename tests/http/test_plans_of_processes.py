"""Plans sold and served by several processes on one PostgreSQL; their chain is down."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import insert

from catalog.models import Listing
from finance.chain.rpc import Rpc
from finance.selling.channels import SellerChannels
from finance.selling.checks import ChainChecks
from finance.selling.mirror import Mirror
from finance.x402.digest import address_of, sign_digest
from finance.x402.text import to_hex
from node.accounts.audit import SYSTEM
from node.db.engine import open_engine
from node.db.journal import Journal
from node.db.locks import locks_of
from node.db.migrations import upgrade
from node.plans.free import free_message, message_digest
from node.plans.gate import SubscriberGate
from node.plans.offered import add_plan, choices
from node.usage.leases import open_leases
from node.usage.quotas import Quotas
from tests.http.conftest import AUTHORIZER, CHAIN_ID, NETWORK, SELLER, Market, NoMoney, open_market
from tests.http.plans_world import BELOW, ECHO, LISTING

SECRET = "a-customer's-own-secret"


async def test_a_plan_is_served_at_once_by_the_process_that_did_not_sell_it(
    postgres_url: str,
) -> None:
    """Its buyer would hold the key for a bad one, and pay for what it has a plan for."""
    engine = open_engine(postgres_url)
    upgrade(engine)
    row = Listing(id=LISTING, slug="api", name="The api", base_url="http://127.0.0.1:9")
    with engine.begin() as connection:
        connection.execute(insert(Listing), row.model_dump())
    chosen = choices("Free", "", 0, 1_000, None, None, "pay", 0)
    plan = add_plan(engine, LISTING, chosen, int(time.time()), SYSTEM)
    engine.dispose()
    async with _process(postgres_url) as one, _process(postgres_url) as other:
        taken = await _subscribe(one, plan.id)
        headers = {"Farebox-Key": SECRET}
        served = await other.client.get(other.url + ECHO, headers=headers)
        assert served.status_code == 200
        assert (await one.client.get(one.url + ECHO, headers=headers)).status_code == 200
        address = f"{other.url}{BELOW}/subscriptions/{taken}"
        assert (await other.client.get(address, headers=headers)).status_code == 200
        for each in (one, other):  # one call was served by each
            shown = await each.client.get(
                f"{each.url}{BELOW}/subscriptions/{taken}", headers=headers
            )
            assert shown.json()["used"]["calls"] == 2
        stranger = {"Farebox-Key": "another"}
        assert (await other.client.get(other.url + ECHO, headers=stranger)).status_code == 401


async def _subscribe(market: Market, plan_id: str) -> str:
    """A free plan, which takes no chain; its id."""
    url = f"{market.url}{BELOW}/plans/{plan_id}"
    key_hash, payer = hashlib.sha256(SECRET.encode()).hexdigest(), to_hex(address_of(SELLER))
    signed = sign_digest(SELLER, message_digest(free_message(key_hash, url, payer)))
    body = {"key_hash": key_hash, "payer": payer, "signature": to_hex(signed)}
    answer = await market.client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["subscription"]["id"])


@asynccontextmanager
async def _process(url: str) -> AsyncIterator[Market]:
    """One gateway; nothing in memory is shared with another."""
    engine = open_engine(url)
    journal, rpc = Journal(engine), Rpc(["http://127.0.0.1:9"], CHAIN_ID)
    money = NoMoney()
    parts = {
        "channels": SellerChannels(journal, Mirror(journal, rpc, NETWORK), locks_of(engine)),
        "checks": ChainChecks(rpc),
        "settlement": money,
        "refunds": money,
        "gateway": {"subscribers": SubscriberGate(journal, Quotas(engine, open_leases(engine)))},
    }
    async with open_market(journal, address_of(SELLER), address_of(AUTHORIZER), **parts) as market:
        market.sell()
        yield market
    journal.close()
    engine.dispose()
