"""A plan in the catalog: what it costs, what the limits leave, and buying it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from starlette.responses import Response

from finance.money import Usdc
from node.accounts.access import Permission
from node.console.explorer import LimitLine
from node.console.finance_choices import read_usdc
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.plan_limits import check_limits, labels_of, limit_lines
from node.console.plan_view import BEYOND, PATH, PlanCard, plan_card
from node.console.visit import Visit
from node.market.try_it import limits_left
from node.plans.buying.errors import SubscriptionError
from node.plans.buying.models import OrderState
from node.plans.buying.offers import Offer
from node.plans.buying.ordering import Agreed
from node.plans.buying.read import SubscriptionView, list_subscriptions
from node.plans.buying.service import Subscriptions
from node.plans.buying.shapes import Plan
from node.plans.terms import Beyond

PLANS: Final = "/catalog/{listing_id}/plans"
_SPEND: Final = Permission.SPEND


@dataclass(frozen=True, slots=True)
class HeldLine:
    """A subscription of the listing that is not over."""

    path: str
    plan: str
    state: str


@dataclass(frozen=True, slots=True)
class OfferView:
    """The plans' part of a listing's page; nothing of it is shown without plans."""

    plans: tuple[PlanCard, ...]
    problem: str
    held: HeldLine | None


@dataclass(frozen=True, slots=True)
class PlanView:
    """What `catalog/plan.html` shows."""

    listing_id: str
    listing: str
    seller: str
    demo: bool
    plan: PlanCard
    limits: tuple[LimitLine, ...]
    in_way: str
    later_in_way: str
    may_see_limits: bool
    may_raise_limits: bool
    beyond: tuple[tuple[str, str], ...]
    may_choose_beyond: bool
    held: HeldLine | None
    form: Form
    may_spend: bool


@dataclass(frozen=True, slots=True)
class ConfirmView:
    """What `catalog/plan_confirm.html` shows."""

    listing: str
    plan: PlanCard
    month: str
    beyond: str
    renews: bool
    form: Form


async def offer_view(subscriptions: Subscriptions, visit: Visit, listing_id: str) -> OfferView:
    """What a listing's page says of its plans."""
    offer = await subscriptions.offers.look(listing_id)
    held = await _held(subscriptions, listing_id)
    cards = tuple(_card(each, offer, held, visit) for each in offer.plans)
    return OfferView(cards, offer.problem, _held_line(held))


def pages(subscriptions: Subscriptions) -> Pages:
    """`/catalog/{listing}/plans/{plan}`: look, confirm, buy."""
    pages, path = Pages("catalog"), f"{PLANS}/{{plan_id}}"

    @pages.get(path, Permission.SEE_CATALOG)
    async def show(visit: Visit) -> Response:
        offer, plan = await _offer(subscriptions, visit)
        return await _page(subscriptions, visit, offer, plan, _first_form(plan))

    @pages.post(path, _SPEND)
    async def confirm(visit: Visit) -> Response:
        offer, plan = await _offer(subscriptions, visit)
        form = Form(visit.form)
        try:
            _agreed(form, plan).check(plan)
            listing_id, price = offer.place.listing_id, _price_now(plan)
            await check_limits(subscriptions.engine, listing_id, price, visit.now)
        except (FieldError, SubscriptionError) as error:
            return await _page(subscriptions, visit, offer, plan, form.refused(error), 422)
        return _confirm(visit, offer, plan, form)

    @pages.post(f"{path}/buy", _SPEND)
    async def buy(visit: Visit) -> Response:
        offer, plan = await _offer(subscriptions, visit)
        form = Form(visit.form)
        try:
            await visit.confirm_password()
            agreed = _agreed(form, plan)
            listing_id = offer.place.listing_id
            made, outcome = await subscriptions.subscribe(visit.actor, listing_id, plan.id, agreed)
        except (FieldError, SubscriptionError) as error:
            return _confirm(visit, offer, plan, form.refused(error), 422)
        if outcome.state is OrderState.DONE:
            note = f"Subscribed for {Usdc(outcome.charged_atoms)} USDC. Calls use the plan now."
            return visit.redirect(f"{PATH}/{made}", note)
        if outcome.state is OrderState.OPEN:
            note = f"The order is under way: {outcome.detail or outcome.code}"
            return visit.redirect(f"{PATH}/{made}", note, "warn")
        refused = form.with_error("", f"Nothing was paid. {outcome.detail or outcome.code}")
        return _confirm(visit, offer, plan, refused, 422)

    return pages


