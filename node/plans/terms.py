"""What a plan gives, for how long, and what it costs: rules over values, nothing else.

All months are those of the quotas (node.usage.windows): from the 1st, 00:01 UTC, on. What
is bought in mid-month costs and gives the share of the days that are left, today included,
rounded up. Whoever pays in parts never pays more than the whole month at its last price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from node.durations import DAY
from node.plans.errors import OrderRefused
from node.usage.windows import Window, window_of

LONGEST_GRACE_DAYS: Final = 14


class Beyond(StrEnum):
    """What becomes of a call once the quota is used up."""

    PAY = "pay"  # it may be paid like anybody's
    STOP = "stop"  # it is refused until the month ends


class State(StrEnum):
    """Where a subscription stands."""

    ACTIVE = "active"
    GRACE = "grace"  # its period is over and the next not paid, but it is still served
    LAPSED = "lapsed"  # as if there were none: every call is paid for
    CANCELLED = "cancelled"  # never renewed; good until its period ends


class Kind(StrEnum):
    """How a period came about."""

    FIRST = "first"
    RENEWAL = "renewal"
    UPGRADE = "upgrade"


@dataclass(frozen=True, slots=True)
class Deal:
    """A whole month of a plan. Price in USDC atoms; None where there is no end."""

    price_atoms: int
    calls: int | None
    stream_seconds: int | None
    per_minute: int | None
    beyond: Beyond
    grace_days: int

    @property
    def free(self) -> bool:
        return self.price_atoms == 0


def terms_of(deal: Deal) -> dict[str, Any]:
    """Its fields by name, as tables, wire, JSON API and command line have them."""
    return asdict(deal) | {"beyond": deal.beyond.value}


@dataclass(frozen=True, slots=True)
class Share:
    """The days that are left of a month, today included."""

    left: int
    days: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is bought at once: from `start` to `end` (Unix seconds) so much more of each."""

    start: int
    end: int
    calls: int | None
    stream_seconds: int | None
    price_atoms: int


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch that was ordered, with the deal of that day. `settled`: its money has arrived,
    or it cost nothing; one whose payment is still on its way gives nothing yet."""

    plan_id: str
    deal: Deal
    stretch: Stretch
    settled: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """A subscription at one moment. `served`: calls are taken from the quotas `calls` and
    `stream_seconds` of this month (None: no end). [start, end) is the period, or the last one."""

    state: State
    served: bool
    plan_id: str
    deal: Deal
    start: int
    end: int
    calls: int | None
    stream_seconds: int | None
    price_atoms: int


def share_of(at: int) -> Share:
    """What is left of the month of a moment. Days change at 00:01 UTC, like months."""
    window = window_of(at)
    days = (window.end - window.start) // DAY
    return Share(days - (at - window.start) // DAY, days)


def prorate_up(amount: int, share: Share) -> int:
    """The share of a month's price or quota, rounded up to the next whole one."""
    return -(-amount * share.left // share.days)


def first_stretch(deal: Deal, at: int) -> Stretch:
    """The rest of the present month."""
    share = share_of(at)
    return Stretch(
        at,
        window_of(at).end,
        _part(deal.calls, share),
        _part(deal.stream_seconds, share),
        prorate_up(deal.price_atoms, share),
    )


def whole_stretch(deal: Deal, window: Window) -> Stretch:
    """A month from its first second to its last."""
    return Stretch(window.start, window.end, deal.calls, deal.stream_seconds, deal.price_atoms)


def upgrade_stretch(old: Deal, new: Deal, at: int) -> Stretch:
    """What is to be paid, and comes on top, for the rest of the month. Raises OrderRefused."""
    if new.price_atoms <= old.price_atoms:
        sentence = "This plan does not cost more: choose it for the next renewal."
        raise OrderRefused("plan_not_an_upgrade", sentence)
    share = share_of(at)
    return Stretch(
        at,
        window_of(at).end,
        _more(old.calls, new.calls, share),
        _more(old.stream_seconds, new.stream_seconds, share),
        prorate_up(new.price_atoms - old.price_atoms, share),
    )


def standing_at(
    periods: Sequence[Period], cancelled_at: int | None, now: int, served_until: int | None = None
) -> Standing:
    """Where a subscription stands. `periods` in the order of their orders, at least one of
    them settled. `served_until` is the end of a free one that was ended at once. A clock behind
    the one of the first order is taken to have come so far."""
    settled = [period for period in periods if period.settled]
    now = max(now, min(period.stretch.start for period in settled))
    if served_until is not None and now >= served_until:
        last = max((each for each in settled if each.stretch.start <= now), key=_end)
        return replace(_uncovered(last, State.CANCELLED, False), end=served_until)
    covering = [
        period
        for at, period in enumerate(settled)
        if _covers(period, settled[at + 1 :], cancelled_at, now)
    ]
    if covering:
        return _covered(covering, cancelled_at, now)
    last = max((each for each in settled if each.stretch.start <= now), key=_end)
    end = _end(last)
    if cancelled_at is not None:
        return _uncovered(last, State.CANCELLED, False)
    grace = now < end + last.deal.grace_days * DAY
    return _uncovered(last, State.GRACE if grace else State.LAPSED, grace)


def renewal_stretch(
    periods: Sequence[Period], cancelled_at: int | None, deal: Deal, now: int
) -> Stretch:
    """The month a renewal buys now: the next one, or the present one if that is not paid.
    `deal` is that of the plan it goes on with. Raises OrderRefused."""
    if cancelled_at is not None:
        raise OrderRefused("subscription_cancelled", "It was cancelled; subscribe anew.")
    standing = standing_at(periods, cancelled_at, now)
    if standing.deal.free and deal.free:
        raise OrderRefused("renews_itself", "A free plan goes on by itself.")
    window = window_of(now)
    _refuse_pending(periods, now)
    _refuse_renewed(periods, now)
    if standing.state is State.ACTIVE:
        window = window_of(window.end)
    return whole_stretch(deal, window)


def upgrade_now(
    periods: Sequence[Period], cancelled_at: int | None, new: Deal, now: int
) -> Stretch:
    """What changing to a dearer plan costs and gives now. Raises OrderRefused."""
    standing = standing_at(periods, cancelled_at, now)
    if standing.state is not State.ACTIVE:
        sentence = "Only a subscription whose month is paid can be upgraded; renew it first."
        raise OrderRefused("subscription_not_active", sentence)
    _refuse_pending(periods, now)
    _refuse_renewed(periods, now)
    return upgrade_stretch(standing.deal, new, now)


def next_renewal(
    periods: Sequence[Period], cancelled_at: int | None, deal: Deal, now: int
) -> tuple[int, int] | None:
    """When the next month is to be paid and what it costs, with the deal it goes on with;
    None where nothing will be."""
    standing = standing_at(periods, cancelled_at, now)
    if cancelled_at is not None or standing.state is State.LAPSED:
        return None
    if deal.free and standing.deal.free:
        return None
    end = max(_end(period) for period in periods if period.settled)
    return max(end, standing.end), deal.price_atoms


def paid_after(periods: Sequence[Period], now: int) -> bool:
    """Whether money was given, or is on its way, for time that is still to come."""
    return any(each.stretch.price_atoms and each.stretch.end > now for each in periods)


def served_to(periods: Sequence[Period], cancelled_at: int, served_until: int | None) -> int:
    """The last moment of a cancelled subscription: the end of what is paid, or of the month in
    which a free one was cancelled."""
    if served_until is not None:
        return served_until
    last = max(periods, key=_end)
    return max(_end(last), window_of(cancelled_at).end) if last.deal.free else _end(last)


def _part(quota: int | None, share: Share) -> int | None:
    return None if quota is None else prorate_up(quota, share)


def _more(old: int | None, new: int | None, share: Share) -> int | None:
    """What comes on top of the old quota; none where the new one is smaller."""
    if new is None:
        return None
    return 0 if old is None else prorate_up(max(new - old, 0), share)


def _end(period: Period) -> int:
    return period.stretch.end


def _covers(period: Period, later: Sequence[Period], cancelled_at: int | None, now: int) -> bool:
    """Whether it gives something now. A free one goes on month after month, until another
    follows it or it is cancelled."""
    if period.stretch.start <= now < period.stretch.end:
        return True
    if not period.deal.free or now < period.stretch.start:
        return False
    if cancelled_at is not None and now >= max(window_of(cancelled_at).end, period.stretch.end):
        return False
    month = window_of(now)
    return all(each.stretch.end >= month.end for each in later)


def _covered(covering: Sequence[Period], cancelled_at: int | None, now: int) -> Standing:
    last, month = covering[-1], window_of(now)
    state = State.ACTIVE if cancelled_at is None else State.CANCELLED
    gives = [_gives(each, now) for each in covering]
    return Standing(
        state,
        True,
        last.plan_id,
        last.deal,
        min(each.start for each in gives),
        month.end,
        _total([each.calls for each in gives]),
        _total([each.stream_seconds for each in gives]),
        sum(each.price_atoms for each in gives),
    )


def _gives(period: Period, now: int) -> Stretch:
    """Its stretch, or the whole month of a free one that has gone on by itself."""
    if now < period.stretch.end:
        return period.stretch
    return whole_stretch(period.deal, window_of(now))


def _uncovered(last: Period, state: State, served: bool) -> Standing:
    deal, stretch = last.deal, last.stretch
    return Standing(
        state,
        served,
        last.plan_id,
        deal,
        stretch.start,
        stretch.end,
        deal.calls,
        deal.stream_seconds,
        stretch.price_atoms,
    )


def _total(quotas: Sequence[int | None]) -> int | None:
    whole = [quota for quota in quotas if quota is not None]
    return sum(whole) if len(whole) == len(quotas) else None


def _refuse_pending(periods: Sequence[Period], now: int) -> None:
    if any(not each.settled and each.stretch.end > now for each in periods):
        sentence = "A payment for it is still on its way; look again once it has arrived."
        raise OrderRefused("order_pending", sentence)


def _refuse_renewed(periods: Sequence[Period], now: int) -> None:
    end = window_of(now).end
    if any(each.settled and each.stretch.start >= end for each in periods):
        raise OrderRefused("already_renewed", "The next month is paid already.")
