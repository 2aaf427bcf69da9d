"""How a subscription stands at every edge of its time."""

from __future__ import annotations

import json
from calendar import timegm
from typing import Any

import pytest

from node.durations import DAY
from node.plans.buying.errors import SellerSaysNo
from node.plans.buying.models import BoughtState
from node.plans.buying.ports import Told
from node.plans.buying.rows import standing_values
from node.plans.buying.shapes import Due, Period, Plan, Subscription, read_subscription
from node.plans.buying.states import Standing, renewed_month

END = timegm((2028, 3, 1, 0, 1, 0))  # of a February with 29 days


def standing(state: BoughtState = BoughtState.ACTIVE, **changes: object) -> Standing:
    return Standing(
        **{"state": state, "paid_until": END, "grace_days": 3, "renews": True} | changes
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (END - 1, "active"),  # 00:00:59 on the 1st still belongs to what is paid
        (END, "grace"),
        (END + 3 * DAY - 1, "grace"),
        (END + 3 * DAY, "lapsed"),
    ],
)
def test_what_is_not_renewed_goes_through_grace_to_its_lapse(now: int, state: str) -> None:
    assert standing().at(now) == state
    assert standing().served(now) == (state != "lapsed")


def test_what_is_cancelled_ends_without_grace() -> None:
    cancelled = standing(BoughtState.CANCELLED)
    assert cancelled.served(END - 1)
    assert cancelled.at(END) is BoughtState.ENDED


def test_without_days_of_grace_it_lapses_at_once() -> None:
    assert standing(grace_days=0).at(END) is BoughtState.LAPSED


def test_a_free_plan_goes_on_by_itself_and_is_never_renewed() -> None:
    free = standing(free=True)
    assert free.at(END + 400 * DAY) is BoughtState.ACTIVE
    assert not free.renewable(END) and not free.to_announce(END, 0)


@pytest.mark.parametrize(
    ("now", "renewable"),
    [
        (END - DAY - 1, False),
        (END - DAY, True),
        (END + 3 * DAY - 1, True),
        (END + 3 * DAY, False),
    ],
)
def test_a_renewal_is_due_from_the_last_day_to_the_end_of_its_grace(
    now: int, renewable: bool
) -> None:
    assert standing().renewable(now) == renewable
    assert not standing(renews=False).renewable(now)
    assert not standing(BoughtState.CANCELLED).renewable(now)


def test_a_renewal_is_announced_once_three_days_before() -> None:
    assert not standing().to_announce(END - 3 * DAY - 1, 0)
    assert standing().to_announce(END - 3 * DAY, 0)
    assert not standing().to_announce(END - 3 * DAY, END)
    assert not standing(renews=False).to_announce(END - DAY, 0)


def test_a_renewal_buys_the_next_month_and_a_late_one_the_present() -> None:
    february = timegm((2028, 2, 1, 0, 1, 0))
    assert renewed_month(END, END - DAY) == END
    assert renewed_month(february, END - DAY) == february
    assert renewed_month(END, END + 40 * DAY) == timegm((2028, 4, 1, 0, 1, 0))


def told(state: str, following: Due | None) -> Subscription:
    plan = Plan("pro", "Pro", monthly_price_atoms=5)
    return Subscription("s", plan, state, Period(END - 29 * DAY, END), next=following)


def test_a_month_that_is_paid_ahead_counts_also_after_it_was_cancelled() -> None:
    ahead = END + 31 * DAY
    assert standing_values(told("active", Due(ahead, 5)), END, END)["paid_until"] == ahead
    assert standing_values(told("cancelled", None), ahead, END)["paid_until"] == ahead
    assert standing_values(told("lapsed", None), ahead, END)["paid_until"] == END


def body(**changes: Any) -> bytes:
    plan = {"id": "p", "name": "P"} | changes.pop("plan", {})
    told = {"id": "s", "state": "active", "plan": plan, "period": {"start": 1, "end": 2}}
    return json.dumps(told | changes).encode()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"[]",
        b'{"x":' + b"[" * 200_000,
        b'{"subscription": {}}',
        body(plan={"monthly_price_atoms": -1}),
        body(plan={"monthly_price_atoms": 2**63}),
        body(plan={"calls": 2**63}),
        body(plan={"id": "../p"}),
        body(plan={"id": "p\n"}),
        body(plan={"name": "a\0b"}),
        body(plan={"name": "a\nb"}),
        body(plan={"name": "a\u202eb"}),
        body(plan={"name": "a\ud800"}),
        body(plan={"name": "a" * 201}),
        body(plan={"description": "a\0"}),
        body(plan={"grace_days": 10**9}),
        body(id="a b"),
        body(state="active\0"),
        body(period={"start": 1, "end": 10**12}),
        body(next={"at": 10**12, "price_atoms": 1}),
        body(invoices=[{"number": "1\0"}]),
        body(invoices=[{"number": "1", "tx_hash": "javascript:alert(1)"}]),
        body(invoices=[{"number": "1", "lines": [{"text": "\0", "amount_atoms": 1}]}]),
        body(invoices=[{"number": str(each)} for each in range(501)]),
        body(requests=[{"id": 2**64, "kind": "support"}]),
        body(requests=[{"id": "1\0", "kind": "support"}]),
        body(requests=[{"id": each, "kind": "support"} for each in range(501)]),
    ],
)
def test_what_a_seller_writes_is_taken_only_within_its_bounds(sent: bytes) -> None:
    with pytest.raises(SellerSaysNo, match="cannot be read") as refused:
        read_subscription(sent)
    assert "regex" not in str(refused.value)


def test_what_a_seller_says_of_a_refusal_is_made_readable() -> None:
    told = Told(502, code="a\0b", detail="one\ntwo\0 \u202ethree" + "x" * 999)
    assert (told.code, told.detail[:14], len(told.detail)) == ("a b", "one two three" + "x", 500)
