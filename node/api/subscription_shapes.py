"""Plans and subscriptions as the JSON API gives and takes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from finance.money import MAX_ATOMS
from node.api.paging import Sent
from node.plans.buying.changing import MOST_TEXT, Wanted
from node.plans.buying.models import BoughtState, OrderKind, OrderState
from node.plans.buying.ordering import Agreed
from node.plans.buying.orders import Outcome
from node.plans.buying.read import OrderView, RequestView, SubscriptionView
from node.plans.buying.shapes import Plan
from node.plans.terms import Beyond
from node.usage.quotas import Meter

Atoms = Annotated[int, Field(ge=0, le=MAX_ATOMS)]
_Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
_PlanId = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_-]+$")]


class NowOut(BaseModel):
    """What the rest of this month costs and gives; null quotas have no end."""

    price_atoms: int
    calls: int | None
    stream_seconds: int | None
    until: int


class SellersPlanOut(BaseModel):
    """A seller's plan. Quotas are a month's; null: no end. `now` where it is offered."""

    id: str
    name: str
    description: str
    monthly_price_atoms: int
    calls: int | None
    stream_seconds: int | None
    per_minute: int | None
    beyond: str
    grace_days: int
    now: NowOut | None


class OfferOut(BaseModel):
    """What a listing's seller offers now."""

    listing_id: str
    listing: str
    plans: list[SellersPlanOut]


class PlacedOrderOut(BaseModel):
    """A payment, or the attempt at one; while it is `open` it goes on by itself."""

    id: str
    kind: OrderKind
    plan_id: str
    state: OrderState
    most_atoms: int
    charged_atoms: int
    call_id: str
    tx_hash: str
    error: str
    detail: str
    tries: int
    created_at: int
    done_at: int | None


class SentRequestOut(BaseModel):
    """What the seller was asked for, and its answer. `cap` null: no end."""

    id: str
    kind: str
    meter: str
    cap: int | None
    until: int | None
    text: str
    state: str
    answer: str
    asked_at: int
    asked_by: str
    answered_at: int | None
    sent: bool


class ChangeOut(BaseModel):
    """Something that happened."""

    at: int
    kind: str
    text: str
    atoms: int
    by: str


class SubscriptionOut(BaseModel):
    """A subscription of this node; use as its seller said at `synced_at`. Its key stays here."""

    id: str
    listing_id: str
    listing: str
    seller_id: str
    state: BoughtState
    plan: SellersPlanOut
    next_plan: SellersPlanOut | None
    renews: bool
    agreed_atoms: int
    beyond: Beyond
    paid_until: int | None
    period_start: int
    period_end: int
    period_price_atoms: int
    calls: int | None
    stream_seconds: int | None
    used_calls: int
    used_stream_seconds: int
    per_minute: int | None
    per_minute_now: int
    resets_at: int | None
    next_billing_at: int | None
    next_price_atoms: int | None
    synced_at: int | None
    sync_failed: str
    created_at: int
    created_by: str
    ended_at: int | None


class SubscriptionDetailOut(SubscriptionOut):
    """With its records, newest first."""

    orders: list[PlacedOrderOut]
    requests: list[SentRequestOut]
    changes: list[ChangeOut]


class OutcomeOut(BaseModel):
    """How far an order got. `failed`: nothing was paid, `code` says why; `open`: it goes on by
    itself, and is paid once; `given_up`: `charged_atoms` were paid for nothing, mostly 0."""

    subscription_id: str
    state: OrderState
    code: str
    detail: str
    charged_atoms: int


class QuoteOut(BaseModel):
    """What an upgrade costs now."""

    plan: SellersPlanOut
    price_atoms: int


class SubscribeIn(Sent):
    """`now_atoms` is what is agreed to for the rest of this month, `month_atoms` the most a
    renewal may cost: above, nothing is signed. `name` and `email` are told to the seller."""

    listing_id: Annotated[str, Field(max_length=64, pattern=r"^[^\x00]*$")]
    plan_id: _PlanId
    now_atoms: Atoms
    month_atoms: Atoms
    renews: bool = True
    beyond: Beyond = Beyond.PAY
    name: _Line = ""
    email: _Line = ""

    def agreed(self) -> Agreed:
        return Agreed(
            self.now_atoms, self.month_atoms, self.renews, self.beyond, self.name, self.email
        )


