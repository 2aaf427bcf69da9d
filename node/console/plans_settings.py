"""Settings > Plans: the tier of each meter, what tiers are, and overrides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from starlette.responses import Response

from node.accounts.access import Permission
from node.accounts.errors import AccountInvalid
from node.console.developers_view import NAMES, MeterCard, meter_card, quantity, utc
from node.console.format import Moment, moment
from node.console.forms import FieldError, Form, in_units, read_units, read_whole
from node.console.pager import Pager, page_of
from node.console.pages import Pages
from node.console.visit import Visit
from node.durations import HOUR
from node.preferences import read_preference
from node.usage.integrators import MeterUse, read_meters
from node.usage.overrides import Override, end_override, grant_override, list_overrides
from node.usage.quotas import Meter
from node.usage.tiers import Tier, UsageTiers, change_tiers
from node.usage.windows import window_of

PATH: Final = "/settings/plans"
PAGE_ROWS: Final = 20
_FORM_BYTES: Final = 16_000
_TIERS: Final = tuple((tier.value, tier.label) for tier in Tier)
_METERS: Final = tuple((meter.value, NAMES[meter]) for meter in Meter)
_CALLS: Final = ("free_calls", "pro_calls")
_SECONDS: Final = ("free_stream_seconds", "pro_stream_seconds")
_CSV: Final = (
    "id",
    "meter",
    "cap",
    "from_utc",
    "until_utc",
    "why",
    "by",
    "granted_utc",
    "ended_utc",
    "ended_by",
)


@dataclass(frozen=True, slots=True)
class OverrideRow:
    """One override; `state` is holds, over or ended."""

    id: int
    meter: str
    cap: str
    since: Moment
    until: Moment
    reason: str
    by: str
    state: str
    tone: str
    ended: str


@dataclass(frozen=True, slots=True)
class PlansView:
    """Everything `settings/plans.html` shows. Options are (value, label)."""

    form: Form
    grant: Form
    meters: tuple[MeterCard, ...]
    tiers: tuple[tuple[str, str], ...]
    meter_names: tuple[tuple[str, str], ...]
    overrides: tuple[OverrideRow, ...]
    pager: Pager
    zone: str
    may_manage: bool


def pages(engine: Engine) -> Pages:
    """`/settings/plans`, its two forms, and the overrides as a file."""
    pages, see, manage = Pages("settings", "plans"), Permission.SEE_DEVELOPERS, _MANAGE

    @pages.get(PATH, see)
    async def show(visit: Visit) -> Response:
        return await _show(engine, visit)

    @pages.post(PATH, manage, _FORM_BYTES)
    async def save(visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            before = await asyncio.to_thread(read_preference, engine, UsageTiers)
            tiers = _tiers(form, before)
            await asyncio.to_thread(change_tiers, engine, tiers, visit.actor, visit.now)
        except (FieldError, AccountInvalid) as error:
            return await _show(engine, visit, form=form.refused(error))
        return visit.redirect(PATH, "Saved; integrators have it within a second or two.")

    @pages.post(f"{PATH}/overrides", manage, _FORM_BYTES)
    async def grant(visit: Visit) -> Response:
        form = Form(visit.form)
        try:
            await asyncio.to_thread(_grant, engine, visit, form)
        except (FieldError, AccountInvalid) as error:
            return await _show(engine, visit, grant=form.refused(error))
        return visit.redirect(PATH, "Granted. It ends by itself; the audit log has it.")

    @pages.post(f"{PATH}/overrides/{{override_id:int}}/end", manage, _FORM_BYTES)
    async def end(visit: Visit) -> Response:
        number = int(visit.path["override_id"])
        await asyncio.to_thread(end_override, engine, number, visit.now, visit.actor)
        return visit.redirect(PATH, "The override has ended.")

    @pages.get(f"{PATH}/overrides.csv", see)
    async def export(visit: Visit) -> Response:
        found = await asyncio.to_thread(list_overrides, engine)
        return visit.csv("overrides.csv", _CSV, (_line(each) for each in found))

    return pages


async def _show(
    engine: Engine, visit: Visit, form: Form | None = None, grant: Form | None = None
) -> Response:
    tiers = await asyncio.to_thread(read_preference, engine, UsageTiers)
    meters = await asyncio.to_thread(read_meters, engine, visit.now)
    overrides = await asyncio.to_thread(list_overrides, engine)
    refused = form is not None or grant is not None
    status = 422 if refused else 200
    view = _view(visit, form or _typed(tiers), grant or _empty_grant(visit), meters, overrides)
    return visit.page("settings/plans.html", view, "Plans", status)


def _view(
    visit: Visit,
    form: Form,
    grant: Form,
    meters: tuple[MeterUse, ...],
    overrides: list[Override],
) -> PlansView:
    shown, pager = page_of(PATH, visit.query, overrides, PAGE_ROWS)
    return PlansView(
        form=form,
        grant=grant,
        meters=tuple(meter_card(each, visit.now, visit.zone) for each in meters),
        tiers=_TIERS,
        meter_names=_METERS,
        overrides=tuple(_row(each, visit) for each in shown),
        pager=pager,
        zone=visit.zone.key,
        may_manage=visit.identity.may(_MANAGE),
    )


def _tiers(form: Form, before: UsageTiers) -> UsageTiers:
    """Hours on the page are seconds beneath it."""
    return UsageTiers(
        calls=_tier(form, "calls"),
        streams=_tier(form, "streams"),
        free_calls=_whole(form, "free_calls", "calls"),
        pro_calls=_whole(form, "pro_calls", "calls"),
        free_stream_seconds=_hours(form, "free_stream_seconds", before.free_stream_seconds),
        pro_stream_seconds=_hours(form, "pro_stream_seconds", before.pro_stream_seconds),
    )


def _tier(form: Form, name: str) -> Tier:
    if form.value(name) not in dict(_TIERS):
        raise FieldError(name, "Choose one of the tiers.")
    return Tier(form.value(name))


def _typed(tiers: UsageTiers) -> Form:
    values = {"calls": tiers.calls.value, "streams": tiers.streams.value}
    values |= {name: str(getattr(tiers, name)) for name in _CALLS}
    return Form(values | {name: in_units(getattr(tiers, name), HOUR) for name in _SECONDS})


def _empty_grant(visit: Visit) -> Form:
    """Until the month ends, unless somebody says otherwise."""
    end = datetime.fromtimestamp(window_of(visit.now).end, visit.zone)
    return Form({"ends_at": end.strftime("%Y-%m-%dT%H:%M")})


def _grant(engine: Engine, visit: Visit, form: Form) -> None:
    if form.value("meter") not in dict(_METERS):
        raise FieldError("meter", "Choose one of the meters.")
    meter, cap = Meter(form.value("meter")), None
    if form.value("cap").strip():
        cap = _whole(form, "cap", "calls or hours")
        cap *= HOUR if meter is Meter.STREAM_SECONDS else 1
    ends_at = _moment(form.value("ends_at"), visit.zone)
    grant_override(engine, meter, cap, ends_at, form.value("reason"), visit.now, visit.actor)


def _moment(text: str, zone: ZoneInfo) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())
    except (ValueError, OverflowError):
        raise FieldError("ends_at", "Write a day and a time, such as 2027-01-31T18:00.") from None


def _hours(form: Form, name: str, stored: int) -> int:
    sentence = "Write a whole number of hours."
    return _given(name, read_units(form, name, HOUR, stored, sentence), sentence)


def _whole(form: Form, name: str, unit: str) -> int:
    sentence = f"Write a whole number of {unit}."
    return _given(name, read_whole(form, name, sentence), sentence)


def _given(name: str, number: int | None, sentence: str) -> int:
    if number is None:
        raise FieldError(name, sentence)
    return number


def _row(each: Override, visit: Visit) -> OverrideRow:
    holds, over = each.holds(visit.now), each.ended_at is None
    ended = ""
    if each.ended_at is not None:
        ended = f"{moment(each.ended_at, visit.now, visit.zone).local} by {each.ended_by}"
    return OverrideRow(
        id=each.id,
        meter=NAMES[each.meter],
        cap="no cap" if each.cap is None else quantity(each.meter, each.cap),
        since=moment(each.starts_at, visit.now, visit.zone),
        until=moment(each.ends_at, visit.now, visit.zone),
        reason=each.reason,
        by=each.granted_by,
        state="holds" if holds else "over" if over else "ended",
        tone="good" if holds else "plain",
        ended=ended,
    )


def _line(each: Override) -> tuple[object, ...]:
    cap: int | str = "" if each.cap is None else each.cap
    ended = "" if each.ended_at is None else utc(each.ended_at)
    times = (utc(each.starts_at), utc(each.ends_at))
    who = (each.reason, each.granted_by, utc(each.granted_at), ended, each.ended_by)
    return each.id, each.meter.value, cap, *times, *who


_MANAGE: Final = Permission.MANAGE_PLANS
