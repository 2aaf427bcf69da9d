"""How a subscription stands at a moment, and what is due then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.durations import DAY
from node.plans.buying.models import LIVE, BoughtState
from node.usage.windows import window_of

NOTICE_SECONDS: Final = 3 * DAY  # before a renewal
RENEW_SECONDS: Final = DAY  # before the end, the renewal is tried from here on
RETRY_SECONDS: Final = 6 * 3600
_RENEWAL: Final = "renewal:"


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides: the state as stored, the end of what is paid, days of grace after it.
    `free`: it costs nothing and goes on by itself."""

    state: BoughtState
    paid_until: int
    grace_days: int
    renews: bool
    free: bool = False

    @property
    def grace_end(self) -> int:
        return self.paid_until + self.grace_days * DAY

    def at(self, now: int) -> BoughtState:
        """The state as time has made it; nobody needs to have written it down."""
        if self.state not in LIVE or now < self.paid_until:
            return self.state
        if self.state is BoughtState.CANCELLED:
            return BoughtState.ENDED
        if self.free:
            return BoughtState.ACTIVE
        return BoughtState.GRACE if now < self.grace_end else BoughtState.LAPSED

    def served(self, now: int) -> bool:
        """Whether its key is good for calls."""
        return self.at(now) in LIVE

    def renewable(self, now: int) -> bool:
        """Whether a renewal is to be paid by itself now: its last day, or in its grace."""
        return (
            self.renews
            and not self.free
            and self.at(now) in (BoughtState.ACTIVE, BoughtState.GRACE)
            and now >= self.paid_until - RENEW_SECONDS
        )

    def to_announce(self, now: int, noticed_for: int) -> bool:
        """Whether its renewal is near enough to be told, and was not."""
        return (
            self.renews
            and not self.free
            and self.at(now) is BoughtState.ACTIVE
            and now >= self.paid_until - NOTICE_SECONDS
            and noticed_for != self.paid_until
        )


def renewed_month(paid_until: int, now: int) -> int:
    """The begin of the month that a renewal buys: the one after what is paid, or, if that is
    over, the present one."""
    return window_of(max(paid_until, now)).start


def renewal_slot(month: int) -> str:
    """Of the order that buys the month which begins then."""
    return f"{_RENEWAL}{month}"


def has_passed(slot: str, now: int) -> bool:
    """Whether it is a renewal's, whose month is over."""
    month = slot.removeprefix(_RENEWAL)
    return month != slot and now >= window_of(int(month)).end
