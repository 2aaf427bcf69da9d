"""Developers > Subscriptions: what this node holds of others' plans, and one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response

from finance.money import Usdc
from finance.networks import Network
from node.accounts.access import Permission
from node.console.finance_choices import read_usdc
from node.console.format import Amount, Moment, count, exact_amount, moment
from node.console.forms import FieldError, Form
from node.console.gauge import Gauge
from node.console.pager import Pager, page_of
from node.console.pages import Pages
from node.console.plan_view import (
    BEYOND,
    PATH,
    OrderRow,
    RequestRow,
    SubscriptionRow,
    beyond_of,
    meters_of,
    order_row,
    request_row,
    row_of,
    tone_of,
)
from node.console.visit import Visit
from node.plans.buying.errors import SubscriptionError
from node.plans.buying.models import UNDER_WAY, BoughtState, OrderState
from node.plans.buying.read import SubscriptionView, list_subscriptions
from node.plans.buying.service import Subscriptions
from node.plans.buying.sync import SELLER_ENDS
from node.plans.terms import Beyond

PAGE_ROWS: Final = 50
ONE: Final = f"{PATH}/{{subscription_id}}"
_LIST: Final = (
    "subscription",
    "api",
    "plan",
    "state",
    "calls_used",
    "calls",
    "stream_seconds_used",
    "stream_seconds",
    "paid_until_utc",
    "next_billing_utc",
    "next_price_usdc",
)
_RECORD: Final = ("time_utc", "what", "sentence", "usdc", "by")


@dataclass(frozen=True, slots=True)
class ListView:
    """What `developers/subscriptions.html` shows."""

    rows: tuple[SubscriptionRow, ...]
    total: str
    pager: Pager


@dataclass(frozen=True, slots=True)
class RecordRow:
    """Something that happened."""

    at: Moment
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class DetailView:
    """What `developers/subscription.html` shows."""

    path: str
    listing: str
    listing_path: str | None
    plan: str
    description: str
    state: str
    tone: str
    explained: str
    waits: str
    may_give_up: bool
    live: bool
    meters: tuple[Gauge, ...]
    per_minute_now: str
    per_minute: str
    resets: Moment | None
    paid_until: Moment | None
    next_at: Moment | None
    next_price: Amount
    next_plan: str
    dearer: bool
    beyond: str
    seller_id: str
    synced: Moment | None
    sync_failed: str
    ordered: Moment
    by: str
    orders: tuple[OrderRow, ...]
    requests: tuple[RequestRow, ...]
    changes: tuple[RecordRow, ...]
    form: Form
    beyond_choices: tuple[tuple[str, str], ...]
    may_choose_beyond: bool
    free: bool
    renewable: bool
    may_change: bool
    may_see_invoices: bool


def pages(subscriptions: Subscriptions, network: Network) -> Pages:
    """The list, one subscription, and what is chosen for it."""
    pages, see = Pages("developers", "subscriptions"), Permission.SEE_CATALOG

    @pages.get(PATH, see)
    async def show(visit: Visit) -> Response:
        views = await _all(subscriptions)
        shown, pager = page_of(PATH, visit.query, views, PAGE_ROWS)
        rows = tuple(row_of(each, visit.now, visit.zone) for each in shown)
        view = ListView(rows, count(len(views)), pager)
        return visit.page("developers/subscriptions.html", view, "Subscriptions")

    @pages.get(f"{PATH}.csv", see)
    async def export(visit: Visit) -> Response:
        views = await _all(subscriptions)
        return visit.csv("subscriptions.csv", _LIST, (_line(each) for each in views))

    @pages.get(ONE, see)
    async def one(visit: Visit) -> Response:
        view = await subscriptions.read(visit.path["subscription_id"])
        return _page(visit, view, network, _choices(view))

    @pages.get(f"{ONE}/record.csv", see)
    async def record(visit: Visit) -> Response:
        view = await subscriptions.read(visit.path["subscription_id"])
        return visit.csv("record.csv", _RECORD, _records(view))

    _add_forms(pages, subscriptions, network)
    return pages


def _add_forms(pages: Pages, subscriptions: Subscriptions, network: Network) -> None:
    """What is sent from the page of one."""

    @pages.post(f"{ONE}/choices", Permission.SPEND)
    async def choose(visit: Visit) -> Response:
        view, form = await subscriptions.read(visit.path["subscription_id"]), Form(visit.form)
        try:
            renews, beyond = form.value("renews") == "on", form.value("beyond") or "stop"
            if beyond not in dict(BEYOND):
                raise FieldError("beyond", "Choose what calls beyond the quota do.")
            agreed = read_usdc(form, "agreed")
            await subscriptions.choose(visit.actor, view.id, renews, agreed, Beyond(beyond))
        except (FieldError, SubscriptionError) as error:
            return _page(visit, view, network, form.refused(error), 422)
        return visit.redirect(f"{PATH}/{view.id}", "Saved.")

    @pages.post(f"{ONE}/look", Permission.USE_CATALOG)
    async def look(visit: Visit) -> Response:
        subscription_id = visit.path["subscription_id"]
        looked = await subscriptions.look(subscription_id)
        path = f"{PATH}/{subscription_id}"
        if looked.problem:
            return visit.redirect(path, f"The seller could not be asked: {looked.problem}", "warn")
        return visit.redirect(path, "The seller was asked; this is how it stands.")


async def _all(subscriptions: Subscriptions) -> tuple[SubscriptionView, ...]:
    engine, now = subscriptions.engine, subscriptions.now
    return await asyncio.to_thread(list_subscriptions, engine, now)


def _choices(view: SubscriptionView) -> Form:
    values = {"agreed": str(Usdc(view.agreed_atoms)), "beyond": view.beyond.value}
    return Form(values | ({"renews": "on"} if view.renews else {}))


def _page(
    visit: Visit, view: SubscriptionView, network: Network, form: Form, status: int = 200
) -> Response:
    shown = _detail(visit, view, network, form)
    title = f"{view.plan_name} · {view.listing}"
    return visit.page("developers/subscription.html", shown, title, status)


def _detail(visit: Visit, view: SubscriptionView, network: Network, form: Form) -> DetailView:
    now, zone = visit.now, visit.zone
    due, plan = view.next_billing_at, view.plan
    return DetailView(
        path=f"{PATH}/{view.id}",
        listing=view.listing,
        listing_path=f"/catalog/{view.listing_id}" if view.in_catalog else None,
        plan=plan.name,
        description=plan.description,
        state=view.state.value,
        tone=tone_of(view.state),
        explained=_explained(visit, view),
        waits=_waits(view),
        may_give_up=visit.identity.may(Permission.SPEND)
        and any(each.state is OrderState.OPEN for each in view.orders),
        live=view.live,
        meters=meters_of(view) if view.live and view.synced_at else (),
        per_minute_now=count(view.per_minute_now),
        per_minute="no end" if view.per_minute is None else count(view.per_minute),
        resets=moment(view.resets_at, now, zone) if view.resets_at else None,
        paid_until=moment(view.paid_until, now, zone) if view.paid_until else None,
        next_at=moment(due, now, zone) if due is not None else None,
        next_price=exact_amount(Usdc(view.next_price_atoms)),
        next_plan=view.next_plan.name if view.next_plan else "",
        dearer=due is not None and view.next_price_atoms > view.agreed_atoms,
        beyond=beyond_of(plan),
        seller_id=view.seller_id,
        synced=moment(view.synced_at, now, zone) if view.synced_at else None,
        sync_failed=view.sync_failed,
        ordered=moment(view.created_at, now, zone),
        by=view.created_by,
        orders=tuple(order_row(each, network, now, zone) for each in view.orders),
        requests=tuple(request_row(each, now, zone) for each in view.requests),
        changes=_record_rows(visit, view),
        form=form,
        beyond_choices=BEYOND,
        may_choose_beyond=plan.beyond != Beyond.STOP,
        free=plan.monthly_price_atoms == 0,
        renewable=view.state in (BoughtState.ACTIVE, BoughtState.GRACE, BoughtState.LAPSED),
        may_change=visit.identity.may(Permission.SPEND),
        may_see_invoices=visit.identity.may(Permission.SEE_FINANCE),
    )


def _record_rows(visit: Visit, view: SubscriptionView) -> tuple[RecordRow, ...]:
    at = [moment(each.at, visit.now, visit.zone) for each in view.changes]
    rows = zip(at, view.changes, strict=True)
    return tuple(RecordRow(when, each.text, each.by) for when, each in rows)


def _explained(visit: Visit, view: SubscriptionView) -> str:
    """What the state means, in a sentence."""
    until = moment(view.grace_until, visit.now, visit.zone).local
    ended = next((each.text for each in view.changes if each.kind == SELLER_ENDS), "")
    if ended and view.state in (BoughtState.CANCELLED, BoughtState.ENDED):
        return ended
    return {
        BoughtState.ORDERED: "The order is written down; the plan begins when the seller answers.",
        BoughtState.ACTIVE: "Calls to this API use the plan first.",
        BoughtState.GRACE: f"The month is not paid. The seller serves on until {until}.",
        BoughtState.CANCELLED: "It is good until the end of what is paid, and not renewed.",
        BoughtState.LAPSED: "It was not renewed. Calls are paid one by one, within the limits.",
        BoughtState.ENDED: "It is over. Calls are paid one by one, within the limits.",
        BoughtState.FAILED: _not_bought(view),
    }[view.state]


def _not_bought(view: SubscriptionView) -> str:
    given_up = next((each for each in view.orders if each.state is OrderState.GIVEN_UP), None)
    return given_up.detail if given_up else "It was not bought; nothing was paid."


def _waits(view: SubscriptionView) -> str:
    """The order that is under way; empty for none."""
    waiting = next((each for each in view.orders if each.state in UNDER_WAY), None)
    if waiting is None:
        return ""
    kind, why = waiting.kind.value, waiting.detail or waiting.error
    if waiting.state is OrderState.GIVING_UP:
        return f"The {kind} is being given up. {why}".strip()
    return f"The {kind} is under way. {why} It goes on by itself, and is paid once."


def _line(view: SubscriptionView) -> tuple[object, ...]:
    due = view.next_billing_at
    used = (view.used_calls, _cap(view.calls), view.used_stream_seconds, _cap(view.stream_seconds))
    times = (_utc(view.paid_until), _utc(due or 0))
    price = str(Usdc(view.next_price_atoms)) if due is not None else ""
    return view.id, view.listing, view.plan_name, view.state.value, *used, *times, price


def _records(view: SubscriptionView) -> Iterator[tuple[object, ...]]:
    """Changes, with what was paid, and requests with their answers, newest first."""
    lines: list[tuple[int, tuple[object, ...]]] = []
    for each in view.changes:
        atoms = str(Usdc(each.atoms)) if each.atoms else ""
        lines.append((each.at, (_utc(each.at), each.kind, each.text, atoms, each.by)))
    for request in view.requests:
        answer = f" — {request.state}: {request.answer}".rstrip(": ")
        asked = (_utc(request.asked_at), request.kind, request.text + answer, "", request.asked_by)
        lines.append((request.asked_at, asked))
    return (line for _, line in sorted(lines, key=lambda each: -each[0]))


def _cap(value: int | None) -> int | str:
    return "" if value is None else value


def _utc(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S") if at else ""
