"""Subscriptions in every state, and a seller of plans with names as strangers choose them."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import insert

from catalog.models import Listing, ListingOrigin
from finance.networks import NETWORKS
from finance.x402.values import PaymentRequired, Requirements
from finance.x402.wire import encode_required
from node.db.engine import writer
from node.plans.buying.models import (
    BoughtChange,
    BoughtOrder,
    BoughtRequest,
    BoughtState,
    BoughtSubscription,
)
from node.usage.windows import window_of
from tests.console_world import Console

NETWORK = NETWORKS["devnet"]
BELOW = "/sells-plans"
LISTING = "lst_plans"
DAY = 86_400


def plan_answer(method: str, path: str, names: tuple[str, ...]) -> tuple[int, bytes, bytes] | None:
    """(status, offer, body) of the seller of plans; None for other addresses."""
    if not path.startswith(BELOW):
        return None
    if method == "GET":
        plans = [_plan(number, name) for number, name in enumerate(names)]
        return 200, b"", json.dumps({"plans": plans}).encode()
    extra = {"name": NETWORK.usdc_name, "version": NETWORK.usdc_version}
    asked = Requirements(
        "exact", NETWORK.caip2, NETWORK.usdc, "1234567", "0x" + "5e" * 20, 60, extra
    )
    return 402, encode_required(PaymentRequired([asked], "pay")), b"{}"


def _plan(number: int, name: str) -> dict[str, Any]:
    month = window_of(int(time.time()))
    quotas = {"calls": 10**number * 100 if number % 2 else None, "stream_seconds": 36_000}
    return {
        "id": f"plan-{number}",
        "name": name[:200],
        "description": name * 3,
        "monthly_price_atoms": number * 1_500_000,
        "per_minute": 600,
        "beyond": "pay" if number % 2 else "stop",
        "grace_days": number,
        "now": {"price_atoms": number * 700_001, "until": month.end, **quotas},
        **quotas,
    }


def fill_plans(console: Console, seller_url: str, names: tuple[str, ...]) -> None:
    """What this node holds, held and failed to get of that seller's plans."""
    now, base = int(time.time()), seller_url + BELOW
    listing = Listing(id=LISTING, slug="sells-plans", name="A seller of plans", base_url=base)
    listing.origin = ListingOrigin.REMOTE
    states = list(BoughtState)
    sealed = console.parts.controls.accounts.seal(b"fbs_nobody")
    rows = [
        _subscription(number, state, base, names, sealed, now)
        for number, state in enumerate(states)
    ]
    with writer(console.engine).begin() as connection:
        connection.execute(insert(Listing), listing.model_dump())
        connection.execute(insert(BoughtSubscription), [row.model_dump() for row in rows])
        for row in rows:
            connection.execute(insert(BoughtOrder), _orders(row, names, now))
            connection.execute(insert(BoughtRequest), _requests(row, names, now))
            connection.execute(insert(BoughtChange), _changes(row, names, now))


def _subscription(
    number: int, state: BoughtState, base: str, names: tuple[str, ...], sealed: str, now: int
) -> BoughtSubscription:
    month, name = window_of(now), names[number % len(names)]
    begun = state is BoughtState.GRACE
    held = {key: value for key, value in _plan(1, name).items() if key != "now"}
    return BoughtSubscription(
        id=f"sub-{number}",
        listing_id=LISTING if state is BoughtState.ACTIVE else f"lst-gone-{number}",
        open_for=LISTING if state is BoughtState.ACTIVE else None,
        base_url=base,
        seller_id=f"seller-{number}",
        state=state.value,
        plan=json.dumps(held | {"grace_days": 31}),
        next_plan=json.dumps(_plan(2, names[0])) if state is BoughtState.ACTIVE else "",
        secret_sealed=sealed,
        agreed_atoms=1,
        paid_until=month.start if begun else month.end,
        period_start=month.start,
        period_end=month.end,
        period_calls=1_000,
        used_calls=(800, 1_000, 3)[number % 3],
        period_stream_seconds=3_600,
        used_stream_seconds=1_800,
        resets_at=month.end,
        next_at=month.end,
        next_price_atoms=9_999_999,
        synced_at=now - 60,
        sync_failed=f"The seller says {name}" if number % 2 else "",
        created_at=now - number * DAY,
        created_by=name[:40],
        ended_at=0,
        version=1,
    )


def _orders(row: BoughtSubscription, names: tuple[str, ...], now: int) -> list[dict[str, Any]]:
    states = ("done", "failed", "open")
    return [
        BoughtOrder(
            id=f"{row.id}-order-{number}",
            subscription_id=row.id,
            slot=f"slot-{number}",
            kind=("subscribe", "renewal", "upgrade")[number],
            plan_id="plan-1",
            path="/x",
            body="{}",
            state=state,
            most_atoms=1_500_000,
            charged_atoms=1_500_000 if state == "done" else 0,
            tx_hash="0x" + "ab" * 32 if state == "done" else "",
            error="" if state == "done" else "seller_failed",
            detail="" if state == "done" else f"The seller says {names[number]}",
            next_try_at=now + 600 if state == "open" else 0,
            created_at=now - number,
        ).model_dump()
        for number, state in enumerate(states)
    ]


def _requests(row: BoughtSubscription, names: tuple[str, ...], now: int) -> list[dict[str, Any]]:
    return [
        BoughtRequest(
            id=f"{row.id}-request-{number}",
            subscription_id=row.id,
            seller_id=str(number) if number else "",
            kind="override" if number % 2 else "support",
            meter="calls" if number % 2 else "",
            cap=None if number == 1 else 5_000,
            until=now + DAY,
            text=name * 3,
            state=("open", "granted", "answered", "refused")[number],
            answer=name if number else "",
            asked_at=now - number * 60,
            asked_by=name[:40],
            answered_at=now if number else 0,
        ).model_dump()
        for number, name in enumerate(names)
    ]


def _changes(row: BoughtSubscription, names: tuple[str, ...], now: int) -> list[dict[str, Any]]:
    return [
        BoughtChange(
            subscription_id=row.id, at=now, kind="subscribed", text=f"Got {name}.", by=name[:40]
        ).model_dump(exclude={"id"})
        for name in names
    ]
