"""Plans of this node, customers in every state with names as strangers choose them, and what
they asked and paid."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlmodel import col

from catalog.models import Listing, ListingOrigin
from finance.models import OnchainPayment
from finance.networks import NETWORKS
from node.accounts.audit import SYSTEM
from node.db.engine import writer
from node.plans.clerk import Clerk
from node.plans.models import SubscriptionRequest
from node.plans.offered import add_plan, choices, retire_plan
from node.plans.orders import subscribe
from node.plans.requests import answer_support, grant, read_requests
from node.plans.subscribers import Offered
from node.plans.terms import first_stretch
from node.usage.metering import QuotaUsage
from node.usage.windows import window_of
from tests.console_world import Console

NETWORK = NETWORKS["devnet"]
DAY = 86_400


def fill_customers(console: Console, names: tuple[str, ...]) -> None:
    """Plans of every API that the console sells, customers of the first."""
    engine, now = console.engine, int(time.time())
    with engine.connect() as connection:
        own = select(col(Listing.id)).where(col(Listing.origin) == ListingOrigin.OWN)
        listing_id, *others = connection.execute(own.order_by(col(Listing.id))).scalars()
    for other in others:
        add_plan(engine, other, choices("Pro", "", 1, 1, 1, 1, "pay", 3), now, SYSTEM)
    plans = []
    for number, name in enumerate(names):
        quota = None if number % 2 else 100_000
        price = number * 12_500_000
        deal = (price, quota, 36_000, 600, "pay" if number % 2 else "stop", number)
        chosen = choices(name[:60], name * 3, *deal)
        plans.append(add_plan(engine, listing_id, chosen, now, SYSTEM))
    old = add_plan(engine, listing_id, choices("Old", "", 1, 1, 1, 1, "stop", 3), now, SYSTEM)
    retire_plan(engine, old.id, now, SYSTEM)
    starts = (now, now - 20 * DAY, now - 40 * DAY, now - 90 * DAY)
    with writer(engine).begin() as connection:
        for number, (plan, name, at) in enumerate(zip(plans, names, starts, strict=True)):
            _subscribed(connection, plan, f"{number}" * 20, name, at)
        connection.execute(insert(SubscriptionRequest), _requests(names, now))
    answered, granted, *_ = read_requests(engine, "0" * 20)
    answer_support(engine, answered.id, names[0], now, SYSTEM)
    grant(engine, granted.id, 10**9, now + DAY, names[1], now, SYSTEM)
    Clerk(engine).issue()


def _subscribed(
    connection: Connection, plan: Offered, subscription_id: str, name: str, at: int
) -> None:
    stretch, payer = first_stretch(plan.deal, at), "0x" + subscription_id[:1] * 40
    payment_id = None if plan.deal.free else f"pay-{subscription_id}"
    if payment_id is not None:
        connection.execute(insert(OnchainPayment).values(_payment(payment_id, payer, plan, at)))
    key_hash = subscription_id[:1] * 64
    writes = subscribe(
        subscription_id, plan, stretch, payer, key_hash, name[:200], "kim@example", payment_id, at
    )
    for write in writes:
        write.make(connection)
    used = {"subject": f"sub:{subscription_id}", "used": (stretch.calls or 10) * 9 // 10}
    row = {**used, "meter": "calls", "window_start": window_of(at).start}
    connection.execute(insert(QuotaUsage).values(row))


def _payment(payment_id: str, payer: str, plan: Offered, at: int) -> dict[str, Any]:
    price = first_stretch(plan.deal, at).price_atoms
    return {
        "id": payment_id,
        "kind": "exact",
        "state": "confirmed",
        "chain_id": NETWORK.chain_id,
        "token": NETWORK.usdc,
        "payer": payer,
        "nonce": "0x" + payment_id[-1] * 64,
        "pay_to": "0x" + "5e" * 20,
        "value_atoms": price,
        "charge_atoms": price,
        "valid_after": 0,
        "valid_before": at + 600,
        "signature": "0x",
        "fingerprint": "",
        "listing_id": plan.listing_id,
        "route": f"POST /.farebox/plans/{plan.id}",
        "tx_hash": "0x" + payment_id[-1] * 64,
        "created_at": at,
        "updated_at": at,
    }


def _requests(names: tuple[str, ...], now: int) -> list[dict[str, Any]]:
    asked = {"subscription_id": "0" * 20, "asked_at": now - 7_200, "state": "open"}
    more: dict[str, Any] = {
        "kind": "override",
        "meter": "calls",
        "cap": 10**9,
        "until": now + 5 * DAY,
    }
    none: dict[str, Any] = {"kind": "support", "meter": None, "cap": None, "until": None}
    kinds = (more, none, more, none)
    texts = zip(kinds, names, strict=True)
    return [{**asked, **kind, "text": name, "answer": ""} for kind, name in texts]
