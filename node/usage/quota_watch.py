"""What is worth telling about quotas and keys. Reads only (blocking)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from finance.snapshot import snapshot
from node.db.engine import writer
from node.durations import DAY, HOUR
from node.usage.integrators import MeterUse, read_meters
from node.usage.key_calls import KeyHours, read_key_hours
from node.usage.metering import QuotaNotice
from node.usage.models import ConsumerKey
from node.usage.quotas import ALL_KEYS, Meter
from node.usage.windows import window_of

SUSTAINED_SECONDS: Final = 3 * DAY
WEEK_HOURS: Final = 7 * 24
QUIET_HOURS: Final = 24
QUIET_CALLS: Final = 70  # in the week before: ten a day, or it was never loud
JUMP_CALLS: Final = 100  # fewer in an hour are no spike
JUMP_TIMES: Final = 3  # as many as in the busiest hour of the week before

NEAR: Final = "quota_near"
FULL: Final = "quota_full"
SUSTAINED: Final = "quota_sustained"
PERCENT: Final = {NEAR: 80, FULL: 100}


@dataclass(frozen=True, slots=True)
class Crossing:
    """A threshold that is passed now. `told`: already this month; `subject` names meter and
    month."""

    rule: str
    meter: Meter
    subject: str
    message: str
    told: bool


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What a key does that it did not do before."""

    key_id: str
    message: str


def read_crossings(engine: Engine, now: int) -> list[Crossing]:
    """Every threshold that this month's use is past."""
    window = window_of(now)
    with engine.connect() as connection:
        told = _told(connection, window.start)
    month = datetime.fromtimestamp(window.start, UTC).strftime("%Y-%m")
    found = []
    for use in read_meters(engine, now):
        for rule in _past(use, told, now):
            subject, message = f"{use.meter.value} {month}", _message(rule, use, window.end)
            found.append(Crossing(rule, use.meter, subject, message, (use.meter, rule) in told))
    return found


def remember(engine: Engine, crossing: Crossing, now: int) -> None:
    """It has been told; twice is harmless."""
    row = {
        "subject": ALL_KEYS,
        "meter": crossing.meter.value,
        "window_start": window_of(now).start,
        "rule": crossing.rule,
        "at": now,
    }
    try:
        with writer(engine).begin() as connection:
            connection.execute(insert(QuotaNotice), row)
    except IntegrityError:
        return


def read_quiet_and_jumped(engine: Engine, now: int) -> tuple[list[KeyReport], list[KeyReport]]:
    """Integrators that stopped calling, and those that call as never in their last week."""
    last = now - now % 900 + 900
    starts = tuple(last - HOUR * back for back in range(WEEK_HOURS + QUIET_HOURS, 0, -1))
    with snapshot(engine) as connection:
        hours = read_key_hours(connection, starts)
        names = _names(connection)
    known = [key_id for key_id in hours.sums if key_id in names]
    quiet = [_quiet(hours, starts, key_id, names[key_id]) for key_id in known]
    jumped = [_jumped(hours, starts, key_id, names[key_id]) for key_id in known]
    return [each for each in quiet if each], [each for each in jumped if each]


def _past(use: MeterUse, told: dict[tuple[str, str], int], now: int) -> list[str]:
    if use.cap is None:
        return []
    past = [rule for rule, percent in PERCENT.items() if use.percent >= percent]
    since = told.get((use.meter, NEAR), now)
    if past and now - since >= SUSTAINED_SECONDS:
        past.append(SUSTAINED)
    return past


def _message(rule: str, use: MeterUse, resets_at: int) -> str:
    until = datetime.fromtimestamp(resets_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    used = amount_text(use.meter, use.used)
    share = f"{used} of {amount_text(use.meter, use.cap or 0)} {_NOUNS[use.meter]}"
    if rule == FULL:
        return f"The quota is used up: {share}. Integrators are refused with 402 until {until}."
    if rule == SUSTAINED:
        return f"Over 80 % for three days: {share}. A higher tier keeps integrators served."
    return f"{use.percent} % of the quota is used: {share}. It begins anew on {until}."


def amount_text(meter: Meter, value: int) -> str:
    """Calls as they are, seconds as hours with one decimal, cut."""
    if meter is Meter.CALLS:
        return f"{value:,}"
    return f"{value // HOUR:,}.{value % HOUR * 10 // HOUR}"


def _quiet(hours: KeyHours, starts: tuple[int, ...], key_id: str, name: str) -> KeyReport | None:
    day, week = starts[-QUIET_HOURS:], starts[:-QUIET_HOURS]
    before = sum(hours.of(key_id, at).calls for at in week)
    if before < QUIET_CALLS or any(hours.of(key_id, at).calls for at in day):
        return None
    return KeyReport(key_id, f"{name} made {before:,} calls in the week before, none for a day.")


def _jumped(hours: KeyHours, starts: tuple[int, ...], key_id: str, name: str) -> KeyReport | None:
    week = starts[-WEEK_HOURS - 1 : -1]
    calls = hours.of(key_id, starts[-1]).calls
    busiest = max(hours.of(key_id, at).calls for at in week)
    if not busiest or calls < JUMP_CALLS or calls <= JUMP_TIMES * busiest:
        return None
    sentence = f"{name} made {calls:,} calls within an hour; its busiest hour of the last week"
    return KeyReport(key_id, f"{sentence} had {busiest:,}.")


def _told(connection: Connection, window_start: int) -> dict[tuple[str, str], int]:
    statement = select(col(QuotaNotice.meter), col(QuotaNotice.rule), col(QuotaNotice.at)).where(
        col(QuotaNotice.subject) == ALL_KEYS, col(QuotaNotice.window_start) == window_start
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


def _names(connection: Connection) -> dict[str, str]:
    valid = (col(ConsumerKey.integrator), col(ConsumerKey.revoked_at).is_(None))
    statement = select(col(ConsumerKey.id), col(ConsumerKey.name)).where(*valid)
    return {row[0]: row[1] for row in connection.execute(statement)}


_NOUNS: Final = {Meter.CALLS: "calls", Meter.STREAM_SECONDS: "hours of streams"}
