"""Caps that are lifted for a while: by whom, why, until when. They end by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlmodel import col

from catalog.characters import is_readable
from node.accounts.audit import Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown
from node.db.engine import writer
from node.usage.metering import QuotaOverride
from node.usage.quotas import ALL_KEYS, Meter

LONGEST_SECONDS: Final = 366 * 86_400
MOST_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True)
class Override:
    """`cap`: calls or seconds a month while it holds, None for no end. Times in Unix seconds;
    `ended_at` where somebody ended it before its time."""

    id: int
    subject: str
    meter: Meter
    cap: int | None
    starts_at: int
    ends_at: int
    reason: str
    granted_by: str
    granted_at: int
    ended_at: int | None
    ended_by: str

    def holds(self, now: int) -> bool:
        return self.ended_at is None and self.starts_at <= now < self.ends_at


def grant_override(
    engine: Engine,
    meter: Meter,
    cap: int | None,
    ends_at: int,
    reason: str,
    now: int,
    actor: Actor,
    subject: str = ALL_KEYS,
) -> int:
    """Lift the cap of a meter from now until `ends_at`; the override's id (blocking). Raises
    AccountInvalid."""
    with writer(engine).begin() as connection:
        return grant_in(connection, meter, cap, ends_at, reason, now, actor, subject)


def grant_in(
    connection: Connection,
    meter: Meter,
    cap: int | None,
    ends_at: int,
    reason: str,
    now: int,
    actor: Actor,
    subject: str,
) -> int:
    """The same in the caller's transaction."""
    reason = " ".join(reason.split())
    if cap is not None and not 0 < cap <= 10**12:
        raise AccountInvalid("cap", "Choose how much there may be a month, or nothing for no cap.")
    if not now < ends_at <= now + LONGEST_SECONDS:
        raise AccountInvalid("ends_at", "Choose an end within a year from now.")
    if not 1 <= len(reason) <= MOST_CHARACTERS or not is_readable(reason):
        sentence = f"Say why, in at most {MOST_CHARACTERS} characters."
        raise AccountInvalid("reason", sentence)
    told = {"meter": meter.value, "cap": cap, "ends_at": ends_at, "reason": reason}
    row = {**told, "subject": subject, "starts_at": now, "granted_at": now, "ended_by": ""}
    row["granted_by"] = actor.name
    made = connection.scalar(insert(QuotaOverride).values(row).returning(col(QuotaOverride.id)))
    record(connection, actor, "override.grant", f"{subject}#{made}", now, after=told)
    return int(made or 0)


def end_override(engine: Engine, override_id: int, now: int, actor: Actor) -> None:
    """End one that holds or is to come (blocking). Raises AccountUnknown."""
    ended = (
        update(QuotaOverride)
        .where(
            col(QuotaOverride.id) == override_id,
            col(QuotaOverride.ended_at).is_(None),
            col(QuotaOverride.ends_at) > now,
        )
        .values(ended_at=now, ended_by=actor.name)
        .returning(col(QuotaOverride.subject))
    )
    with writer(engine).begin() as connection:
        subject = connection.scalar(ended)
        if subject is None:
            raise AccountUnknown("There is no such override that still holds.")
        record(connection, actor, "override.end", f"{subject}#{override_id}", now)


def list_overrides(engine: Engine, subject: str = ALL_KEYS) -> list[Override]:
    """Of one subject, the newest first; also those that are over (blocking)."""
    statement = _ALL.where(col(QuotaOverride.subject) == subject)
    with engine.connect() as connection:
        rows = connection.execute(statement.order_by(col(QuotaOverride.id).desc())).mappings()
        return [_override(row) for row in rows]


def live_overrides(engine: Engine, now: int) -> list[Override]:
    """Those of all subjects that hold now (blocking)."""
    holding = (col(QuotaOverride.ended_at).is_(None), col(QuotaOverride.ends_at) > now)
    with engine.connect() as connection:
        return [_override(row) for row in connection.execute(_ALL.where(*holding)).mappings()]


def lifted(cap: int | None, overrides: Iterable[Override], meter: Meter, now: int) -> int | None:
    """The cap as it is at a moment: the highest of those that hold, None for no end."""
    for each in overrides:
        if each.meter is meter and each.holds(now) and cap is not None:
            cap = None if each.cap is None else max(cap, each.cap)
    return cap


def overrides_version(connection: Connection) -> tuple[int, int]:
    """Differs whenever one was granted or ended."""
    ended, last = func.count(col(QuotaOverride.ended_at)), func.max(col(QuotaOverride.id))
    found = connection.execute(select(last, ended)).one()
    return found[0] or 0, found[1]


def _override(row: Any) -> Override:
    return Override(**{**row, "meter": Meter(row["meter"])})


_ALL: Final[Any] = select(*(col(getattr(QuotaOverride, name)) for name in Override.__slots__))
