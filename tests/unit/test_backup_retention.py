"""Which backups are kept: never the wrong one let go."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from backups.retention import Keeping, Kept, superfluous
from backups.schedule import backup_due, overdue
from backups.schedule import test_due as is_test_due

DAY = 86_400
NOW = 1_800_000_000
_TIMES = st.lists(st.integers(NOW - 800 * DAY, NOW + DAY), max_size=60)
_RULES = st.builds(
    Keeping,
    st.integers(1, 100),
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(0, 30),
)


def _backups(times: list[int]) -> list[Kept]:
    return [Kept(f"{index:03}", at) for index, at in enumerate(times)]


def _left(backups: list[Kept], now: int, rule: Keeping) -> list[Kept]:
    gone = superfluous(backups, now, rule)
    return [each for each in backups if each.id not in gone]


@given(_TIMES, _RULES, st.integers(0, 5000 * DAY))
def test_the_last_good_one_is_never_let_go(times: list[int], rule: Keeping, later: int) -> None:
    backups = _backups(times)
    if backups:
        newest = max(each.at for each in backups)
        assert newest in {each.at for each in _left(backups, NOW + later, rule)}


@given(_TIMES, _RULES)
def test_everything_of_the_last_hours_stays(times: list[int], rule: Keeping) -> None:
    backups = _backups(times)
    left = {each.id for each in _left(backups, NOW, rule)}
    assert left >= {each.id for each in backups if NOW - each.at < rule.all_hours * 3600}


@given(_TIMES, _RULES)
def test_a_rule_applied_twice_lets_nothing_more_go(times: list[int], rule: Keeping) -> None:
    left = _left(_backups(times), NOW, rule)
    assert _left(left, NOW, rule) == left


@given(_TIMES)
def test_each_of_the_last_seven_days_with_a_backup_keeps_one(times: list[int]) -> None:
    backups = _backups(times)
    left = {_day(each.at) for each in _left(backups, NOW, Keeping())}
    assert left >= {_day(each.at) for each in backups if each.at > NOW - 7 * DAY}


@given(_TIMES)
def test_each_of_the_last_twelve_months_with_a_backup_keeps_one(times: list[int]) -> None:
    backups = _backups(times)
    left = {_month(each.at) for each in _left(backups, NOW, Keeping())}
    since = datetime(2026, 2, 1, tzinfo=UTC).timestamp()  # NOW is in January 2027
    assert left >= {_month(each.at) for each in backups if each.at >= since}


@given(_TIMES, _RULES)
def test_no_more_is_kept_than_the_rule_says(times: list[int], rule: Keeping) -> None:
    left = _left(_backups(times), NOW, rule)
    old = [each for each in left if NOW - each.at >= rule.all_hours * 3600]
    assert len(old) <= rule.days + 1 + rule.weeks + 1 + rule.months + 1


def test_a_year_of_hourly_backups_leaves_about_fifty_that_reach_back_a_year() -> None:
    kept: list[Kept] = []
    for hour in range(400 * 24):
        now = NOW + hour * 3600
        kept = _left([*kept, Kept(str(hour), now)], now, Keeping())
    ages = sorted((now - each.at) / DAY for each in kept)
    assert len([age for age in ages if age < 1]) == 24
    assert 36 <= len(kept) <= 48
    assert 320 < ages[-1] < 366
    assert all(later - earlier < 32 for earlier, later in pairwise(ages))


def test_schedule_waits_its_hours_and_after_a_failure_a_quarter_of_one() -> None:
    assert not backup_due(NOW, 0, None, 0), "switched off"
    assert backup_due(NOW, 1, None, 0), "never backed up"
    assert not backup_due(NOW, 1, NOW - 3599, NOW - 3599)
    assert backup_due(NOW, 1, NOW - 3600, NOW - 3600)
    assert not backup_due(NOW, 1, NOW - 7200, NOW - 60), "it failed a minute ago"
    assert backup_due(NOW, 1, NOW - 7200, NOW - 900)
    assert backup_due(NOW, 24, NOW + 900 * DAY, NOW + 900 * DAY), "the clock was set back"


def test_test_restore_is_due_once_a_week() -> None:
    assert is_test_due(NOW, None)
    assert not is_test_due(NOW, NOW - 6 * DAY)
    assert is_test_due(NOW, NOW - 7 * DAY)
    assert is_test_due(NOW, NOW + DAY), "the clock was set back"


def test_warning_comes_on_the_day_it_is_due_and_not_before() -> None:
    started = NOW - 100 * DAY
    assert overdue(NOW, started, NOW - 30 * DAY, 30).overdue
    assert not overdue(NOW, started, NOW - 30 * DAY + 1, 30).overdue
    never = overdue(NOW, NOW - 30 * DAY, None, 30)
    assert never.overdue and not never.ever and never.days == 30
    assert not overdue(NOW, NOW - 29 * DAY, None, 30).overdue
    assert overdue(NOW, started, NOW - 7 * DAY, 7).overdue, "the days are the operator's"


def _day(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def _month(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")
