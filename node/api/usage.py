"""Who uses what: meters, integrators, tiers and overrides."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.calls import CallOut, call_out
from node.api.paging import Id, Listed, PageNumber, Sent, ShortText, listed
from node.api.routing import Caller, Endpoints
from node.api.stream_shapes import StreamOut
from node.preferences import read_preference
from node.usage.call_list import CallFilter, Cursor, read_calls
from node.usage.call_rate import HourBucket
from node.usage.integrators import (
    Integrator,
    MeterUse,
    StreamHour,
    read_detail,
    read_overview,
)
from node.usage.keys import read_key
from node.usage.live_streams import read_live
from node.usage.models import Side
from node.usage.overrides import Override, end_override, grant_override, list_overrides
from node.usage.quotas import Meter
from node.usage.tiers import MOST, Tier, UsageTiers, change_tiers

Amount = Annotated[int, Field(ge=0, le=MOST)]
_UTC = ZoneInfo("UTC")


class OverrideOut(BaseModel):
    """A cap that is lifted for a while: calls or seconds a month, null for none; `holds` now."""

    id: int
    meter: Meter
    cap: int | None
    starts_at: int
    ends_at: int
    reason: str
    granted_by: str
    granted_at: int
    ended_at: int | None
    ended_by: str
    holds: bool


class OverrideIn(Sent):
    """Lift a cap from now until `ends_at` (Unix seconds). `cap` null: none at all."""

    meter: Meter
    cap: Annotated[int, Field(ge=1, le=MOST)] | None = None
    ends_at: Annotated[int, Field(ge=0, le=2**40)]
    reason: ShortText


class MeterOut(BaseModel):
    """A meter this month, in calls or seconds: `quota` of its tier; `cap` as it is now, null
    for none; `percent` of the cap, cut."""

    meter: Meter
    tier: Tier
    quota: int
    cap: int | None
    used: int
    percent: int
    override: OverrideOut | None


class HourOut(BaseModel):
    """One hour of integrators' calls and streams; `at` in Unix seconds."""

    at: int
    succeeded: int
    errors: int
    stream_seconds: int


class IntegratorOut(BaseModel):
    """An integrator this month. `rate_limit_hits`: calls refused because they came too fast."""

    id: str
    name: str
    owner_email: str
    calls: int
    stream_seconds: int
    rate_limit_hits: int
    last_used_at: int | None
    revoked: bool


class UsageOut(BaseModel):
    """The month's meters and the last 24 hours (UTC). The month is [starts_at, ends_at)."""

    starts_at: int
    ends_at: int
    days_left: int
    integrators: int
    meters: list[MeterOut]
    hours: list[HourOut]


class KeyUsageOut(BaseModel):
    """One key's month and its last 24 hours (UTC)."""

    usage: IntegratorOut
    hours: list[HourOut]


class KeyCallsOut(BaseModel):
    """Requests of a key, newest first; `older` is the `before` of the next page."""

    items: list[CallOut]
    total: int
    older: str | None


class TiersOut(BaseModel):
    """The tier of each meter, and what tiers are: calls, and seconds of streams, a month."""

    calls: Tier
    streams: Tier
    free_calls: int
    pro_calls: int
    free_stream_seconds: int
    pro_stream_seconds: int


class TiersIn(Sent):
    """The fields that are sent are changed."""

    calls: Tier | None = None
    streams: Tier | None = None
    free_calls: Amount | None = None
    pro_calls: Amount | None = None
    free_stream_seconds: Amount | None = None
    pro_stream_seconds: Amount | None = None


def endpoints(engine: Engine) -> list[Endpoints]:
    """`/api/usage`, `/api/plans/tiers`, `/api/overrides`."""
    return [_usage(engine), _tiers(engine), _overrides(engine)]


