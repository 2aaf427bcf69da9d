"""Developers > My usage: one consumer key with its figures, its limits and its subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select
from sqlmodel import col

from finance.snapshot import snapshot
from node.accounts.access import Identity, Role
from node.accounts.errors import AccountUnknown
from node.accounts.users import read_user
from node.durations import DAY
from node.plans.buying.read import SubscriptionView, list_subscriptions
from node.usage.calls import slot_of
from node.usage.endpoints import EndpointUse, read_endpoints
from node.usage.integrators import MeterUse, read_meters
from node.usage.keys import KeyView, list_keys
from node.usage.live import LiveUse
from node.usage.metering import QuotaUsage, RateHits
from node.usage.models import Call, Side
from node.usage.periods import Period
from node.usage.quotas import Meter, key_subject
from node.usage.stream_time import By, StreamTime, read_totals
from node.usage.windows import Sums, Window, add_up, last_seconds, window_of

CARD_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Cards:
    """The last 90 days. `days`: of them, since the key was made, the present one included;
    `hits`: calls refused because they came too fast, which are no calls."""

    sums: Sums
    days: int
    hits: int


@dataclass(frozen=True, slots=True)
class KeyMeter:
    """A meter of the node, shared by its integrators, and what this key has used of it."""

    meter: Meter
    mine: int
    shared: MeterUse


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """One key. `meters` is empty for an internal one; `month` are its calls of this window,
    refused ones and all, `streams` its time of streams in it; `per_minute_now` the requests of
    the last sixty seconds."""

    now: int
    key: KeyView
    window: Window
    cards: Cards
    month: Sums
    streams: StreamTime
    meters: tuple[KeyMeter, ...]
    live: LiveUse
    per_minute_now: int
    subscriptions: tuple[SubscriptionView, ...]

    @property
    def next_billings(self) -> tuple[SubscriptionView, ...]:
        """Subscriptions that renew, the next one first."""
        due = [each for each in self.subscriptions if each.next_billing_at is not None]
        return tuple(sorted(due, key=lambda each: (each.next_billing_at, each.id)))


def my_keys(engine: Engine, identity: Identity) -> tuple[KeyView, ...]:
    """The keys whose usage somebody may see, the one that was used last first (blocking).

    Admins: every key. Others: those whose owner's email is their own.
    """
    keys = list_keys(engine)
    if identity.role is not Role.ADMIN:
        email = read_user(engine, identity.user_id).email.casefold()
        keys = [each for each in keys if email and each.owner_email.casefold() == email]
    return tuple(sorted(keys, key=_by_use))


def my_key(engine: Engine, identity: Identity, key_id: str) -> KeyView:
    """One of them (blocking). Raises AccountUnknown, also for a key of somebody else."""
    for each in my_keys(engine, identity):
        if each.id == key_id:
            return each
    raise AccountUnknown("There is no such key of yours.")


def read_key_usage(engine: Engine, key: KeyView, live: LiveUse, now: int) -> KeyUsage:
    """Everything but the table by endpoint and the record (blocking)."""
    window = window_of(now)
    with snapshot(engine) as connection:
        month = _sums(connection, key, window.start, now + 1)
        streams = read_totals(connection, Side.BOUGHT, window.start, now + 1, By.KEY)
        cards, used = _cards(connection, key, now), _used(connection, key, window)
        minute = _minute(connection, key, live, now)
    shared = read_meters(engine, now) if key.integrator else ()
    return KeyUsage(
        now=now,
        key=key,
        window=window,
        cards=cards,
        month=month,
        streams=streams.get(key.id, StreamTime()),
        meters=tuple(KeyMeter(each.meter, used.get(each.meter, 0), each) for each in shared),
        live=live,
        per_minute_now=minute,
        subscriptions=tuple(each for each in subscriptions_of(engine, key, now) if each.live),
    )


def read_key_endpoints(engine: Engine, key: KeyView, period: Period) -> tuple[EndpointUse, ...]:
    """Usage by endpoint, most calls first (blocking)."""
    with snapshot(engine) as connection:
        return read_endpoints(connection, Side.BOUGHT, period.since, period.until, whose=key.id)


def subscriptions_of(engine: Engine, key: KeyView, now: int) -> Sequence[SubscriptionView]:
    """What this node subscribed to, of the listings the key may call; also what is over, with
    records (blocking)."""
    found = list_subscriptions(engine, now, records=True)
    return [each for each in found if not key.scopes or each.listing_id in key.scopes]


def _by_use(key: KeyView) -> tuple[bool, int, str, str]:
    return key.revoked_at is not None, -(key.last_used_at or 0), key.name.casefold(), key.id


def _sums(connection: Connection, key: KeyView, since: int, until: int) -> Sums:
    found = read_endpoints(connection, Side.BOUGHT, since, until, whose=key.id)
    return add_up(each.sums for each in found)


def _cards(connection: Connection, key: KeyView, now: int) -> Cards:
    since, until = last_seconds(CARD_DAYS * DAY, now)
    hits = select(func.sum(RateHits.hits)).where(
        col(RateHits.subject) == key_subject(key.id), col(RateHits.slot) >= slot_of(since)
    )
    days = max(-(-(until - max(since, key.created_at)) // DAY), 1)
    return Cards(_sums(connection, key, since, until), days, int(connection.scalar(hits) or 0))


def _minute(connection: Connection, key: KeyView, live: LiveUse, now: int) -> int:
    """The proxy counts the keys that have a limit; others are looked up in the journal."""
    if live.per_minute is not None and key.per_minute is not None:
        return live.per_minute
    since, until = last_seconds(60, now)
    statement = select(func.count()).where(
        col(Call.side) == Side.BOUGHT,
        col(Call.at_ms) >= since * 1000,
        col(Call.at_ms) < until * 1000,
        col(Call.key_id) == key.id,
    )
    return connection.scalar(statement) or 0


def _used(connection: Connection, key: KeyView, window: Window) -> dict[Meter, int]:
    statement = select(col(QuotaUsage.meter), col(QuotaUsage.used)).where(
        col(QuotaUsage.subject) == key_subject(key.id),
        col(QuotaUsage.window_start) == window.start,
    )
    return {Meter(row[0]): int(row[1]) for row in connection.execute(statement)}
