"""Serving stops when the wallet runs low and does not flap."""

from __future__ import annotations

from finance.thresholds import Level, Standing, is_low, observe, pause, resume

LEVEL = Level(threshold=1000, margin_percent=20)


def _watch(balances: list[int | None]) -> list[bool]:
    low, seen = False, []
    for balance in balances:
        low = is_low(low, balance, LEVEL)
        seen.append(low)
    return seen


def test_a_balance_that_swings_around_the_threshold_changes_the_state_once() -> None:
    assert _watch([1000, 999, 1000, 999, 1001, 1199, 999]) == [False] + 6 * [True]


def test_a_balance_above_the_margin_is_enough_again() -> None:
    assert _watch([999, 1199, 1200, 1199, 1000, 999]) == [True, True, False, False, False, True]


def test_an_unknown_balance_changes_nothing() -> None:
    assert _watch([None, 2000, None, 999, None]) == [False, False, False, True, True]


def test_a_threshold_of_nothing_is_never_reached() -> None:
    assert not is_low(True, 0, Level(0, 20))


def test_the_margin_is_rounded_up() -> None:
    assert Level(3, 50).resume_at == 5


def test_serving_goes_on_when_low_balances_do_not_pause() -> None:
    assert not observe(Standing(), True, True, pauses=False, now=5).paused


def test_a_pause_by_hand_outlives_a_recovered_balance() -> None:
    standing = observe(pause(Standing(), 5), True, False, pauses=True, now=6)
    standing = observe(standing, False, False, pauses=True, now=7)
    assert standing.paused and standing.hand_paused_at == 5 and not standing.auto_paused_at
    assert not resume(standing).paused


def test_resuming_by_hand_holds_until_the_balance_has_recovered_and_falls_again() -> None:
    standing = resume(observe(Standing(), False, True, pauses=True, now=5))
    assert not standing.paused and standing.waived
    standing = observe(standing, False, True, pauses=True, now=6)
    assert not standing.paused
    standing = observe(standing, False, False, pauses=True, now=7)
    assert not standing.waived
    assert observe(standing, False, True, pauses=True, now=8).auto_paused_at == 8


def test_a_pause_keeps_the_time_it_began() -> None:
    standing = observe(Standing(), True, False, pauses=True, now=5)
    assert observe(standing, True, True, pauses=True, now=9).auto_paused_at == 5
