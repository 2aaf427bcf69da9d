"""The first page as raw figures, read in one snapshot: pages and JSON format the same values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, Engine, select
from sqlmodel import col

from catalog.models import Listing, ListingOrigin
from finance.networks import Network
from finance.snapshot import snapshot
from node.durations import DAY, HOUR
from node.usage.breakdown import ApiSums, api_sums
from node.usage.call_rate import HourBucket, hour_buckets, hours_until
from node.usage.kpis import Balances
from node.usage.models import CallRollup, CallTotal, Side
from node.usage.signals import ReadSignals
from node.usage.windows import (
    Sums,
    add_up,
    last_seconds,
    read_slots,
    sum_between,
    sum_calls,
    whole_slots,
)

WEEK = 7 * DAY


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the first page's figures come from. `address` is the wallet's; `started_at` is
    when this process started, `looked_at` when the chain last told the balances (None: not
    yet), both in Unix seconds."""

    engine: Engine
    network: Network
    address: str
    gateway_url: str
    started_at: int
    balances: Callable[[], Balances]
    looked_at: Callable[[], int | None]
    signals: ReadSignals


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One side of the node. `day` and `week` end with the present second; `hours` are 48 on
    the viewer's clock; `apis` has the most called first; `ever` is their sum."""

    side: Side
    now: int
    day: Sums
    week: Sums | None  # served only
    ever: Sums
    hours: tuple[HourBucket, ...]
    apis: tuple[ApiSums, ...]
    any_calls: bool  # on either side


def read_dashboard(
    engine: Engine, side: Side | None, now: int, zone: ZoneInfo | None = None
) -> Dashboard:
    """Everything but balances and events (blocking). Without a side, the one this node is
    busy on; hours begin on the clock of `zone`, UTC without one."""
    starts = hours_until(now, zone or ZoneInfo("UTC"))
    with snapshot(engine) as connection:
        shown = side or own_side(connection)
        slots = read_slots(connection, shown, starts[0], starts[-1] + HOUR)
        apis = api_sums(connection, shown)
        return Dashboard(
            side=shown,
            now=now,
            day=_sum_day(connection, shown, now, slots),
            week=_sum_week(connection, now) if shown is Side.SERVED else None,
            ever=add_up(api.sums for api in apis),
            hours=hour_buckets(starts, slots),
            apis=apis,
            any_calls=bool(apis) or _was_called(connection, _OTHER[shown]),
        )


def read_call_rate(
    engine: Engine, side: Side | None, now: int, zone: ZoneInfo
) -> tuple[Side, tuple[HourBucket, ...]]:
    """The 48 hours alone (blocking)."""
    starts = hours_until(now, zone)
    with snapshot(engine) as connection:
        shown = side or own_side(connection)
        return shown, hour_buckets(
            starts, read_slots(connection, shown, starts[0], starts[-1] + HOUR)
        )


def own_side(connection: Connection) -> Side:
    """Seller once this node has a listing of its own and served a call, else buyer."""
    own = select(col(Listing.id)).where(col(Listing.origin) == ListingOrigin.OWN).limit(1)
    selling = connection.scalar(own) is not None and _was_called(connection, Side.SERVED)
    return Side.SERVED if selling else Side.BOUGHT


def busy_side(engine: Engine) -> Side:
    """The same for those who only need to know the side (blocking)."""
    with snapshot(engine) as connection:
        return own_side(connection)


def read_breakdown(engine: Engine, side: Side | None) -> tuple[Side, tuple[ApiSums, ...]]:
    """The APIs alone, the most called first (blocking)."""
    with snapshot(engine) as connection:
        shown = side or own_side(connection)
        return shown, api_sums(connection, shown)


_OTHER = {Side.SERVED: Side.BOUGHT, Side.BOUGHT: Side.SERVED}


def _was_called(connection: Connection, side: Side) -> bool:
    return any(
        connection.scalar(select(col(table.side)).where(col(table.side) == side).limit(1))
        for table in (CallTotal, CallRollup)
    )


def _sum_week(connection: Connection, now: int) -> Sums:
    return sum_between(connection, Side.SERVED, *last_seconds(WEEK, now))


def _sum_day(connection: Connection, side: Side, now: int, slots: dict[int, Sums]) -> Sums:
    """The last 24 hours, from the quarter-hours of the chart that are wholly inside."""
    since, until = last_seconds(DAY, now)
    first, last = whole_slots(since, until)
    return add_up(
        (
            sum_calls(connection, side, since, first),
            *(sums for slot, sums in slots.items() if first <= slot < last),
            sum_calls(connection, side, last, until),
        )
    )