def _usage(engine: Engine) -> Endpoints:
    api, see = Endpoints("/usage", ["usage"]), Permission.SEE_DEVELOPERS

    @api.get("", see)
    async def usage() -> UsageOut:
        found = await asyncio.to_thread(read_overview, engine, _now(), _UTC)
        return UsageOut(
            starts_at=found.window.start,
            ends_at=found.window.end,
            days_left=found.days_left,
            integrators=len(found.integrators),
            meters=[_meter(each, found.now) for each in found.meters],
            hours=_hours(found.hours, found.streams),
        )

    @api.get("/keys", see)
    async def integrators(page: PageNumber = 1) -> Listed[IntegratorOut]:
        """Those with most calls first."""
        found = await asyncio.to_thread(read_overview, engine, _now(), _UTC)
        return listed([_integrator(each) for each in found.integrators], page)

    @api.get("/keys/{key_id}", see)
    async def one_key(key_id: Id) -> KeyUsageOut:
        found = await asyncio.to_thread(read_detail, engine, key_id, _now(), _UTC)
        hours = _hours(found.hours, found.streams)
        return KeyUsageOut(usage=_integrator(found.sums), hours=hours)

    @api.get("/keys/{key_id}/streams", see)
    async def streams(key_id: Id, page: PageNumber = 1) -> Listed[StreamOut]:
        """Those that are open now, the longest open first."""
        key = await asyncio.to_thread(read_key, engine, key_id)
        found = await asyncio.to_thread(read_live, engine, Side.BOUGHT, _now(), key_id=key.id)
        return listed([StreamOut.model_validate(each) for each in found.streams], page)

    @api.get("/keys/{key_id}/calls", see)
    async def calls(
        key_id: Id,
        before: Annotated[str | None, Query(pattern="^[0-9]{1,15}-[!-~]{1,80}$")] = None,
        count: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> KeyCallsOut:
        key = await asyncio.to_thread(read_key, engine, key_id)
        after = None if before is None else Cursor.parse(before)
        wanted = CallFilter(Side.BOUGHT, key_id=key.id)
        page = await asyncio.to_thread(read_calls, engine, wanted, after, count)
        older = None if page.older is None else str(page.older)
        return KeyCallsOut(items=[call_out(c) for c in page.calls], total=page.total, older=older)

    return api


def _tiers(engine: Engine) -> Endpoints:
    api = Endpoints("/plans/tiers", ["usage"])

    @api.get("", Permission.SEE_DEVELOPERS)
    async def tiers() -> TiersOut:
        return _tiers_out(await asyncio.to_thread(read_preference, engine, UsageTiers))

    @api.patch("", Permission.MANAGE_PLANS)
    async def change(body: TiersIn, identity: Caller) -> TiersOut:
        before = _tiers_out(await asyncio.to_thread(read_preference, engine, UsageTiers))
        chosen = UsageTiers(**before.model_dump() | body.model_dump(exclude_none=True))
        await asyncio.to_thread(change_tiers, engine, chosen, Actor.of(identity), _now())
        return _tiers_out(chosen)

    return api


def _overrides(engine: Engine) -> Endpoints:
    api, manage = Endpoints("/overrides", ["usage"]), Permission.MANAGE_PLANS

    @api.get("", Permission.SEE_DEVELOPERS)
    async def overrides(page: PageNumber = 1) -> Listed[OverrideOut]:
        """Also those that are over, the newest first."""
        now, found = _now(), await asyncio.to_thread(list_overrides, engine)
        return listed([_override(each, now) for each in found], page)

    @api.post("", manage, status_code=201)
    async def grant(body: OverrideIn, identity: Caller) -> OverrideOut:
        now, actor = _now(), Actor.of(identity)
        asked = (body.meter, body.cap, body.ends_at, body.reason)
        made = await asyncio.to_thread(grant_override, engine, *asked, now, actor)
        found = await asyncio.to_thread(list_overrides, engine)
        return _override(next(each for each in found if each.id == made), now)

    @api.delete("/{override_id}", manage)
    async def end(override_id: Annotated[int, Field(ge=0, le=2**31)], identity: Caller) -> None:
        actor = Actor.of(identity)
        await asyncio.to_thread(end_override, engine, override_id, _now(), actor)

    return api


def _meter(use: MeterUse, now: int) -> MeterOut:
    return MeterOut(
        meter=use.meter,
        tier=use.tier,
        quota=use.quota,
        cap=use.cap,
        used=use.used,
        percent=use.percent,
        override=None if use.override is None else _override(use.override, now),
    )


def _override(each: Override, now: int) -> OverrideOut:
    names = [name for name in OverrideOut.model_fields if name != "holds"]
    return OverrideOut(**{name: getattr(each, name) for name in names}, holds=each.holds(now))


def _integrator(each: Integrator) -> IntegratorOut:
    return IntegratorOut(
        id=each.id,
        name=each.name,
        owner_email=each.owner_email,
        calls=each.calls,
        stream_seconds=each.stream_seconds,
        rate_limit_hits=each.hits,
        last_used_at=each.last_used_at,
        revoked=each.revoked,
    )


def _hours(hours: tuple[HourBucket, ...], streams: tuple[StreamHour, ...]) -> list[HourOut]:
    return [
        HourOut(
            at=hour.at, succeeded=hour.succeeded, errors=hour.errors, stream_seconds=stream.seconds
        )
        for hour, stream in zip(hours, streams, strict=True)
    ]


def _tiers_out(tiers: UsageTiers) -> TiersOut:
    return TiersOut(**{name: getattr(tiers, name) for name in TiersOut.model_fields})


def _now() -> int:
    return int(time.time())
