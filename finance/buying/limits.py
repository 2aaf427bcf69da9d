"""What may be signed: limits, what counts against them, and the decision (law 7).

A purchase is counted before it is signed, in the same commit as its intent. The
decision is pure; the counters in the database refuse by themselves (guarded upsert)
if they know more than memory does. What was signed and may still be used against us
stays counted; it is given back only when it certainly cannot be.

Scopes: `call` (one call), `listing`, `key`, `day` (signed per UTC day), `deposit`
(money in one channel). Deposits of a day are counted on their own, as `deposits`,
against the day's limit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import text
from sqlmodel import Session, select

from finance.buying.models import SpendCounter, SpendLimit
from finance.errors import LimitExceeded
from finance.money import Usdc
from finance.store import Store, Write

EVERY = "*"
# USDC atoms, where the operator has set nothing.
DEFAULT_LIMITS: Mapping[str, int] = {
    "call": 1_000_000,
    "listing": 10_000_000,
    "key": 10_000_000,
    "day": 20_000_000,
    "deposit": 5_000_000,
}

# The same words on SQLite and PostgreSQL. A first row is guarded by the decision itself.
COUNT = text(
    'INSERT INTO spend_counter (scope, subject, "window", spent_atoms)'
    " VALUES (:scope, :subject, :window, :atoms)"
    ' ON CONFLICT (scope, subject, "window") DO UPDATE'
    " SET spent_atoms = spend_counter.spent_atoms + excluded.spent_atoms"
    " WHERE spend_counter.spent_atoms + excluded.spent_atoms <= :limit"
)
GIVE_BACK = text(
    "UPDATE spend_counter SET spent_atoms = spent_atoms - :atoms"
    ' WHERE scope = :scope AND subject = :subject AND "window" = :window'
    " AND spent_atoms >= :atoms"
)


class SpendingRefused(LimitExceeded):
    """Signing `asked` on top of `spent` would pass `limit` (all USDC atoms)."""

    def __init__(self, scope: str, subject: str, limit: int, spent: int, asked: int) -> None:
        name, used = ("day", "deposited") if scope == "deposits" else (scope, "spent")
        sentence = (
            f"This call asks for {Usdc(asked)} USDC; the {name} limit is {Usdc(limit)} USDC"
            f" and {Usdc(spent)} USDC of it are {used}. Raise the {name} limit to allow it."
        )
        super().__init__(sentence, name)
        self.subject, self.limit, self.spent, self.asked = subject, limit, spent, asked


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody wants signed, in atoms; `channel_atoms` is unspent in the channel already,
    `signed_atoms` were signed for the same call before and may be charged besides."""

    listing_id: str
    key_id: str
    amount_atoms: int
    deposit_atoms: int = 0
    channel_atoms: int = 0
    signed_atoms: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was counted for one signature, and where."""

    listing_id: str
    key_id: str
    window: str
    amount_atoms: int
    deposit_atoms: int = 0

    def counted(self) -> list[tuple[str, str, int]]:
        """(scope, subject, atoms) of every counter it is in."""
        rows = []
        if self.amount_atoms:
            rows += [
                ("listing", self.listing_id, self.amount_atoms),
                ("key", self.key_id, self.amount_atoms),
                ("day", EVERY, self.amount_atoms),
            ]
        if self.deposit_atoms:
            rows.append(("deposits", EVERY, self.deposit_atoms))
        return rows


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's limits, by (scope, subject)."""

    rows: Mapping[tuple[str, str], int]

    def of(self, scope: str, *subjects: str) -> int:
        """The tightest limit that applies to any of `subjects`, or the default."""
        names = (*subjects, EVERY)
        found = [self.rows[scope, name] for name in names if (scope, name) in self.rows]
        return min(found) if found else DEFAULT_LIMITS[scope]

    def of_counter(self, scope: str, subject: str) -> int:
        """The most a counter may reach; deposits have the day's."""
        return self.of("day" if scope == "deposits" else scope, subject)


