"""Who uses what: the month's meters, every integrator, and each one's hours.

What counts against a quota is read from `quota_usage`; hours are of all calls, also those
that failed or were refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, func, or_, select
from sqlmodel import col

from finance.snapshot import snapshot
from node.durations import HOUR
from node.preferences import read_preference
from node.usage.call_rate import HourBucket, hours_until
from node.usage.calls import slot_of
from node.usage.key_calls import KeyHours, read_key_hours
from node.usage.keys import KeyView, read_key
from node.usage.metering import QuotaUsage, RateHits
from node.usage.models import ConsumerKey, Side
from node.usage.overrides import Override, lifted, live_overrides
from node.usage.quotas import ALL_KEYS, Meter, key_subject
from node.usage.stream_time import By, read_hours
from node.usage.tiers import Tier, UsageTiers
from node.usage.windows import Window, window_of

HOURS = 24
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class MeterUse:
    """A meter this month: `quota` of its tier; `cap` as it is now, None for no end; `override`
    that lifts it. Calls, or seconds."""

    meter: Meter
    tier: Tier
    quota: int
    cap: int | None
    used: int
    override: Override | None

    @property
    def percent(self) -> int:
        """Of the cap, cut; 0 without one."""
        if self.cap is None:
            return 0
        return self.used * 100 // self.cap if self.cap else 100


@dataclass(frozen=True, slots=True)
class Integrator:
    """An integrator this month; `hits`: calls refused because they came too fast."""

    id: str
    name: str
    owner_email: str
    calls: int
    stream_seconds: int
    hits: int
    last_used_at: int | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class StreamHour:
    """Seconds of streams in the hour that begins at `at`."""

    at: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything Developers > Overview shows, raw. Integrators by use, most calls first."""

    now: int
    window: Window
    meters: tuple[MeterUse, ...]
    integrators: tuple[Integrator, ...]
    hours: tuple[HourBucket, ...]
    streams: tuple[StreamHour, ...]

    @property
    def days_left(self) -> int:
        """Days until the month ends, the present one included."""
        return -(-(self.window.end - self.now) // DAY_SECONDS)


@dataclass(frozen=True, slots=True)
class IntegratorDetail:
    """One integrator with its last 24 hours."""

    key: KeyView
    sums: Integrator
    hours: tuple[HourBucket, ...]
    streams: tuple[StreamHour, ...]


def read_overview(engine: Engine, now: int, zone: ZoneInfo) -> Overview:
    """The month so far and the last 24 hours on the zone's clock (blocking)."""
    starts = hours_until(now, zone, HOURS)
    with snapshot(engine) as connection:
        integrators = read_integrators(connection, now)
        hours = read_key_hours(connection, starts)
    return Overview(
        now,
        window_of(now),
        read_meters(engine, now),
        integrators,
        _buckets(hours, starts),
        _stream_hours(engine, starts, {each.id for each in integrators}),
    )


def read_detail(engine: Engine, key_id: str, now: int, zone: ZoneInfo) -> IntegratorDetail:
    """One key, integrator or not (blocking). Raises AccountUnknown."""
    key, starts = read_key(engine, key_id), hours_until(now, zone, HOURS)
    with snapshot(engine) as connection:
        found = read_integrators(connection, now, key_id)
        hours = read_key_hours(connection, starts, key_id)
    return IntegratorDetail(
        key, found[0], _buckets(hours, starts), _stream_hours(engine, starts, {key_id})
    )


def read_meters(engine: Engine, now: int) -> tuple[MeterUse, ...]:
    """Both meters this month (blocking)."""
    tiers, overrides = read_preference(engine, UsageTiers), live_overrides(engine, now)
    statement = (
        select(col(QuotaUsage.meter), func.sum(QuotaUsage.used))
        .where(
            col(QuotaUsage.window_start) == window_of(now).start,
            col(QuotaUsage.subject).startswith(ALL_KEYS, autoescape=True),
        )
        .group_by(col(QuotaUsage.meter))
    )
    with engine.connect() as connection:
        used = {row[0]: int(row[1]) for row in connection.execute(statement)}
    mine = [each for each in overrides if each.subject == ALL_KEYS]
    return tuple(_meter_use(meter, tiers, mine, used.get(meter.value, 0), now) for meter in Meter)


def read_integrators(
    connection: Connection, now: int, key_id: str | None = None
) -> tuple[Integrator, ...]:
    """Keys that are integrators, or were metered this month; or one key (blocking)."""
    window = window_of(now)
    used = _used(connection, window.start)
    hits = _hits(connection, slot_of(window.start))
    wanted = or_(
        col(ConsumerKey.integrator) & col(ConsumerKey.revoked_at).is_(None),
        col(ConsumerKey.id).in_({subject[len(ALL_KEYS) :] for subject, _ in used}),
    )
    statement = select(
        col(ConsumerKey.id),
        col(ConsumerKey.name),
        col(ConsumerKey.owner_email),
        col(ConsumerKey.last_used_at),
        col(ConsumerKey.revoked_at),
    ).where(wanted if key_id is None else col(ConsumerKey.id) == key_id)
    found = []
    for row in connection.execute(statement):
        subject = key_subject(row.id)
        found.append(
            Integrator(
                id=row.id,
                name=row.name,
                owner_email=row.owner_email,
                calls=used.get((subject, Meter.CALLS), 0),
                stream_seconds=used.get((subject, Meter.STREAM_SECONDS), 0),
                hits=hits.get(subject, 0),
                last_used_at=row.last_used_at,
                revoked=row.revoked_at is not None,
            )
        )
    return tuple(sorted(found, key=_by_use))


def _by_use(each: Integrator) -> tuple[int, int, str, str]:
    return -each.calls, -each.stream_seconds, each.name.casefold(), each.id


def _used(connection: Connection, window_start: int) -> dict[tuple[str, str], int]:
    statement = select(col(QuotaUsage.subject), col(QuotaUsage.meter), col(QuotaUsage.used)).where(
        col(QuotaUsage.window_start) == window_start,
        col(QuotaUsage.subject).startswith(ALL_KEYS, autoescape=True),
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(statement)}


def _hits(connection: Connection, first_slot: int) -> dict[str, int]:
    statement = (
        select(col(RateHits.subject), func.sum(RateHits.hits))
        .where(col(RateHits.slot) >= first_slot)
        .group_by(col(RateHits.subject))
    )
    return {row[0]: int(row[1]) for row in connection.execute(statement)}


def _meter_use(
    meter: Meter, tiers: UsageTiers, overrides: list[Override], used: int, now: int
) -> MeterUse:
    quota = tiers.quota(meter)
    cap = lifted(quota, overrides, meter, now)
    holding = [each for each in overrides if each.meter is meter and each.holds(now)]
    lifting = next((each for each in holding if each.cap == cap), None)
    return MeterUse(meter, tiers.tier(meter), quota, cap, used, lifting if cap != quota else None)


def _buckets(hours: KeyHours, starts: tuple[int, ...]) -> tuple[HourBucket, ...]:
    sums = [(at, hours.together(at)) for at in starts]
    return tuple(HourBucket(at, each.succeeded, each.errors) for at, each in sums)


def _stream_hours(
    engine: Engine, starts: tuple[int, ...], keys: set[str]
) -> tuple[StreamHour, ...]:
    """Of these keys, by the hours of the viewer's clock."""
    hours = []
    for start in starts:
        found = read_hours(engine, Side.BOUGHT, start, start + HOUR, By.KEY)
        hours.append(StreamHour(start, sum(each.seconds for each in found if each.of in keys)))
    return tuple(hours)
