"""`farebox usage`: meters, integrators, tiers and overrides."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from node.accounts.audit import COMMAND
from node.commands.frame import database_of
from node.commands.key import Key
from node.commands.key_usage import endpoint_rows, key_facts, record_rows
from node.commands.output import Json, format_time, show_facts, show_rows
from node.durations import HOUR
from node.preferences import read_preference
from node.usage.integrators import MeterUse, read_meters, read_overview
from node.usage.key_record import read_record
from node.usage.keys import find_key
from node.usage.live import LiveUse
from node.usage.my_usage import read_key_endpoints, read_key_usage
from node.usage.overrides import end_override, grant_override, list_overrides
from node.usage.periods import Span, read_period
from node.usage.quotas import Meter
from node.usage.tiers import Tier, UsageTiers, change_tiers

app = typer.Typer(help="What integrators use, and what they may.", no_args_is_help=True)


@app.command()
def show(context: typer.Context, as_json: Json = False) -> None:
    """Both meters this month."""
    found = read_meters(database_of(context), int(time.time()))
    show_rows("This month", [_meter(each) for each in found], as_json, "")


@app.command()
def keys(context: typer.Context, as_json: Json = False) -> None:
    """Every integrator this month, those with most calls first."""
    found = read_overview(database_of(context), int(time.time()), ZoneInfo("UTC"))
    rows = [
        {
            "id": each.id,
            "name": each.name,
            "email": each.owner_email,
            "calls": each.calls,
            "stream_seconds": each.stream_seconds,
            "rate_limit_hits": each.hits,
            "last_seen": format_time(each.last_used_at) if each.last_used_at else None,
        }
        for each in found.integrators
    ]
    empty = "No integrators yet. Flag one with: farebox key change NAME --integrator"
    show_rows("Integrators", rows, as_json, empty)


@app.command()
def key(
    context: typer.Context,
    key: Key,
    as_json: Json = False,
) -> None:
    """One key: the last 90 days, its month, its subscriptions and next billing."""
    engine, now = database_of(context), int(time.time())
    usage = read_key_usage(engine, find_key(engine, key), LiveUse(), now)
    show_facts(key_facts(usage), as_json)


@app.command()
def endpoints(
    context: typer.Context,
    key: Key,
    span: Annotated[Span, typer.Option(help="Which period.")] = Span.THIS_MONTH,
    first: Annotated[datetime | None, typer.Option(help="With --span days; UTC.")] = None,
    last: Annotated[datetime | None, typer.Option(help="The same; included.")] = None,
    as_json: Json = False,
) -> None:
    """What a key called, by endpoint and status, most requests first."""
    engine = database_of(context)
    days = (each.date() if each else None for each in (first, last))
    period = read_period(span, int(time.time()), ZoneInfo("UTC"), *days)
    found = read_key_endpoints(engine, find_key(engine, key), period)
    rows = endpoint_rows(found)
    show_rows(f"{span.label}, by endpoint", rows, as_json, "No requests in this period.")


@app.command()
def record(
    context: typer.Context,
    key: Key,
    as_json: Json = False,
) -> None:
    """Changes of plan, payments, overrides and messages about a key, the newest first."""
    engine = database_of(context)
    found = read_record(engine, find_key(engine, key), int(time.time()))
    show_rows("Support & Billings", record_rows(found), as_json, "Nothing has happened yet.")


@app.command()
def tiers(
    context: typer.Context,
    calls: Annotated[Tier | None, typer.Option(help="Tier of API calls.")] = None,
    streams: Annotated[Tier | None, typer.Option(help="Tier of streams.")] = None,
    free_calls: Annotated[int | None, typer.Option(help="Calls a month.")] = None,
    pro_calls: Annotated[int | None, typer.Option(help="Calls a month.")] = None,
    free_hours: Annotated[int | None, typer.Option(help="Stream hours a month.")] = None,
    pro_hours: Annotated[int | None, typer.Option(help="Stream hours a month.")] = None,
    as_json: Json = False,
) -> None:
    """Show the tiers, or change what is named."""
    engine = database_of(context)
    wanted: dict[str, Any] = {
        "calls": calls,
        "streams": streams,
        "free_calls": free_calls,
        "pro_calls": pro_calls,
        "free_stream_seconds": None if free_hours is None else free_hours * HOUR,
        "pro_stream_seconds": None if pro_hours is None else pro_hours * HOUR,
    }
    before = read_preference(engine, UsageTiers)
    facts = {
        name: getattr(before, name) if value is None else value for name, value in wanted.items()
    }
    change_tiers(engine, UsageTiers(**facts), COMMAND, int(time.time()))
    show_facts({name: _plain(value) for name, value in facts.items()}, as_json)


@app.command()
def lift(
    context: typer.Context,
    meter: Annotated[Meter, typer.Argument(help="Whose cap.")],
    reason: Annotated[str, typer.Argument(help="Why.")],
    days: Annotated[int, typer.Option(help="For how long.", min=1, max=366)],
    cap: Annotated[
        int | None, typer.Option(help="Calls, or seconds of streams, a month; else no cap.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Lift the cap of a meter for some days; it ends by itself."""
    now = int(time.time())
    ends_at = now + days * 86_400
    engine = database_of(context)
    made = grant_override(engine, meter, cap, ends_at, reason, now, COMMAND)
    show_facts({"id": made, "meter": meter.value, "until": format_time(ends_at)}, as_json)


@app.command()
def overrides(context: typer.Context, as_json: Json = False) -> None:
    """Every override, the newest first."""
    now = int(time.time())
    rows = [
        {
            "id": each.id,
            "meter": each.meter.value,
            "cap": each.cap,
            "until": format_time(each.ends_at),
            "why": each.reason,
            "by": each.granted_by,
            "holds": each.holds(now),
        }
        for each in list_overrides(database_of(context))
    ]
    show_rows("Overrides", rows, as_json, "No cap was ever lifted.")


@app.command()
def end(
    context: typer.Context,
    override: Annotated[int, typer.Argument(help="Id of the override.", max=2**63 - 1)],
    as_json: Json = False,
) -> None:
    """End an override before its time."""
    end_override(database_of(context), override, int(time.time()), COMMAND)
    show_facts({"ended": override}, as_json)


def _meter(use: MeterUse) -> dict[str, Any]:
    until = None if use.override is None else format_time(use.override.ends_at)
    return {
        "meter": use.meter.value,
        "tier": use.tier.value,
        "used": use.used,
        "cap": use.cap,
        "percent": use.percent,
        "lifted_until": until,
    }


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Tier) else value