def decide(limits: Limits, spent: Mapping[tuple[str, str], int], ask: Ask) -> None:
    """Raise SpendingRefused if signing `ask` would pass a limit; `spent` is today's."""
    most = limits.of("call", ask.listing_id, ask.key_id)
    if ask.amount_atoms + ask.signed_atoms > most:
        raise SpendingRefused("call", EVERY, most, ask.signed_atoms, ask.amount_atoms)
    most = limits.of("deposit", ask.listing_id, ask.key_id)
    if ask.deposit_atoms and ask.deposit_atoms + ask.channel_atoms > most:
        raise SpendingRefused("deposit", EVERY, most, ask.channel_atoms, ask.deposit_atoms)
    wanted = Reservation(ask.listing_id, ask.key_id, "", ask.amount_atoms, ask.deposit_atoms)
    for scope, subject, atoms in wanted.counted():
        most, used = limits.of_counter(scope, subject), spent.get((scope, subject), 0)
        if used + atoms > most:
            raise SpendingRefused(scope, subject, most, used, atoms)


def utc_day(now: float) -> str:
    """The window a moment falls into, `2026-11-21`."""
    return _day(int(now) // 86_400)


@lru_cache(maxsize=8)
def _day(number: int) -> str:
    """The day so many days after 1970-01-01."""
    return time.strftime("%Y-%m-%d", time.gmtime(number * 86_400))


class Spending:
    """Today's counters in memory, their durable form as writes. One per node."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limits = Limits({})
        self._window = ""
        self._spent: dict[tuple[str, str], int] = {}

    @property
    def limits(self) -> Limits:
        return self._limits

    def load(self, now: float) -> None:
        """Read limits and today's counters (blocking: call it off the loop)."""
        self.load_limits()
        window = utc_day(now)
        with Session(self._store.engine) as session:
            rows = session.exec(select(SpendCounter).where(SpendCounter.window == window)).all()
            self._spent = {(row.scope, row.subject): row.spent_atoms for row in rows}
        self._window = window

    def load_limits(self) -> None:
        """Read the operator's limits again (blocking: call it off the loop)."""
        with Session(self._store.engine) as session:
            rows = session.exec(select(SpendLimit)).all()
            self._limits = Limits({(row.scope, row.subject): row.limit_atoms for row in rows})

    def spent(self, scope: str, subject: str, now: float) -> int:
        """Atoms counted so far in the window of `now`."""
        self._turn(now)
        return self._spent.get((scope, subject), 0)

    def reserve(
        self, ask: Ask, now: float, instead_of: Sequence[Reservation] = ()
    ) -> tuple[Reservation, list[Write]]:
        """Count `ask`, giving back `instead_of` first; raise SpendingRefused.

        The writes belong into the commit of the purchase's intent; if that commit
        fails, call `undo` with the same arguments.
        """
        self._turn(now)
        self._move(instead_of, -1)
        try:
            decide(self._limits, self._spent, ask)
        except SpendingRefused:
            self._move(instead_of, 1)
            raise
        reservation = Reservation(
            ask.listing_id, ask.key_id, self._window, ask.amount_atoms, ask.deposit_atoms
        )
        self._move((reservation,), 1)
        writes = [write for each in instead_of for write in _given_back(each)]
        return reservation, writes + self._counted(reservation)

    def undo(self, reservation: Reservation, instead_of: Sequence[Reservation] = ()) -> None:
        """Forget a reservation whose commit failed."""
        self._move((reservation,), -1)
        self._move(instead_of, 1)

    def release(self, reservation: Reservation) -> list[Write]:
        """Give back what certainly was not used."""
        self._move((reservation,), -1)
        return _given_back(reservation)

    def _counted(self, reservation: Reservation) -> list[Write]:
        return [
            Write(
                COUNT,
                {
                    "scope": scope,
                    "subject": subject,
                    "window": reservation.window,
                    "atoms": atoms,
                    "limit": self._limits.of_counter(scope, subject),
                },
            )
            for scope, subject, atoms in reservation.counted()
        ]

    def _move(self, reservations: Iterable[Reservation], sign: int) -> None:
        for reservation in reservations:
            if reservation.window != self._window:
                continue
            for scope, subject, atoms in reservation.counted():
                key = scope, subject
                self._spent[key] = max(0, self._spent.get(key, 0) + sign * atoms)

    def _turn(self, now: float) -> None:
        window = utc_day(now)
        if window != self._window:
            # Also when the clock is set back: what was signed that day, the database knows.
            self._window, self._spent = window, {}


def _given_back(reservation: Reservation) -> list[Write]:
    return [
        Write(
            GIVE_BACK,
            {"scope": scope, "subject": subject, "window": reservation.window, "atoms": atoms},
            rows=None,
        )
        for scope, subject, atoms in reservation.counted()
    ]
