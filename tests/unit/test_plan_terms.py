"""What months of plans cost and give: no sum passes a month's price, no edge is off by a day."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.durations import DAY
from node.plans.errors import OrderRefused
from node.plans.terms import (
    Beyond,
    Deal,
    Period,
    Share,
    State,
    Stretch,
    first_stretch,
    next_renewal,
    paid_after,
    prorate_up,
    renewal_stretch,
    served_to,
    share_of,
    standing_at,
    upgrade_now,
    whole_stretch,
)
from node.usage.windows import window_of

MOMENTS = st.integers(1_700_000_000, 1_950_000_000)
AMOUNTS = st.integers(0, 10**12)
SHARES = st.integers(28, 31).flatmap(
    lambda days: st.builds(Share, st.integers(1, days), st.just(days))
)


def deal(price: int, calls: int | None = 1_000, grace: int = 3) -> Deal:
    return Deal(price, calls, None, None, Beyond.STOP, grace)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def bought(plan: str, what: Deal, when: int, settled: bool = True) -> Period:
    return Period(plan, what, first_stretch(what, when), settled)


@given(AMOUNTS, SHARES)
def test_a_share_is_never_more_than_the_whole_nor_less_than_its_part(
    amount: int, share: Share
) -> None:
    part = prorate_up(amount, share)
    assert 0 <= part <= amount and part * share.days >= amount * share.left
    assert (part - 1) * share.days < amount * share.left


@given(MOMENTS)
def test_the_days_left_are_those_of_the_calendar(moment: int) -> None:
    share, day = share_of(moment), datetime.fromtimestamp(moment - 60, UTC)
    days = calendar.monthrange(day.year, day.month)[1]
    assert share == Share(days - day.day + 1, days)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=6, unique=True), st.data())
def test_no_chain_of_upgrades_costs_more_than_the_last_plan_for_the_whole_month(
    prices: list[int], data: st.DataObject
) -> None:
    month = window_of(data.draw(MOMENTS))
    times = sorted(data.draw(st.integers(month.start, month.end - 1), label="when") for _ in prices)
    deals = [deal(price, calls=price) for price in sorted(prices)]
    periods = [bought("0", deals[0], times[0])]
    for number, (plan, when) in enumerate(zip(deals[1:], times[1:], strict=True), 1):
        stretch = upgrade_now(periods, None, plan, when)
        assert stretch.price_atoms >= 1 and stretch.calls is not None and stretch.calls >= 0
        periods.append(Period(str(number), plan, stretch))
    paid = sum(period.stretch.price_atoms for period in periods)
    assert 0 < paid <= deals[-1].price_atoms
    standing = standing_at(periods, None, times[-1])
    assert standing.calls is not None and standing.calls <= deals[-1].price_atoms
    assert (standing.price_atoms, standing.plan_id) == (paid, str(len(deals) - 1))


@pytest.mark.parametrize(
    ("when", "left", "days"),
    [
        ("2027-01-01T00:00:59", 1, 31),  # still December
        ("2027-01-01T00:01:00", 31, 31),
        ("2027-01-31T23:59:59", 1, 31),
        ("2027-02-01T00:00:59", 1, 31),
        ("2028-02-01T00:01:00", 29, 29),
        ("2028-02-29T12:00:00", 1, 29),
        ("2027-02-28T12:00:00", 1, 28),
        ("2026-11-21T00:00:59", 11, 30),
        ("2026-11-21T00:01:00", 10, 30),
    ],
)
def test_the_share_at_every_edge(when: str, left: int, days: int) -> None:
    assert share_of(at(when)) == Share(left, days)
    price = first_stretch(deal(3_000_000), at(when)).price_atoms
    assert price == -(-3_000_000 * left // days)


def test_a_month_ends_in_grace_and_then_lapses_to_the_second() -> None:
    periods = [bought("a", deal(100), at("2026-11-21T10:00:00"))]
    for when, state, served in (
        ("2026-12-01T00:00:59", State.ACTIVE, True),
        ("2026-12-01T00:01:00", State.GRACE, True),
        ("2026-12-04T00:00:59", State.GRACE, True),
        ("2026-12-04T00:01:00", State.LAPSED, False),
    ):
        standing = standing_at(periods, None, at(when))
        assert (standing.state, standing.served) == (state, served), when
    assert standing_at(periods, None, at("2026-12-02T00:00:00")).calls == 1_000
    cancelled = at("2026-11-22T00:00:00")
    for when, served in (("2026-11-30T00:00:00", True), ("2026-12-01T00:01:00", False)):
        standing = standing_at(periods, cancelled, at(when))
        assert (standing.state, standing.served) == (State.CANCELLED, served), when


def test_a_renewal_buys_the_next_month_and_a_late_one_the_present() -> None:
    plan, first = deal(100), at("2026-11-21T10:00:00")
    periods = [bought("a", plan, first)]
    december = window_of(at("2026-12-15T00:00:00"))
    for when in ("2026-11-21T10:00:01", "2026-12-02T00:00:00", "2026-12-20T00:00:00"):
        assert renewal_stretch(periods, None, plan, at(when)) == whole_stretch(plan, december), when
    renewed = [*periods, Period("a", plan, whole_stretch(plan, december))]
    with pytest.raises(OrderRefused, match="paid already"):
        renewal_stretch(renewed, None, plan, at("2026-11-30T00:00:00"))
    assert next_renewal(renewed, None, plan, first) == (december.end, 100)


def test_nothing_more_is_ordered_while_a_payment_is_on_its_way() -> None:
    plan, now = deal(100), at("2026-11-21T10:00:00")
    month = window_of(window_of(now).end)
    waits = Period("a", plan, whole_stretch(plan, month), settled=False)
    periods = [bought("a", plan, now), waits]
    for order in (renewal_stretch, upgrade_now):
        with pytest.raises(OrderRefused, match="on its way"):
            order(periods, None, deal(200), now)
    assert standing_at(periods, None, month.start).state is State.GRACE


def test_a_free_plan_goes_on_month_after_month_until_it_is_cancelled() -> None:
    free, start = deal(0, calls=300), at("2026-11-21T10:00:00")
    periods = [bought("free", free, start)]
    assert standing_at(periods, None, start).calls == 100
    later = standing_at(periods, None, at("2027-03-05T00:00:00"))
    assert (later.state, later.calls) == (State.ACTIVE, 300)
    with pytest.raises(OrderRefused):
        renewal_stretch(periods, None, free, start)
    cancelled = at("2027-03-05T00:00:00")
    assert standing_at(periods, cancelled, at("2027-03-31T00:00:00")).served
    assert not standing_at(periods, cancelled, at("2027-04-01T00:01:00")).served


def test_a_free_plan_that_is_ended_at_once_gives_nothing_from_that_second_on() -> None:
    periods = [bought("free", deal(0, calls=300), at("2026-11-21T10:00:00"))]
    ended = at("2027-03-05T00:00:00")
    assert standing_at(periods, ended, ended - 1, ended).served
    over = standing_at(periods, ended, ended, ended)
    assert (over.state, over.served, over.end) == (State.CANCELLED, False, ended)
    assert served_to(periods, ended, None) == at("2027-04-01T00:01:00")


@pytest.mark.parametrize("settled", [True, False])
def test_money_for_time_to_come_is_seen_also_while_it_is_on_its_way(settled: bool) -> None:
    start, end = at("2026-11-21T10:00:00"), at("2026-12-01T00:01:00")
    periods = [bought("free", deal(0), start), bought("paid", deal(3_000), start, settled)]
    assert paid_after(periods, end - 1) and not paid_after(periods, end)
    assert not paid_after(periods[:1], start) and served_to(periods, start, None) == end


def test_who_upgraded_from_a_free_plan_and_does_not_renew_has_no_plan_any_more() -> None:
    free, paid, start = deal(0, calls=300), deal(3_000, calls=600), at("2026-11-21T10:00:00")
    periods = [bought("free", free, start)]
    periods.append(Period("paid", paid, upgrade_now(periods, None, paid, start)))
    assert standing_at(periods, None, start).calls == 100 + 100
    assert standing_at(periods, None, at("2026-12-10T00:00:00")).state is State.LAPSED


def test_a_month_just_paid_is_served_though_the_clock_is_set_back_behind_its_order() -> None:
    start = at("2026-11-21T10:00:00")
    periods = [bought("a", deal(3_000), start)]
    behind = standing_at(periods, None, start - 60)
    assert (behind.state, behind.served, behind.calls) == (State.ACTIVE, True, 334)


@given(MOMENTS, st.integers(0, 14), st.integers(0, 400 * DAY))
def test_a_standing_is_never_served_without_a_month_or_its_grace(
    start: int, grace: int, later: int
) -> None:
    plan = deal(1_000, grace=grace)
    period = bought("a", plan, start)
    standing = standing_at([period], None, start + later)
    assert standing.served == (start + later < period.stretch.end + grace * DAY)
    assert isinstance(period.stretch, Stretch) and period.stretch.price_atoms > 0
