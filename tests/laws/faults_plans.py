"""Broken builds of plans: what is sold by the month."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

from pytest import MonkeyPatch
from sqlalchemy import true

from node.gateway import plans, serve, subscriptions
from node.plans import gate, orders, subscribers
from node.plans.gate import Held, SubscriberGate
from node.usage import quotas
from node.usage.quotas import Meter, Reservation
from tests.laws.faults import fault


@fault(
    1,
    "months that are ordered at once are each sold",
    "test_renewals_paid_at_once_buy_one_month",
)
def months_sold_twice(patch: MonkeyPatch) -> None:
    def order(subscriber: Any, kind: Any, plan: Any, stretch: Any, *rest: Any) -> Any:
        payment_id, at, _ = rest
        number = 2 + secrets.randbelow(2**30)
        return made(subscriber, kind, plan, stretch, payment_id, at, number)

    made = orders.order
    patch.setattr(subscriptions, "order", order)


@fault(
    1,
    "a quota is not held for calls that are under way",
    "test_calls_at_once_never_pass_a_quota_together",
)
def quota_not_held(patch: MonkeyPatch) -> None:
    async def claim(
        self: SubscriberGate, held: Held, now: int, meter: Meter = Meter.CALLS, amount: int = 1
    ) -> Reservation:
        reservation = await claimed(self, held, now, meter, amount)
        reservation.release()
        return reservation

    claimed = gate.SubscriberGate.claim
    patch.setattr(gate.SubscriberGate, "claim", claim)


@fault(
    1,
    "a payment is taken before anybody looks for a plan",
    "test_a_payment_beside_a_plan_that_serves_stays_unused",
)
def plan_not_first(patch: MonkeyPatch) -> None:
    serve_subscriber = serve.serve_subscriber

    async def unless_paid(desk: Any, gate: Any, call: Any, match: Any) -> None:
        if call.payment is not None:
            raise serve.PayInstead
        await serve_subscriber(desk, gate, call, match)

    patch.setattr(serve, "serve_subscriber", unless_paid)


@fault(
    1,
    "a stream of a plan goes on when the plan is over",
    "test_a_stream_of_a_plan_ends_with_what_is_paid_for_it",
)
def streams_outlive_plans(patch: MonkeyPatch) -> None:
    patch.setattr(gate.SubscriberGate, "serves", lambda *_: True)


@fault(
    2,
    "a period counts though its money has not arrived",
    "test_a_plan_gives_nothing_before_its_money_has_arrived",
)
def unpaid_periods_count(patch: MonkeyPatch) -> None:
    def ordered(row: Any, free: Any) -> subscribers.Ordered:
        order = read(row, free)
        return replace(order, period=replace(order.period, settled=True))

    read = subscribers._ordered
    patch.setattr(subscribers, "_ordered", ordered)


@fault(
    2,
    "what was paid before a crash is not looked for",
    "test_a_plan_paid_before_a_crash_is_good_after_it",
)
def pending_orders_forgotten(patch: MonkeyPatch) -> None:
    async def look(self: SubscriberGate) -> None:
        return None

    patch.setattr(gate.SubscriberGate, "look", look)


@fault(
    3,
    "a call that failed is taken from the quota",
    "test_a_failed_call_is_not_taken_from_the_quota",
)
def failed_calls_counted(patch: MonkeyPatch) -> None:
    patch.setattr(quotas.Reservation, "release", lambda self: None)


@fault(
    4,
    "a payment sent again finds no plan",
    "test_a_payment_sent_again_finds_its_answer_though_the_plan_has_changed",
)
def paid_plans_forgotten(patch: MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(plans.Counter, "bought", nothing)


@fault(
    4,
    "a free plan is given to whoever names an address",
    "test_a_free_plan_is_only_for_whoever_signs",
)
def signatures_believed(patch: MonkeyPatch) -> None:
    patch.setattr(plans, "signed_by", lambda *_: True)


@fault(
    4,
    "what was paid on a test network counts on the main one",
    "test_a_plan_paid_on_another_network_serves_nobody_here",
)
def any_network_counts(patch: MonkeyPatch) -> None:
    patch.setattr(subscribers, "of_shown_network", lambda *_: true())
