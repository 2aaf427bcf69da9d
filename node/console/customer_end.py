"""Developers > Customers > one > End: the seller ends a subscription."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine
from starlette.responses import Response

from node.accounts.access import Permission
from node.console.format import Moment, moment
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.visit import Visit
from node.plans.customers import CustomerDetail, read_customer
from node.plans.ending import When, end_subscription, may_end_now
from node.plans.errors import EndRefused, PlanInvalid
from node.plans.terms import served_to

PATH: Final = "/developers/customers/{customer_id}/end"
_FORM_BYTES: Final = 16_000
_WHEN: Final = (
    (When.PERIOD_END.value, "At the end of this month"),
    (When.NOW.value, "At once"),
)


@dataclass(frozen=True, slots=True)
class EndView:
    """What `developers/customer_end.html` shows. `until`: end of what is served; None where it
    is served no more already. `choices`: none where something is paid."""

    id: str
    name: str
    plan: str
    listing: str
    until: Moment | None
    free: bool
    choices: tuple[tuple[str, str], ...]
    form: Form


def add_end(pages: Pages, engine: Engine) -> None:
    """The page that asks for the reason and the password, and what it does."""

    @pages.get(PATH, Permission.MANAGE_PLANS)
    async def ask(visit: Visit) -> Response:
        return await _ask(engine, visit)

    @pages.post(PATH, Permission.MANAGE_PLANS, _FORM_BYTES)
    async def end(visit: Visit) -> Response:
        customer_id, form = visit.path["customer_id"], Form(visit.form)
        try:
            await visit.confirm_password()
            reason, when = form.value("reason"), _when(form)
            await asyncio.to_thread(
                end_subscription, engine, customer_id, reason, when, visit.now, visit.actor
            )
        except (FieldError, PlanInvalid) as error:
            return await _ask(engine, visit, form.refused(error))
        note = "Ended. The customer's node reads the reason within the hour."
        return visit.redirect(f"/developers/customers/{customer_id}", note)


def _when(form: Form) -> When:
    try:
        return When(form.value("when") or When.PERIOD_END)
    except ValueError:
        raise FieldError("when", "Choose when it ends.") from None


async def _ask(engine: Engine, visit: Visit, form: Form | None = None) -> Response:
    found = await asyncio.to_thread(read_customer, engine, visit.path["customer_id"], visit.now)
    if found.subscriber.cancelled_at is not None:
        raise EndRefused("already_ended", "It was ended before: it is not renewed.")
    status = 200 if form is None else 422
    view = _view(found, form or Form(), visit)
    return visit.page("developers/customer_end.html", view, "End a subscription", status)


def _view(found: CustomerDetail, form: Form, visit: Visit) -> EndView:
    subscriber, customer, now = found.subscriber, found.customer, visit.now
    free = subscriber.standing(now).deal.free and may_end_now(subscriber, now)
    until = served_to(subscriber.periods, now, None)
    return EndView(
        id=subscriber.id,
        name=customer.name or customer.payer,
        plan=customer.plan_name,
        listing=customer.listing,
        until=moment(until, now, visit.zone) if until > now else None,
        free=free,
        choices=_WHEN if free else (),
        form=form,
    )
