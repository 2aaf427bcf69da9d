"""One's own keys: what they used, what holds for them now, what happened to them."""

from __future__ import annotations

import asyncio
import time
from datetime import date
from typing import Annotated
from zoneinfo import ZoneInfo

from fastapi import Query
from pydantic import BaseModel, Field
from sqlalchemy import Engine

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import Id, Listed, PageNumber, Sent, listed
from node.api.routing import Caller, Endpoints
from node.plans.buying.read import SubscriptionView
from node.usage.endpoints import EndpointUse
from node.usage.key_record import Kind, RecordLine, read_record
from node.usage.keys import LONGEST_GRACE_SECONDS, KeyView, rotate_key
from node.usage.live import ReadLive
from node.usage.my_usage import (
    KeyMeter,
    KeyUsage,
    my_key,
    my_keys,
    read_key_endpoints,
    read_key_usage,
)
from node.usage.periods import Period, Span, read_period
from node.usage.quotas import Meter
from node.usage.tiers import Tier

_UTC = ZoneInfo("UTC")
Day = Annotated[date | None, Query(description="UTC; with span=days")]


class MyKeyOut(BaseModel):
    """A key of one's own. `previous_until`: when the token before the last one ends."""

    id: str
    name: str
    owner_email: str
    integrator: bool
    created_at: int
    revoked_at: int | None
    previous_until: int | None
    last_used_at: int | None
    scopes: list[str]
    per_minute: int | None


class CardsOut(BaseModel):
    """The last 90 days, or the `days` since the key was made. `avg_latency_us` null and
    `error_rate` 0 without requests; refused requests (`rate_limit_hits`) are not in `requests`."""

    requests: int
    days: int
    daily_average: float
    avg_latency_us: int | None
    errors: int
    error_rate: float
    rate_limit_hits: int


class KeyMeterOut(BaseModel):
    """A meter in calls or seconds: `mine` of this key; `used` of all integrators together, who
    share `cap` (null: no end)."""

    meter: Meter
    tier: Tier
    mine: int
    used: int
    cap: int | None
    percent: int


class HeldOut(BaseModel):
    """A subscription of this node, as its seller last said; quotas null: no end."""

    id: str
    listing_id: str
    listing: str
    plan: str
    state: str
    used_calls: int
    calls: int | None
    used_stream_seconds: int
    stream_seconds: int | None
    per_minute_now: int
    per_minute: int | None
    resets_at: int
    next_billing_at: int | None
    next_price_atoms: int


class MyUsageOut(BaseModel):
    """One key now. The month is [starts_at, ends_at); `meters` is empty for an internal key.
    `per_minute_now`: requests of the last 60 seconds."""

    key: MyKeyOut
    starts_at: int
    ends_at: int
    requests_this_month: int
    stream_seconds_this_month: int
    cards: CardsOut
    meters: list[KeyMeterOut]
    per_minute_now: int
    per_minute: int | None
    streams_open: int
    subscriptions: list[HeldOut]


class StatusOut(BaseModel):
    """Requests of an endpoint that were answered with one HTTP status."""

    status: int
    requests: int
    amount_atoms: int
    latency_us: int


class EndpointOut(BaseModel):
    """One route; `latency_us` is the sum over its requests."""

    listing_id: str
    listing: str
    route: str
    requests: int
    errors: int
    amount_atoms: int
    latency_us: int
    statuses: list[StatusOut]


class EndpointsOut(BaseModel):
    """Usage by endpoint of requests that arrived in [since, until), most requests first."""

    since: int
    until: int
    requests: int
    errors: int
    amount_atoms: int
    latency_us: int
    endpoints: list[EndpointOut]


class RecordOut(BaseModel):
    """One line of Support & Billings."""

    at: int
    kind: Kind
    about: str
    text: str
    by: str
    amount_atoms: int
    transaction: str
    state: str
    answer: str


class RegenerateIn(Sent):
    """How long the old token goes on."""

    grace_seconds: Annotated[int, Field(ge=0, le=LONGEST_GRACE_SECONDS)] = 0


class TokenMade(BaseModel):
    """The token is shown this once; the old one ends at `previous_until` (null: it has)."""

    id: str
    name: str
    secret: str
    previous_until: int | None


