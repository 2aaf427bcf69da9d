"""API Management > a listing > Plans: what is offered by the month, and its forms."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from catalog.drafts import parse_price
from catalog.errors import CatalogError
from finance.money import Usdc
from node.accounts.access import Permission
from node.console.format import Amount, Moment, cell_amount, count, moment
from node.console.forms import FieldError, Form, in_units, read_seen, read_units, read_whole
from node.console.pages import Pages
from node.console.visit import Visit
from node.durations import HOUR
from node.market.own_listings import read_own
from node.market.publisher import Publisher
from node.plans.customers import plan_holders
from node.plans.errors import PlansError, PlanUnknown
from node.plans.offered import PlanChoices, add_plan, change_plan, choices, retire_plan
from node.plans.subscribers import Offered, read_plan, read_plans
from node.plans.terms import Beyond, first_stretch

SEE, MANAGE = Permission.SEE_LISTINGS, Permission.MANAGE_LISTINGS
_FORM_BYTES: Final = 16_000
_BEYOND: Final = (
    (Beyond.STOP.value, "Refused until the month ends"),
    (Beyond.PAY.value, "May be paid one by one"),
)
_CSV: Final = (
    "id",
    "name",
    "usdc_a_month",
    "calls",
    "stream_seconds",
    "per_minute",
    "beyond",
    "grace_days",
    "customers",
    "retired",
)


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One plan; `now` is what the rest of this month costs."""

    id: str
    name: str
    description: str
    price: Amount
    free: bool
    now: Amount
    calls: str
    hours: str
    rate: str
    beyond: str
    grace: str
    customers: str
    retired: Moment | None


@dataclass(frozen=True, slots=True)
class PlansView:
    """What `listings/plans.html` shows."""

    id: str
    listing: str
    address: str
    plans: tuple[PlanLine, ...]
    form: Form
    beyond: tuple[tuple[str, str], ...]
    open_form: bool
    may_change: bool


@dataclass(frozen=True, slots=True)
class PlanView:
    """What `listings/plan.html` shows."""

    id: str
    listing_id: str
    listing: str
    name: str
    free: bool
    version: int
    customers: str
    form: Form
    beyond: tuple[tuple[str, str], ...]


def pages(publisher: Publisher, gateway_url: str) -> Pages:
    """`/listings/{listing_id}/plans` and a page for each plan."""
    pages, engine = Pages("listings"), publisher.engine
    path = "/listings/{listing_id}/plans"

    @pages.get(path, SEE)
    async def show(visit: Visit) -> Response:
        return await _show(publisher, gateway_url, visit)

    @pages.get(f"{path}.csv", SEE)
    async def export(visit: Visit) -> Response:
        listing_id = visit.path["listing_id"]
        plans = await asyncio.to_thread(read_plans, engine, listing_id, retired=True)
        holders = await asyncio.to_thread(plan_holders, engine, listing_id, visit.now)
        return visit.csv("plans.csv", _CSV, (_csv(each, holders) for each in plans))

    @pages.post(path, MANAGE, _FORM_BYTES)
    async def add(visit: Visit) -> Response:
        form, listing_id = Form(visit.form), visit.path["listing_id"]
        try:
            chosen = _chosen(form)
            await asyncio.to_thread(add_plan, engine, listing_id, chosen, visit.now, visit.actor)
        except (FieldError, PlansError, CatalogError) as error:
            return await _show(publisher, gateway_url, visit, form.refused(error))
        note = f"{chosen.name} is offered within a second or two."
        return visit.redirect(f"/listings/{listing_id}/plans", note)

    _add_change(pages, publisher)
    return pages


def _add_change(pages: Pages, publisher: Publisher) -> None:
    engine, path = publisher.engine, "/listings/{listing_id}/plans/{plan_id}"

    @pages.get(path, MANAGE)
    async def edit(visit: Visit) -> Response:
        return await _edit(publisher, visit)

    @pages.post(path, MANAGE, _FORM_BYTES)
    async def change(visit: Visit) -> Response:
        form, plan = Form(visit.form), await _plan(publisher, visit)
        try:
            chosen = _chosen(form, plan)
            now, who, seen = visit.now, visit.actor, read_seen(visit.form)
            await asyncio.to_thread(change_plan, engine, plan.id, chosen, now, who, seen)
        except (FieldError, PlansError) as error:
            return await _edit(publisher, visit, form.refused(error))
        note = "Saved. It holds for what is paid from now on."
        return visit.redirect(f"/listings/{plan.listing_id}/plans", note)

    @pages.post(f"{path}/retire", MANAGE, _FORM_BYTES)
    async def retire(visit: Visit) -> Response:
        plan = await _plan(publisher, visit)
        await asyncio.to_thread(retire_plan, engine, plan.id, visit.now, visit.actor)
        note = "Retired: nobody new gets it; who has it keeps it."
        return visit.redirect(f"/listings/{plan.listing_id}/plans", note)


async def _plan(publisher: Publisher, visit: Visit) -> Offered:
    plan = await asyncio.to_thread(read_plan, publisher.engine, visit.path["plan_id"])
    if plan is None or plan.listing_id != visit.path["listing_id"] or plan.retired_at is not None:
        raise PlanUnknown("There is no such plan.")
    return plan