class RenewIn(Sent):
    """The most that the month may cost; `month`, Unix seconds: its begin by UTC. With it a renewal
    that is sent again buys no further one."""

    most_atoms: Atoms
    month: Annotated[int, Field(ge=0, le=2**53)] | None = None


class UpgradeIn(Sent):
    """The plan, and the most that the rest of the month may cost."""

    plan_id: _PlanId
    most_atoms: Atoms


class NextPlanIn(Sent):
    """The plan that the next renewal buys; null: the present one."""

    plan_id: _PlanId | None


class ChoicesIn(Sent):
    """What is left out stays."""

    renews: bool | None = None
    agreed_atoms: Atoms | None = None
    beyond: Beyond | None = None


class AskIn(Sent):
    """Support, or an override of a meter to `cap` a month (null: no end) until a time."""

    kind: Literal["support", "override"] = "support"
    text: Annotated[str, Field(min_length=1, max_length=MOST_TEXT, pattern=r"^[^\x00]*$")]
    meter: Meter | None = None
    cap: Annotated[int, Field(ge=1, le=10**12)] | None = None
    until: Annotated[int, Field(ge=0, le=10**11)] | None = None

    def wanted(self) -> Wanted:
        if self.kind == "support":
            return Wanted(self.text.strip())
        meter = self.meter or Meter.CALLS
        return Wanted(self.text.strip(), meter, self.cap, self.until or 0)


class AskedOut(BaseModel):
    """`sent` false: the seller does not answer now, and gets it later."""

    sent: bool


class LookedOut(BaseModel):
    """`problem` is empty when the seller answered."""

    problem: str


def plan_out(plan: Plan) -> SellersPlanOut:
    """A plan of the wire."""
    names = [name for name in SellersPlanOut.model_fields if name != "now"]
    now = None
    if plan.now is not None:
        now = NowOut(**{name: getattr(plan.now, name) for name in NowOut.model_fields})
    return SellersPlanOut(**{name: getattr(plan, name) for name in names}, now=now)


def subscription_out(view: SubscriptionView) -> SubscriptionOut:
    """A subscription without its records."""
    return SubscriptionOut(**_fields(view))


def detail_out(view: SubscriptionView) -> SubscriptionDetailOut:
    """All that is known of one."""
    return SubscriptionDetailOut(
        **_fields(view),
        orders=[_order(each) for each in view.orders],
        requests=[_request(each) for each in view.requests],
        changes=[
            ChangeOut(at=each.at, kind=each.kind, text=each.text, atoms=each.atoms, by=each.by)
            for each in view.changes
        ],
    )


def outcome_out(subscription_id: str, outcome: Outcome) -> OutcomeOut:
    """How far an order got."""
    return OutcomeOut(
        subscription_id=subscription_id,
        state=outcome.state,
        code=outcome.code,
        detail=outcome.detail,
        charged_atoms=outcome.charged_atoms,
    )


def _fields(view: SubscriptionView) -> dict[str, object]:
    found = {name: getattr(view, name) for name in SubscriptionOut.model_fields}
    found["plan"] = plan_out(view.plan)
    found["next_plan"] = plan_out(view.next_plan) if view.next_plan else None
    for name in ("paid_until", "resets_at", "synced_at", "ended_at"):
        found[name] = found[name] or None
    if view.next_billing_at is None:
        found["next_price_atoms"] = None
    return found


def _order(each: OrderView) -> PlacedOrderOut:
    found = {name: getattr(each, name) for name in PlacedOrderOut.model_fields}
    return PlacedOrderOut(**found | {"done_at": each.done_at or None})


def _request(each: RequestView) -> SentRequestOut:
    found = {name: getattr(each, name) for name in SentRequestOut.model_fields}
    times = {"until": each.until or None, "answered_at": each.answered_at or None}
    return SentRequestOut(**found | times)