def endpoints(engine: Engine, live: ReadLive) -> Endpoints:
    """`/api/my-usage`."""
    api, own = Endpoints("/my-usage", ["usage"]), Permission.OWN_USAGE

    @api.get("", own)
    async def keys(identity: Caller, page: PageNumber = 1) -> Listed[MyKeyOut]:
        """Those whose owner's email is one's own; for admins all. Last used first."""
        found = await asyncio.to_thread(my_keys, engine, identity)
        return listed([_key(each) for each in found], page)

    @api.get("/{key_id}", own)
    async def usage(key_id: Id, identity: Caller) -> MyUsageOut:
        key, now = await asyncio.to_thread(my_key, engine, identity, key_id), _now()
        now_used = live(key.id, now)
        return _usage(await asyncio.to_thread(read_key_usage, engine, key, now_used, now))

    @api.get("/{key_id}/endpoints", own)
    async def by_endpoint(
        key_id: Id,
        identity: Caller,
        span: Span = Span.THIS_MONTH,
        first: Day = None,
        last: Day = None,
    ) -> EndpointsOut:
        """Months begin on the 1st at 00:01 UTC; `first` and `last` are days, both included."""
        key = await asyncio.to_thread(my_key, engine, identity, key_id)
        period = read_period(span, _now(), _UTC, first, last)
        found = await asyncio.to_thread(read_key_endpoints, engine, key, period)
        return _endpoints(period, found)

    @api.get("/{key_id}/record", own)
    async def record(key_id: Id, identity: Caller, page: PageNumber = 1) -> Listed[RecordOut]:
        """Newest first."""
        key = await asyncio.to_thread(my_key, engine, identity, key_id)
        lines = await asyncio.to_thread(read_record, engine, key, _now())
        return listed([_line(each) for each in lines], page)

    @api.post("/{key_id}/regenerate", own)
    async def regenerate(key_id: Id, body: RegenerateIn, identity: Caller) -> TokenMade:
        key, now = await asyncio.to_thread(my_key, engine, identity, key_id), _now()
        grace, actor = body.grace_seconds, Actor.of(identity)
        made = await asyncio.to_thread(rotate_key, engine, key.id, grace, now, actor)
        until = now + grace if grace else None
        return TokenMade(id=made.id, name=made.name, secret=made.secret, previous_until=until)

    return api


def _key(key: KeyView) -> MyKeyOut:
    return MyKeyOut(**{name: getattr(key, name) for name in MyKeyOut.model_fields})


def _usage(usage: KeyUsage) -> MyUsageOut:
    return MyUsageOut(
        key=_key(usage.key),
        starts_at=usage.window.start,
        ends_at=usage.window.end,
        requests_this_month=usage.month.calls,
        stream_seconds_this_month=usage.streams.seconds,
        cards=_cards(usage),
        meters=[_meter(each) for each in usage.meters],
        per_minute_now=usage.per_minute_now,
        per_minute=usage.key.per_minute,
        streams_open=usage.live.streams,
        subscriptions=[_held(each) for each in usage.subscriptions],
    )


def _cards(usage: KeyUsage) -> CardsOut:
    sums, days = usage.cards.sums, usage.cards.days
    return CardsOut(
        requests=sums.calls,
        days=days,
        daily_average=round(sums.calls / days, 3),
        avg_latency_us=sums.mean_latency_us,
        errors=sums.errors,
        error_rate=round(sums.errors / sums.calls, 6) if sums.calls else 0.0,
        rate_limit_hits=usage.cards.hits,
    )


def _meter(each: KeyMeter) -> KeyMeterOut:
    shared = each.shared
    return KeyMeterOut(
        meter=each.meter,
        tier=shared.tier,
        mine=each.mine,
        used=shared.used,
        cap=shared.cap,
        percent=shared.percent,
    )


def _held(each: SubscriptionView) -> HeldOut:
    same = [name for name in HeldOut.model_fields if name not in ("plan", "state")]
    facts = {name: getattr(each, name) for name in same}
    return HeldOut(**facts, plan=each.plan_name, state=each.state.value)


def _endpoints(period: Period, found: tuple[EndpointUse, ...]) -> EndpointsOut:
    rows = [_endpoint(each) for each in found]
    return EndpointsOut(
        since=period.since,
        until=period.until,
        requests=sum(row.requests for row in rows),
        errors=sum(row.errors for row in rows),
        amount_atoms=sum(row.amount_atoms for row in rows),
        latency_us=sum(row.latency_us for row in rows),
        endpoints=rows,
    )


def _endpoint(each: EndpointUse) -> EndpointOut:
    sums = each.sums
    statuses = [
        StatusOut(
            status=one.status,
            requests=one.sums.calls,
            amount_atoms=one.sums.amount_atoms,
            latency_us=one.sums.latency_us,
        )
        for one in each.statuses
    ]
    return EndpointOut(
        listing_id=each.listing_id,
        listing=each.name,
        route=each.route,
        requests=sums.calls,
        errors=sums.errors,
        amount_atoms=sums.amount_atoms,
        latency_us=sums.latency_us,
        statuses=statuses,
    )


def _line(each: RecordLine) -> RecordOut:
    return RecordOut(
        at=each.at,
        kind=each.kind,
        about=each.about,
        text=each.text,
        by=each.by,
        amount_atoms=each.atoms,
        transaction=each.tx_hash,
        state=each.state,
        answer=each.answer,
    )


def _now() -> int:
    return int(time.time())
