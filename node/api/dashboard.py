"""The first page's figures: the same use cases as the console, raw."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import Query
from pydantic import AfterValidator, BaseModel

from node.accounts.access import Permission
from node.api.paging import Listed, PageNumber, listed
from node.api.routing import Endpoints
from node.usage.breakdown import ApiSums, SortBy, sort_breakdown
from node.usage.call_rate import HourBucket
from node.usage.dashboard import (
    Dashboard,
    Sources,
    read_breakdown,
    read_call_rate,
    read_dashboard,
)
from node.usage.models import Side
from node.usage.signals import Signals
from node.usage.windows import Sums


class SideName(StrEnum):
    """Which side of this node: `buyer` calls it bought, `seller` calls it served."""

    BUYER = "buyer"
    SELLER = "seller"

    @classmethod
    def of(cls, side: Side) -> SideName:
        return cls.SELLER if side is Side.SERVED else cls.BUYER

    @property
    def side(self) -> Side:
        return Side.SERVED if self is SideName.SELLER else Side.BOUGHT


class OrderName(StrEnum):
    ASCENDING = "asc"
    DESCENDING = "desc"


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("is no time zone; an example of one is Europe/Berlin") from None
    return name


Zone = Annotated[
    str,
    Query(max_length=64, description="IANA time zone on whose clock hours begin"),
    AfterValidator(_known_zone),
]
SideQuery = Annotated[
    SideName | None, Query(description="without it, the side this node is busy on")
]


class SumsOut(BaseModel):
    """Calls added up; `amount_atoms` is what they cost (buyer) or earned (seller)."""

    calls: int
    succeeded: int
    errors: int
    amount_atoms: int
    average_latency_us: int | None


class CallHourOut(BaseModel):
    """One hour from `at` (Unix seconds)."""

    at: int
    succeeded: int
    errors: int


class SignalsOut(BaseModel):
    """What must not be overlooked."""

    serving_paused: bool
    paused_by_hand: bool
    backup_overdue: bool
    days_without_backup: int
    ever_backed_up: bool


class DashboardOut(BaseModel):
    """One side. Windows end with the second `at`; `last_7d` is for sellers. Balances are those
    of `balances_at`, null until the chain has answered once."""

    side: SideName
    at: int
    uptime_seconds: int
    usdc_atoms: int | None
    gas_wei: str | None
    balances_at: int | None
    last_24h: SumsOut
    last_7d: SumsOut | None
    all_time: SumsOut
    hours: list[CallHourOut]
    signals: SignalsOut


class CallRateOut(BaseModel):
    """48 hours, the present one last and up to `at`."""

    side: SideName
    at: int
    zone: str
    hours: list[CallHourOut]


class ApiOut(BaseModel):
    """One API since its first call; `name` is the id when the listing is gone."""

    listing_id: str
    name: str
    sums: SumsOut


class BreakdownOut(Listed[ApiOut]):
    """A page of the APIs of one side."""

    side: SideName


def endpoints(sources: Sources) -> Endpoints:
    """`/api/dashboard`, `/api/call-rate`, `/api/breakdown`."""
    area = Endpoints("", ["dashboard"])
    engine = sources.engine

    @area.get("/dashboard", Permission.SEE_DASHBOARD)
    async def dashboard(side: SideQuery = None, zone: Zone = "UTC") -> DashboardOut:
        """Cards, call rate and signals of one side."""
        now = int(time.time())
        asked = _asked(side)
        page = await asyncio.to_thread(read_dashboard, engine, asked, now, ZoneInfo(zone))
        signals = await asyncio.to_thread(sources.signals, now)
        return _dashboard(sources, page, signals)

    @area.get("/call-rate", Permission.SEE_DASHBOARD)
    async def call_rate(side: SideQuery = None, zone: Zone = "UTC") -> CallRateOut:
        """Calls per hour of the last 48 hours."""
        now = int(time.time())
        asked = _asked(side)
        shown, hours = await asyncio.to_thread(read_call_rate, engine, asked, now, ZoneInfo(zone))
        return CallRateOut(side=SideName.of(shown), at=now, zone=zone, hours=_hours(hours))

    @area.get("/breakdown", Permission.SEE_DASHBOARD)
    async def breakdown(
        side: SideQuery = None,
        sort: SortBy = SortBy.CALLS,
        order: OrderName = OrderName.DESCENDING,
        page: PageNumber = 1,
    ) -> BreakdownOut:
        """Every API of one side with its sums since the first call."""
        shown, apis = await asyncio.to_thread(read_breakdown, engine, _asked(side))
        rows = sort_breakdown(apis, sort, order is OrderName.DESCENDING)
        found = listed(rows, page)
        return BreakdownOut(
            items=[_api(row) for row in found.items],
            total=found.total,
            page=found.page,
            pages=found.pages,
            side=SideName.of(shown),
        )

    return area


def _asked(side: SideName | None) -> Side | None:
    return None if side is None else side.side


def _dashboard(sources: Sources, page: Dashboard, signals: Signals) -> DashboardOut:
    balances = sources.balances()
    return DashboardOut(
        side=SideName.of(page.side),
        at=page.now,
        uptime_seconds=max(page.now - sources.started_at, 0),
        usdc_atoms=None if balances.usdc is None else int(balances.usdc),
        gas_wei=None if balances.gas is None else str(int(balances.gas)),
        balances_at=sources.looked_at(),
        last_24h=_sums(page.day),
        last_7d=None if page.week is None else _sums(page.week),
        all_time=_sums(page.ever),
        hours=_hours(page.hours),
        signals=SignalsOut(
            serving_paused=signals.serving_paused,
            paused_by_hand=signals.paused_by_hand,
            backup_overdue=signals.backup_overdue,
            days_without_backup=signals.days_without_backup,
            ever_backed_up=signals.ever_backed_up,
        ),
    )


def _sums(sums: Sums) -> SumsOut:
    return SumsOut(
        calls=sums.calls,
        succeeded=sums.succeeded,
        errors=sums.errors,
        amount_atoms=sums.amount_atoms,
        average_latency_us=sums.mean_latency_us,
    )


def _hours(hours: Sequence[HourBucket]) -> list[CallHourOut]:
    return [CallHourOut(at=hour.at, succeeded=hour.succeeded, errors=hour.errors) for hour in hours]


def _api(row: ApiSums) -> ApiOut:
    return ApiOut(listing_id=row.listing_id, name=row.name, sums=_sums(row.sums))
