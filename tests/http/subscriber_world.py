"""Two nodes and a real chain: one sells plans at its gateway, the other subscribes through its
proxy. Months pass by moving what is written back in time, and the buyer's clock forward."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from finance.buying.limits import DEFAULT_LIMITS
from finance.models import Purchase
from node.accounts.audit import SYSTEM
from node.alerts.alerts import Alerts
from node.alerts.models import Notification
from node.db.engine import writer
from node.plans.buying.models import BoughtOrder, BoughtSubscription
from node.plans.buying.ordering import Agreed
from node.plans.buying.orders import Outcome
from node.plans.buying.read import SubscriptionView
from node.plans.buying.service import Subscriptions
from node.plans.buying.upkeep import Upkeep
from node.plans.models import Invoice
from node.plans.subscribers import Offered
from node.subscriptions import build_subscriptions
from tests.http.plans_world import Seller
from tests.http.proxy_world import NETWORK, BuyerNode, Running
from tests.recovery.seller_world import usdc_of

LISTING = "listing-api"
DAY = 86_400
MUCH = 1_000_000_000


@dataclass
class Clock:
    """Time as the buyer's subscriptions see it."""

    ahead: int = 0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass
class Subscriber:
    """The buyer's node while it runs."""

    node: BuyerNode
    seller: Seller
    running: Running
    all: Subscriptions
    upkeep: Upkeep
    clock: Clock = field(default_factory=Clock)

    async def subscribe(self, plan: Offered, **agreed: Any) -> tuple[str, Outcome]:
        """As somebody does who agrees to what the page shows."""
        offer = await self.all.offers.ask(LISTING)
        now = offer.plan(plan.id).now
        assert now is not None
        given = {"now_atoms": now.price_atoms, "month_atoms": plan.deal.price_atoms} | agreed
        return await self.all.subscribe(SYSTEM, LISTING, plan.id, Agreed(**given))

    async def subscribed(self, plan: Offered, **agreed: Any) -> str:
        subscription_id, outcome = await self.subscribe(plan, **agreed)
        assert outcome.state == "done", outcome
        return subscription_id

    async def view(self, subscription_id: str) -> SubscriptionView:
        return await self.all.read(subscription_id)

    async def call(self, path: str = "echo", **options: Any) -> httpx.Response:
        return await self.running.call(f"api/{path}", **options)

    @property
    def usdc(self) -> int:
        return usdc_of(self.seller.world.chain, self.node.keys.wallet.address)

    @property
    def orders(self) -> list[BoughtOrder]:
        return list(self.node.rows(BoughtOrder))

    @property
    def held(self) -> list[BoughtSubscription]:
        return list(self.node.rows(BoughtSubscription))

    @property
    def paid(self) -> list[int]:
        """What was charged for plans."""
        return [row.charged_atoms for row in self.node.purchases if row.scheme == "exact"]

    @property
    def bills(self) -> list[Invoice]:
        """Invoices that were taken over, as they came."""
        return sorted(self.node.rows(Invoice), key=lambda row: row.id or 0)

    def purchases(self) -> list[Purchase]:
        return [row for row in self.node.purchases if row.scheme == "exact"]

    def incidents(self) -> dict[str, str]:
        """Rules of the open ones, with their messages."""
        rows = self.node.rows(Notification)
        return {row.rule: row.message for row in rows if row.resolved_at is None}

    def write(self, sql: str, **params: Any) -> None:
        with writer(self.node.engine).begin() as connection:
            connection.execute(text(sql), params)

    async def month_passes(self) -> None:
        """What is paid ended when the present month began, on both sides."""
        begun = _month_start()
        with self.seller.world.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE subscription_period SET starts_at = starts_at - :back, ends_at = :end"
                ),
                {"back": 31 * DAY, "end": begun},
            )
        gate = self.seller.gate
        await gate.refresh([row[0] for row in self.seller.rows("SELECT id FROM subscription")])
        self.write(
            "UPDATE bought_subscription SET paid_until = :end, period_end = :end,"
            " period_start = period_start - :back",
            end=begun,
            back=31 * DAY,
        )
        self.write("UPDATE bought_order SET created_at = created_at - :back", back=31 * DAY)
        await self.running.proxy.plans.reload()


def _month_start() -> int:
    from node.usage.windows import window_of

    return window_of(int(time.time())).start


def make_buyer(folder: Path, seller: Seller) -> BuyerNode:
    """Its listing is the seller's, its limits allow plans."""
    node = BuyerNode(folder, seller.world.chain)
    node.list("api", f"{seller.url}/v1/api")
    for scope in DEFAULT_LIMITS:
        node.limit(scope, MUCH)
    return node


@contextlib.asynccontextmanager
async def open_subscriber(
    node: BuyerNode, seller: Seller, clock: Clock | None = None
) -> AsyncIterator[Subscriber]:
    """One life of the buyer's proxy and its subscriptions."""
    clock = clock or Clock()
    async with node.running() as running:
        alerts = Alerts(node.engine, clock)
        made = build_subscriptions(node.engine, node.keys, NETWORK, alerts, running.proxy, clock)
        yield Subscriber(node, seller, running, made, Upkeep(made), clock)
