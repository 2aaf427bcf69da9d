"""Spending limits: what may be signed, and what of it is used today."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select, text
from sqlmodel import col

from catalog.models import Listing
from finance.buying.limits import DEFAULT_LIMITS, EVERY, utc_day
from finance.buying.models import SpendCounter, SpendLimit
from finance.money import MAX_ATOMS, Usdc
from finance.store import Batch, Store, Write
from node.accounts.audit import Actor, audit_write
from node.treasury.errors import TreasuryInvalid, TreasuryUnknown
from node.usage.models import ConsumerKey

# In the order of the page.
SCOPES = ("call", "listing", "key", "day", "deposit")
# Scopes that may have a limit of their own for one listing or key.
_OF_LISTINGS = ("call", "listing", "deposit")
_OF_KEYS = ("call", "key", "deposit")

_SET = text(
    "INSERT INTO spend_limit (scope, subject, limit_atoms) VALUES (:scope, :subject, :atoms)"
    " ON CONFLICT (scope, subject) DO UPDATE SET limit_atoms = excluded.limit_atoms"
)
_CLEAR = text("DELETE FROM spend_limit WHERE scope = :scope AND subject = :subject")

Counts = dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One limit in atoms; `chosen` says that somebody set it, else it is the default.
    `used` is what counts against it today, None where nothing is counted."""

    scope: str
    subject: str
    name: str
    limit: int
    used: int | None
    chosen: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """A listing or key that a limit can be about."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class LimitsView:
    """`general` hold for all, `overrides` for one listing or key. `deposited` went into
    channels today, which counts against the day's limit on its own; `day` is the UTC day."""

    general: tuple[LimitLine, ...]
    overrides: tuple[LimitLine, ...]
    listings: tuple[Subject, ...]
    keys: tuple[Subject, ...]
    day: str
    deposited: int


def read_limits(engine: Engine, now: int) -> LimitsView:
    """All limits with today's use (blocking)."""
    with engine.connect() as connection:
        rows, spent = _rows(connection), _spent(connection, now)
        listings = _subjects(connection, col(Listing.id), col(Listing.name))
        keys = _subjects(connection, col(ConsumerKey.id), col(ConsumerKey.name))
    names = {each.id: each.name for each in (*listings, *keys)}
    return LimitsView(
        tuple(_general(scope, rows, spent) for scope in SCOPES),
        tuple(
            _override(*place, atoms, names, spent)
            for place, atoms in sorted(rows.items())
            if place[1] != EVERY
        ),
        listings,
        keys,
        utc_day(now),
        spent.get(("deposits", EVERY), 0),
    )


def _general(scope: str, rows: Counts, spent: Counts) -> LimitLine:
    place = (scope, EVERY)
    used = spent.get(place, 0) if scope == "day" else None
    limit = rows.get(place, DEFAULT_LIMITS[scope])
    return LimitLine(scope, EVERY, "", limit, used, place in rows)


def _override(
    scope: str, subject: str, atoms: int, names: dict[str, str], spent: Counts
) -> LimitLine:
    counted = scope in ("listing", "key")
    used = spent.get((scope, subject), 0) if counted else None
    return LimitLine(scope, subject, names.get(subject, subject), atoms, used, True)


async def set_limit(
    store: Store, scope: str, subject: str, atoms: int | None, actor: Actor, now: int
) -> None:
    """Change one limit; None takes it away, so that the default (or the general one) holds.

    A running node takes it over within seconds. Raises TreasuryInvalid, TreasuryUnknown.
    """
    with store.engine.connect() as connection:
        _check(connection, scope, subject, atoms)
        before = _rows(connection).get((scope, subject))
    if before == atoms:
        return
    place = {"scope": scope, "subject": subject}
    change = Write(_CLEAR, place) if atoms is None else Write(_SET, {**place, "atoms": atoms})
    trail = audit_write(
        actor, "limit.change", f"{scope}:{subject}", now, _shown(before), _shown(atoms)
    )
    await store.commit(Batch([change, trail]))


def _check(connection: Connection, scope: str, subject: str, atoms: int | None) -> None:
    if scope not in SCOPES:
        raise TreasuryInvalid("scope", f"A limit is about one of {', '.join(SCOPES)}.")
    if atoms is not None and not 0 <= atoms <= MAX_ATOMS:
        raise TreasuryInvalid("limit", "This is no amount of USDC.")
    if subject == EVERY:
        return
    found = connection.execute(select(col(Listing.id)).where(col(Listing.id) == subject)).first()
    if found and scope in _OF_LISTINGS:
        return
    key = select(col(ConsumerKey.id)).where(col(ConsumerKey.id) == subject)
    if connection.execute(key).first() and scope in _OF_KEYS:
        return
    # What is gone may still be cleared away.
    if atoms is None and (scope, subject) in _rows(connection):
        return
    raise TreasuryUnknown(
        f"There is no listing or key {subject!r} that can have a limit per {scope}."
    )


def _rows(connection: Connection) -> Counts:
    table: Any = SpendLimit.__table__  # type: ignore[attr-defined]
    return {(row.scope, row.subject): row.limit_atoms for row in connection.execute(select(table))}


def _spent(connection: Connection, now: int) -> Counts:
    table: Any = SpendCounter.__table__  # type: ignore[attr-defined]
    today = select(table).where(table.c.window == utc_day(now))
    return {(row.scope, row.subject): row.spent_atoms for row in connection.execute(today)}


def _subjects(connection: Connection, id_: Any, name: Any) -> tuple[Subject, ...]:
    rows = connection.execute(select(id_, name).order_by(name, id_).limit(1000))
    return tuple(Subject(*row) for row in rows)


def _shown(atoms: int | None) -> str | None:
    return None if atoms is None else f"{Usdc(atoms)} USDC"
