"""A seller's gateway with plans over a real chain, and customers who subscribe."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import insert

from catalog.models import Listing
from finance.x402.digest import sign_digest
from finance.x402.values import ExactPayment, PaymentRequired
from finance.x402.wire import decode_required, encode_payment
from node.accounts.audit import SYSTEM
from node.plans.clerk import Clerk
from node.plans.free import free_message, message_digest
from node.plans.gate import SubscriberGate
from node.plans.offered import add_plan, choices
from node.plans.settlement import TellingSettlement
from node.plans.subscribers import Offered
from node.usage.quotas import Quotas
from node.usage.streams import Streams
from tests.http.conftest import Market, open_market
from tests.recovery.seller_world import DELAY, Payer, World

LISTING = "id-api"
ECHO = "/v1/api/echo"
BELOW = "/v1/api/.farebox"


@dataclass
class Customer:
    """A payer with the secret it made."""

    payer: Payer
    secret: str
    id: str = ""

    @property
    def key_hash(self) -> str:
        return hashlib.sha256(self.secret.encode()).hexdigest()

    @property
    def headers(self) -> dict[str, str]:
        return {"Farebox-Key": self.secret}


@dataclass
class Seller:
    """The pieces of one test."""

    world: World
    market: Market
    gate: SubscriberGate

    @property
    def url(self) -> str:
        return self.market.url

    def plan(self, name: str = "Pro", price: int = 3_000_000, **terms: Any) -> Offered:
        """A plan of the listing."""
        given = {
            "calls": 1_000,
            "stream_seconds": None,
            "per_minute": None,
            "beyond": "stop",
            "grace_days": 3,
        } | terms
        chosen = choices(name, "", price, **given)
        return add_plan(self.world.engine, LISTING, chosen, int(time.time()), SYSTEM)

    def customer(self, atoms: int = 100_000_000) -> Customer:
        return Customer(Payer(self.world.chain, atoms), secrets.token_urlsafe(24))

    def exact(self, customer: Customer, required: PaymentRequired) -> ExactPayment:
        return self.world.exact(customer.payer, required.accepts[0].amount_atoms)

    async def offer(self, path: str, **options: Any) -> PaymentRequired:
        answer = await self.market.client.post(self.url + path, **options)
        assert answer.status_code == 402, (answer.status_code, answer.text)
        return decode_required(answer.headers["payment-required"])

    async def pay(
        self, path: str, customer: Customer, body: Any = None, payment: str | None = None
    ) -> httpx.Response:
        """Order at its price; `payment` is one that was made before."""
        payment = payment or await self.payment(path, customer)
        headers = customer.headers | {"PAYMENT-SIGNATURE": payment}
        return await self.market.client.post(self.url + path, headers=headers, json=body or {})

    async def payment(self, path: str, customer: Customer) -> str:
        """The header that pays what is asked."""
        required = await self.offer(path, headers=customer.headers)
        assert [each.scheme for each in required.accepts] == ["exact"]
        signed = self.exact(customer, required)
        return encode_payment(required.accepts[0], signed, required.resource).decode()

    async def subscribe(self, plan: Offered, customer: Customer | None = None) -> Customer:
        customer = customer or self.customer()
        path, body = f"{BELOW}/plans/{plan.id}", {"key_hash": customer.key_hash, "name": "Kim"}
        if plan.deal.free:
            answer = await self.take_free(plan, customer)
        else:
            answer = await self.pay(path, customer, body)
        assert answer.status_code == 200, answer.text
        customer.id = answer.json()["subscription"]["id"]
        return customer

    async def take_free(self, plan: Offered, customer: Customer) -> httpx.Response:
        path = f"{BELOW}/plans/{plan.id}"
        message = free_message(customer.key_hash, self.url + path, customer.payer.hex)
        signature = "0x" + sign_digest(customer.payer.key, message_digest(message)).hex()
        signed = {"payer": customer.payer.hex, "signature": signature}
        body = {"key_hash": customer.key_hash, **signed}
        return await self.market.client.post(self.url + path, json=body)

    async def look(self, customer: Customer) -> dict[str, Any]:
        answer = await self.ask("GET", customer)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def ask(
        self, method: str, customer: Customer, below: str = "", body: Any = None
    ) -> httpx.Response:
        url = f"{self.url}{BELOW}/subscriptions/{customer.id}{below}"
        options = {} if body is None else {"json": body}
        return await self.market.client.request(method, url, headers=customer.headers, **options)

    async def call(self, customer: Customer, path: str = ECHO, **headers: str) -> httpx.Response:
        given = customer.headers | headers
        return await self.market.client.get(self.url + path, headers=given)

    def rows(self, sql: str, **params: Any) -> list[Any]:
        return self.market.rows(sql, **params)


@contextlib.asynccontextmanager
async def open_seller(world: World, **changes: Any) -> AsyncIterator[Seller]:
    """The gateway of `world`'s node, selling one listing with plans; `changes` are parts."""
    quotas = Quotas(world.engine)
    gate = SubscriberGate(world.store, quotas, Clerk(world.engine).issue)
    streams = Streams(world.store, quotas=quotas, tick_seconds=0.5, flush_seconds=0.05)
    await streams.start()
    settlement = TellingSettlement(world.settlement, gate.settled)
    parts: dict[str, Any] = {
        "channels": world.channels,
        "checks": world.checks,
        "settlement": settlement,
        "refunds": world.refunds,
        "withdraw_delay_seconds": DELAY,
        "max_timeout_seconds": 20,
        "gateway": {"subscribers": gate, "streams": streams},
    } | changes
    pay_to, authorizer = world.wallet.address_bytes, world.receiver.address_bytes
    async with open_market(world.store, pay_to, authorizer, **parts) as market:
        market.owing = "settlement" in changes
        listing = market.sell()
        put_listing(world, listing)
        yield Seller(world, market, gate)
    await streams.stop()


def put_listing(world: World, listing: Listing) -> None:
    """Into the database, for who looks there."""
    row = {name: getattr(listing, name) for name in Listing.model_fields}
    with world.engine.begin() as connection:
        connection.execute(insert(Listing).values(row).prefix_with("OR IGNORE"))
