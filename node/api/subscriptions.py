"""Plans that this node buys: offers, subscriptions, and what is done with them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Path

from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.api.paging import Id, Listed, PageNumber, listed
from node.api.routing import Caller, Endpoints
from node.api.subscription_shapes import (
    AskedOut,
    AskIn,
    ChoicesIn,
    LookedOut,
    NextPlanIn,
    OfferOut,
    OutcomeOut,
    QuoteOut,
    RenewIn,
    SubscribeIn,
    SubscriptionDetailOut,
    SubscriptionOut,
    UpgradeIn,
    detail_out,
    outcome_out,
    plan_out,
    subscription_out,
)
from node.plans.buying.read import list_subscriptions
from node.plans.buying.service import Subscriptions

_SEE, _SPEND = Permission.SEE_CATALOG, Permission.SPEND
_PlanId = Annotated[str, Path(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_-]+$")]


def endpoints(subscriptions: Subscriptions) -> Endpoints:
    """`/api/subscriptions`."""
    api = Endpoints("/subscriptions", ["subscriptions"])
    _add_reading(api, subscriptions)
    _add_paying(api, subscriptions)
    _add_changing(api, subscriptions)
    return api


def _add_reading(api: Endpoints, subscriptions: Subscriptions) -> None:
    @api.get("", _SEE)
    async def list_(page: PageNumber = 1) -> Listed[SubscriptionOut]:
        """The live ones first, then the newest."""
        engine, now = subscriptions.engine, subscriptions.now
        found = await asyncio.to_thread(list_subscriptions, engine, now)
        return listed([subscription_out(each) for each in found], page)

    @api.get("/offers/{listing_id}", _SEE)
    async def offers(listing_id: Id) -> OfferOut:
        """The plans of a listing, as its seller offers them now."""
        offer = await subscriptions.offers.ask(listing_id)
        plans = [plan_out(plan) for plan in offer.plans]
        return OfferOut(listing_id=listing_id, listing=offer.name, plans=plans)

    @api.get("/{subscription_id}", _SEE)
    async def one(subscription_id: Id) -> SubscriptionDetailOut:
        """One with its payments, requests and record."""
        return detail_out(await subscriptions.read(subscription_id))

    @api.get("/{subscription_id}/upgrades/{plan_id}", _SPEND)
    async def quote(subscription_id: Id, plan_id: _PlanId) -> QuoteOut:
        """What a dearer plan costs for the rest of the month."""
        found = await subscriptions.quote_upgrade(subscription_id, plan_id)
        return QuoteOut(plan=plan_out(found.plan), price_atoms=found.price_atoms)

    @api.post("/{subscription_id}/look", Permission.USE_CATALOG)
    async def look(subscription_id: Id) -> LookedOut:
        """Ask the seller how it stands."""
        return LookedOut(problem=(await subscriptions.look(subscription_id)).problem)


def _add_paying(api: Endpoints, subscriptions: Subscriptions) -> None:
    @api.post("", _SPEND)
    async def subscribe(sent: SubscribeIn, identity: Caller) -> OutcomeOut:
        """Buy a plan for the rest of the month."""
        made, outcome = await subscriptions.subscribe(
            Actor.of(identity), sent.listing_id, sent.plan_id, sent.agreed()
        )
        return outcome_out(made, outcome)

    @api.post("/{subscription_id}/renewal", _SPEND)
    async def renew(subscription_id: Id, sent: RenewIn, identity: Caller) -> OutcomeOut:
        """Pay the next month, or the present one if what was paid is over; once."""
        outcome = await subscriptions.renew(
            Actor.of(identity), subscription_id, sent.most_atoms, sent.month
        )
        return outcome_out(subscription_id, outcome)

    @api.post("/{subscription_id}/upgrades", _SPEND)
    async def upgrade(subscription_id: Id, sent: UpgradeIn, identity: Caller) -> OutcomeOut:
        """Change to a dearer plan at once."""
        outcome = await subscriptions.upgrade(
            Actor.of(identity), subscription_id, sent.plan_id, sent.most_atoms
        )
        return outcome_out(subscription_id, outcome)

    @api.post("/{subscription_id}/give-up", _SPEND)
    async def give_up(subscription_id: Id, identity: Caller) -> OutcomeOut:
        """Give up the order that is under way: nothing more is sent for it. While what was
        signed may still be charged it is `giving_up`, and `detail` says until when; the node
        ends it then."""
        outcome = await subscriptions.give_up(Actor.of(identity), subscription_id)
        return outcome_out(subscription_id, outcome)


def _add_changing(api: Endpoints, subscriptions: Subscriptions) -> None:
    @api.patch("/{subscription_id}", _SPEND)
    async def choose(
        subscription_id: Id, sent: ChoicesIn, identity: Caller
    ) -> SubscriptionDetailOut:
        """Whether it is renewed, for how much, and what calls beyond the quota do."""
        view = await subscriptions.read(subscription_id)
        renews = view.renews if sent.renews is None else sent.renews
        agreed = view.agreed_atoms if sent.agreed_atoms is None else sent.agreed_atoms
        beyond = sent.beyond or view.beyond
        await subscriptions.choose(Actor.of(identity), subscription_id, renews, agreed, beyond)
        return detail_out(await subscriptions.read(subscription_id))

    @api.put("/{subscription_id}/plan", _SPEND)
    async def choose_plan(
        subscription_id: Id, sent: NextPlanIn, identity: Caller
    ) -> SubscriptionDetailOut:
        """The plan that the next renewal buys."""
        await subscriptions.choose_plan(Actor.of(identity), subscription_id, sent.plan_id)
        return detail_out(await subscriptions.read(subscription_id))

    @api.post("/{subscription_id}/key", _SPEND, status_code=204)
    async def rotate(subscription_id: Id, identity: Caller) -> None:
        """Replace its key by a new one."""
        await subscriptions.rotate(Actor.of(identity), subscription_id)

    @api.post("/{subscription_id}/requests", _SPEND)
    async def ask(subscription_id: Id, sent: AskIn, identity: Caller) -> AskedOut:
        """Ask the seller for an override, or for support."""
        wanted = sent.wanted()
        return AskedOut(sent=await subscriptions.ask(Actor.of(identity), subscription_id, wanted))

    @api.delete("/{subscription_id}", _SPEND)
    async def cancel(subscription_id: Id, identity: Caller) -> None:
        """No renewal any more; it is good until the end of what is paid."""
        await subscriptions.cancel(Actor.of(identity), subscription_id)