async def _offer(subscriptions: Subscriptions, visit: Visit) -> tuple[Offer, Plan]:
    """The plan as the seller offers it now. Raises SubscriptionError."""
    offer = await subscriptions.offers.ask(visit.path["listing_id"])
    return offer, offer.plan(visit.path["plan_id"])


async def _held(subscriptions: Subscriptions, listing_id: str) -> SubscriptionView | None:
    """What the node holds, or has ordered, of a listing."""

    def read() -> SubscriptionView | None:
        engine, now = subscriptions.engine, subscriptions.now
        found = list_subscriptions(engine, now, listing_id=listing_id)
        return next((each for each in found if each.live or each.state == "ordered"), None)

    return await asyncio.to_thread(read)


def _held_line(held: SubscriptionView | None) -> HeldLine | None:
    if held is None:
        return None
    return HeldLine(f"{PATH}/{held.id}", held.plan_name, held.state.value)


def _card(plan: Plan, offer: Offer, held: SubscriptionView | None, visit: Visit) -> PlanCard:
    has = held is not None and held.plan.id == plan.id
    return plan_card(plan, offer.place.listing_id, has, visit.now, visit.zone)


def _first_form(plan: Plan) -> Form:
    price = str(Usdc(plan.monthly_price_atoms))
    return Form({"month": price, "renews": "on", "beyond": Beyond.PAY.value})


def _agreed(form: Form, plan: Plan) -> Agreed:
    """What was typed; the price of now is the one that was shown. Raises FieldError."""
    shown = form.value("now_atoms")
    if not (shown.isascii() and shown.isdigit()) or len(shown) > 19:
        raise FieldError("", "Open the plan's page anew.")
    beyond = form.value("beyond") or Beyond.PAY.value
    if beyond not in dict(BEYOND):
        raise FieldError("beyond", "Choose what calls beyond the quota do.")
    return Agreed(
        now_atoms=int(shown),
        month_atoms=read_usdc(form, "month") if plan.monthly_price_atoms else 0,
        renews=form.value("renews") == "on",
        beyond=Beyond(beyond),
        name=form.value("name").strip(),
        email=form.value("email").strip(),
    )


async def _page(
    subscriptions: Subscriptions,
    visit: Visit,
    offer: Offer,
    plan: Plan,
    form: Form,
    status: int = 200,
) -> Response:
    price = _price_now(plan)
    listing_id = offer.place.listing_id
    left = await asyncio.to_thread(limits_left, subscriptions.engine, listing_id, visit.now)
    limits = limit_lines(left, price)
    # A renewal is paid on another day, whose limits are whole again.
    whole = tuple(replace(each, used_atoms=0) for each in left)
    later = limit_lines(whole, plan.monthly_price_atoms)
    held = await _held(subscriptions, listing_id)
    values = {**form.values, "now_atoms": str(price)}
    view = PlanView(
        listing_id=listing_id,
        listing=offer.name,
        seller=offer.place.base,
        demo=offer.demo,
        plan=_card(plan, offer, held, visit),
        limits=limits if price else (),
        in_way=labels_of(limits) if price else "",
        later_in_way=labels_of(later),
        may_see_limits=visit.identity.may(Permission.SEE_FINANCE),
        may_raise_limits=visit.identity.may(Permission.MOVE_MONEY),
        beyond=BEYOND,
        may_choose_beyond=plan.beyond != Beyond.STOP,
        held=_held_line(held),
        form=Form(values, form.errors),
        may_spend=visit.identity.may(_SPEND),
    )
    return visit.page("catalog/plan.html", view, f"{plan.name} · {offer.name}", status)


def _price_now(plan: Plan) -> int:
    """Atoms for what is left of the month; for all of it, where the seller does not say."""
    return plan.now.price_atoms if plan.now else plan.monthly_price_atoms


def _confirm(visit: Visit, offer: Offer, plan: Plan, form: Form, status: int = 200) -> Response:
    view = ConfirmView(
        listing=offer.name,
        plan=_card(plan, offer, None, visit),
        month=form.value("month"),
        beyond=dict(BEYOND).get(form.value("beyond"), ""),
        renews=form.value("renews") == "on",
        form=form,
    )
    return visit.page("catalog/plan_confirm.html", view, f"Subscribe to {plan.name}", status)
