"""How a subscription stands at a moment, and what is due then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.plans.buying.models import LIVE, BoughtState

DAY: Final = 86_400
NOTICE_SECONDS: Final = 3 * DAY  # before a renewal
RENEW_SECONDS: Final = DAY  # before the end, the renewal is tried from here on
RETRY_SECONDS: Final = 6 * 3600


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides: the state as stored, the paid period's end, days of grace after it."""

    state: BoughtState
    period_end: int
    grace_days: int
    renews: bool

    @property
    def grace_end(self) -> int:
        return self.period_end + self.grace_days * DAY

    def at(self, now: int) -> BoughtState:
        """The state as time has made it; nobody needs to have written it down."""
        if self.state not in LIVE or now < self.period_end:
            return self.state
        if self.state is BoughtState.CANCELLED:
            return BoughtState.ENDED
        return BoughtState.GRACE if now < self.grace_end else BoughtState.LAPSED

    def good_until(self) -> int:
        """When its key stops to be served."""
        return self.period_end if self.state is BoughtState.CANCELLED else self.grace_end

    def renewable(self, now: int) -> bool:
        """Whether a renewal is to be paid by itself now: its last day, or in its grace."""
        return (
            self.renews
            and self.at(now) in (BoughtState.ACTIVE, BoughtState.GRACE)
            and now >= self.period_end - RENEW_SECONDS
        )

    def to_announce(self, now: int, noticed_for: int) -> bool:
        """Whether its renewal is near enough to be told, and was not."""
        return (
            self.renews
            and self.at(now) is BoughtState.ACTIVE
            and now >= self.period_end - NOTICE_SECONDS
            and noticed_for != self.period_end
        )


def renewed_month(period_end: int, now: int) -> int:
    """A moment of the month that a renewal buys: the one after the paid period, or, if that is
    over, the present one."""
    return max(period_end, now)