async def _show(
    publisher: Publisher, gateway_url: str, visit: Visit, form: Form | None = None
) -> Response:
    engine, listing_id = publisher.engine, visit.path["listing_id"]
    detail = await asyncio.to_thread(read_own, publisher, listing_id)
    plans = await asyncio.to_thread(read_plans, engine, listing_id, retired=True)
    holders = await asyncio.to_thread(plan_holders, engine, listing_id, visit.now)
    view = PlansView(
        id=listing_id,
        listing=detail.line.name,
        address=f"{gateway_url.rstrip('/')}/v1/{detail.line.slug}/.farebox/plans",
        plans=tuple(_line(each, holders, visit) for each in _live_first(plans)),
        form=form or Form({"beyond": Beyond.STOP.value, "grace_days": "3"}),
        beyond=_BEYOND,
        open_form=form is not None or not plans,
        may_change=visit.identity.may(MANAGE),
    )
    return visit.page("listings/plans.html", view, "Plans", 200 if form is None else 422)


async def _edit(publisher: Publisher, visit: Visit, form: Form | None = None) -> Response:
    plan = await _plan(publisher, visit)
    detail = await asyncio.to_thread(read_own, publisher, plan.listing_id)
    holders = await asyncio.to_thread(plan_holders, publisher.engine, plan.listing_id, visit.now)
    view = PlanView(
        id=plan.id,
        listing_id=plan.listing_id,
        listing=detail.line.name,
        name=plan.name,
        free=plan.deal.free,
        version=plan.changed_at,
        customers=count(holders.get(plan.id, 0)),
        form=form or _typed(plan),
        beyond=_BEYOND,
    )
    return visit.page("listings/plan.html", view, plan.name, 200 if form is None else 422)


def _live_first(plans: list[Offered]) -> list[Offered]:
    return sorted(plans, key=lambda plan: plan.retired_at is not None)


def _line(plan: Offered, holders: dict[str, int], visit: Visit) -> PlanLine:
    deal = plan.deal
    seconds = deal.stream_seconds
    retired = plan.retired_at
    return PlanLine(
        id=plan.id,
        name=plan.name,
        description=plan.description,
        price=cell_amount(Usdc(deal.price_atoms)),
        free=deal.free,
        now=cell_amount(Usdc(first_stretch(deal, visit.now).price_atoms)),
        calls="no end" if deal.calls is None else count(deal.calls),
        hours="no end" if seconds is None else _hours(seconds),
        rate="no limit" if deal.per_minute is None else count(deal.per_minute),
        beyond="pay per call" if deal.beyond is Beyond.PAY else "stop",
        grace=f"{deal.grace_days} d",
        customers=count(holders.get(plan.id, 0)),
        retired=None if retired is None else moment(retired, visit.now, visit.zone),
    )


def _hours(seconds: int) -> str:
    """Hours, with their minutes where there are any."""
    hours, minutes = seconds // HOUR, seconds % HOUR // 60
    return f"{count(hours)} h {minutes} min" if minutes else f"{count(hours)} h"


def _chosen(form: Form, before: Offered | None = None) -> PlanChoices:
    """Hours on the page are seconds beneath it. Raises FieldError, PlansError."""
    try:
        price = parse_price(form.value("price").strip() or "0")
    except CatalogError as error:
        raise FieldError("price", str(error)) from error
    seconds = before.deal.stream_seconds if before else None
    return choices(
        form.value("name"),
        form.value("description"),
        price,
        _whole(form, "calls", "calls"),
        read_units(form, "stream_hours", HOUR, seconds, _sentence("hours")),
        _whole(form, "per_minute", "calls"),
        form.value("beyond"),
        _whole(form, "grace_days", "days") or 0,
    )


def _typed(plan: Offered) -> Form:
    deal = plan.deal
    seconds = deal.stream_seconds
    hours = None if seconds is None else in_units(seconds, HOUR)
    numbers = {"calls": deal.calls, "stream_hours": hours, "per_minute": deal.per_minute}
    return Form(
        {
            "name": plan.name,
            "description": plan.description,
            "price": str(Usdc(deal.price_atoms)),
            "beyond": deal.beyond.value,
            "grace_days": str(deal.grace_days),
            **{name: "" if value is None else str(value) for name, value in numbers.items()},
        }
    )


def _whole(form: Form, name: str, unit: str) -> int | None:
    return read_whole(form, name, _sentence(unit))


def _sentence(unit: str) -> str:
    return f"Write a whole number of {unit}, or nothing."


def _csv(plan: Offered, holders: dict[str, int]) -> tuple[object, ...]:
    deal = plan.deal
    quotas = (deal.calls, deal.stream_seconds, deal.per_minute)
    return (
        plan.id,
        plan.name,
        str(Usdc(deal.price_atoms)),
        *("" if quota is None else quota for quota in quotas),
        deal.beyond.value,
        deal.grace_days,
        holders.get(plan.id, 0),
        "no" if plan.retired_at is None else "yes",
    )
