"""Lock-out of an account, and the limit per address it is tried from.

An attempt is counted before its password is looked at and taken back when it was right,
so a thousand guesses sent at once are five guesses.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque

from sqlalchemy import Connection, case, update
from sqlmodel import col

from node.accounts.models import User

FREE_ATTEMPTS = 5
FIRST_LOCK_SECONDS = 60
LONGEST_LOCK_SECONDS = 3600
ADDRESS_FAILURES = 20
ADDRESS_WINDOW_SECONDS = 600
_ADDRESSES_KEPT = 10_000


def lock_seconds(failures: int) -> int:
    """How long an account stays locked after this many failures in a row."""
    if failures < FREE_ATTEMPTS:
        return 0
    doubled = min(failures - FREE_ATTEMPTS, 16)
    return min(FIRST_LOCK_SECONDS << doubled, LONGEST_LOCK_SECONDS)


def lock_holds(until: int, now: int) -> bool:
    """Not one that is longer than the longest: the clock it was set by was ahead."""
    return now < until <= now + LONGEST_LOCK_SECONDS


def begin_attempt(connection: Connection, user_id: str, now: int) -> int | None:
    """Count one attempt; the failures in a row if it fails, None while the account is locked."""
    until = col(User.locked_until)
    open_ = (col(User.id) == user_id) & ~until.between(now + 1, now + LONGEST_LOCK_SECONDS)
    counted = (
        update(User)
        .where(open_)
        .values(failed_attempts=col(User.failed_attempts) + 1)
        .returning(col(User.failed_attempts))
    )
    failures = connection.scalar(counted)
    if failures is not None and (seconds := lock_seconds(failures)):
        connection.execute(
            update(User).where(col(User.id) == user_id).values(locked_until=now + seconds)
        )
    return failures


def take_back(connection: Connection, user_id: str) -> None:
    """The attempt just counted was right, but more is asked for: it is no failure."""
    before = col(User.failed_attempts) - 1
    locked = case((before >= FREE_ATTEMPTS, col(User.locked_until)), else_=0)
    connection.execute(
        update(User)
        .where(col(User.id) == user_id, col(User.failed_attempts) > 0)
        .values(failed_attempts=before, locked_until=locked)
    )


def forgive(connection: Connection, user_id: str) -> None:
    """After a success, or by an admin: no failures, not locked."""
    connection.execute(
        update(User).where(col(User.id) == user_id).values(failed_attempts=0, locked_until=0)
    )


class AddressLimiter:
    """Failures per address in a sliding window, in memory; the oldest addresses are dropped."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[int]] = OrderedDict()

    def refuses(self, address: str, now: int) -> bool:
        """Whether this address has failed too often lately."""
        failures = self._failures.get(_network(address))
        if failures is None:
            return False
        while failures and not now - ADDRESS_WINDOW_SECONDS < failures[0] <= now:
            failures.popleft()
        return len(failures) >= ADDRESS_FAILURES

    def failed(self, address: str, now: int) -> None:
        network = _network(address)
        self._failures.setdefault(network, deque(maxlen=ADDRESS_FAILURES)).append(now)
        self._failures.move_to_end(network)
        if len(self._failures) > _ADDRESSES_KEPT:
            self._failures.popitem(last=False)


def _network(address: str) -> str:
    """One customer of IPv6 has a /64 of addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False))
