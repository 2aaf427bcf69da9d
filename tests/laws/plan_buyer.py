"""A buyer's subscriptions before a seller that is not ours."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from node.accounts.audit import SYSTEM
from node.alerts.alerts import Alerts
from node.plans.buying.ordering import Agreed
from node.plans.buying.service import Subscriptions
from node.subscriptions import build_subscriptions
from node.usage.windows import window_of
from tests.http.proxy_world import NETWORK, BuyerNode, Running
from tests.laws.x402_seller import X402Seller

LISTING = "listing-api"
PRICE = 1_000
AGREED = Agreed(PRICE, PRICE)


def plan_seller(seller: X402Seller, end: int | None = None) -> None:
    """It offers one plan, and answers each order with the subscription to it, good until `end`:
    where none is given, that of the month."""
    month = window_of(int(time.time()))
    now = {"price_atoms": PRICE, "until": month.end}
    plan = {"id": "pro", "name": "Pro", "monthly_price_atoms": PRICE, "now": now}
    plan |= {"grace_days": 14}
    period = {"start": month.start, "end": end or month.end, "price_atoms": PRICE}
    state = "active" if end is None else "grace"
    held: dict[str, Any] = {"id": "s1", "plan": plan, "state": state, "period": period}
    seller.price = PRICE
    seller.plans = msgspec.json.encode({"plans": [plan]})
    seller.body = msgspec.json.encode({"subscription": held})


def subscriptions(buyer: BuyerNode, running: Running) -> Subscriptions:
    """Those of one life of the buyer's node."""
    alerts = Alerts(buyer.engine)
    return build_subscriptions(buyer.engine, buyer.keys, NETWORK, alerts, running.proxy)


async def bought(plans: Subscriptions) -> str:
    """The id of a subscription that was paid for."""
    made, outcome = await plans.subscribe(SYSTEM, LISTING, "pro", AGREED)
    assert outcome.state == "done", outcome
    return made
