"""What this node holds of others' plans, for pages and JSON API (blocking)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, select
from sqlmodel import col

from catalog.models import Listing
from node.plans.buying.errors import SubscriptionUnknown
from node.plans.buying.models import (
    LIVE,
    BoughtChange,
    BoughtOrder,
    BoughtRequest,
    BoughtState,
    BoughtSubscription,
    OrderKind,
    OrderState,
)
from node.plans.buying.shapes import Plan, plan_of
from node.plans.buying.states import Standing
from node.plans.terms import Beyond


@dataclass(frozen=True, slots=True)
class OrderView:
    """A payment, or the attempt at one. Times in Unix seconds, `done_at` 0 while it is open."""

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
    next_try_at: int
    created_at: int
    done_at: int


@dataclass(frozen=True, slots=True)
class RequestView:
    """An override or support asked for, with its answer; `answered_at` 0: none yet."""

    id: str
    kind: str
    meter: str
    cap: int | None
    until: int
    text: str
    state: str
    answer: str
    asked_at: int
    asked_by: str
    answered_at: int
    sent: bool


@dataclass(frozen=True, slots=True)
class ChangeView:
    """Something that happened, in one sentence."""

    at: int
    kind: str
    text: str
    atoms: int
    by: str


@dataclass(frozen=True, slots=True)
class SubscriptionView:
    """A subscription of this node. Amounts in USDC atoms, times in Unix seconds (0: none),
    quotas None for no end; `used_*` and `per_minute_now` as the seller last said, which was
    `synced_at`. Records are newest first."""

    id: str
    listing_id: str
    listing: str
    in_catalog: bool
    seller_id: str
    state: BoughtState
    plan: Plan
    next_plan: Plan | None
    renews: bool
    agreed_atoms: int
    beyond: Beyond
    paid_until: int
    period_start: int
    period_end: int
    period_price_atoms: int
    calls: int | None
    stream_seconds: int | None
    used_calls: int
    used_stream_seconds: int
    per_minute: int | None
    per_minute_now: int
    resets_at: int
    next_billing_at: int | None
    next_price_atoms: int
    grace_until: int
    synced_at: int
    sync_failed: str
    created_at: int
    created_by: str
    ended_at: int
    changes: tuple[ChangeView, ...] = ()
    orders: tuple[OrderView, ...] = ()
    requests: tuple[RequestView, ...] = ()

    @property
    def plan_name(self) -> str:
        return self.plan.name

    @property
    def live(self) -> bool:
        """Its key is served."""
        return self.state in LIVE

    @property
    def payments(self) -> tuple[OrderView, ...]:
        """What was paid."""
        return tuple(each for each in self.orders if each.state is OrderState.DONE)


def live_subscriptions(engine: Engine, now: int) -> tuple[SubscriptionView, ...]:
    """Those whose keys are served now, with their records, by listing."""
    return tuple(each for each in list_subscriptions(engine, now, records=True) if each.live)


def list_subscriptions(
    engine: Engine, now: int, *, listing_id: str | None = None, records: bool = False
) -> tuple[SubscriptionView, ...]:
    """All of them, or one listing's: the live ones first, by name, then the newest."""
    statement = _subscriptions()
    if listing_id is not None:
        statement = statement.where(col(BoughtSubscription.listing_id) == listing_id)
    with engine.connect() as connection:
        rows = connection.execute(statement).all()
        found = [_view(connection if records else None, row, now) for row in rows]
    return tuple(sorted(found, key=_order))


def read_subscription(engine: Engine, subscription_id: str, now: int) -> SubscriptionView:
    """One with its records. Raises SubscriptionUnknown."""
    statement = _subscriptions().where(col(BoughtSubscription.id) == subscription_id)
    with engine.connect() as connection:
        row = connection.execute(statement).first()
        if row is None:
            raise SubscriptionUnknown("There is no such subscription.")
        return _view(connection, row, now)


def standing_of(row: Any, plan: Plan) -> Standing:
    """What decides about a subscription, from its row."""
    following = plan_of(row.next_plan) or plan
    free = plan.monthly_price_atoms == following.monthly_price_atoms == 0
    return Standing(BoughtState(row.state), row.paid_until, plan.grace_days, row.renews, free)


def plan_in(row: Any) -> Plan:
    """The plan of a row; it always has one."""
    plan = plan_of(row.plan)
    assert plan is not None
    return plan


def next_price(row: Any) -> int:
    """What the next month costs: as the seller last said, else as the plan says."""
    if row.next_at:
        return int(row.next_price_atoms)
    return (plan_of(row.next_plan) or plan_in(row)).monthly_price_atoms


def _subscriptions() -> Select[Any]:
    table = BoughtSubscription.__table__  # type: ignore[attr-defined]
    listing = table.outerjoin(Listing, col(Listing.id) == table.c.listing_id)
    return select(*table.c, col(Listing.name).label("listing_name")).select_from(listing)


def _order(view: SubscriptionView) -> tuple[bool, str, int]:
    return not view.live, view.listing.casefold() if view.live else "", -view.created_at


def _view(connection: Connection | None, row: Row[Any], now: int) -> SubscriptionView:
    plan = plan_in(row)
    standing = standing_of(row, plan)
    state = standing.at(now)
    due = state in (BoughtState.ACTIVE, BoughtState.GRACE) and row.renews and not standing.free
    return SubscriptionView(
        id=row.id,
        listing_id=row.listing_id,
        listing=row.listing_name or row.base_url,
        in_catalog=row.listing_name is not None,
        seller_id=row.seller_id,
        state=state,
        plan=plan,
        next_plan=plan_of(row.next_plan),
        renews=row.renews,
        agreed_atoms=row.agreed_atoms,
        beyond=Beyond(row.beyond),
        paid_until=row.paid_until,
        period_start=row.period_start,
        period_end=row.period_end,
        period_price_atoms=row.period_price_atoms,
        calls=row.period_calls,
        stream_seconds=row.period_stream_seconds,
        used_calls=row.used_calls,
        used_stream_seconds=row.used_stream_seconds,
        per_minute=plan.per_minute,
        per_minute_now=row.per_minute_now,
        resets_at=row.resets_at or row.period_end,
        next_billing_at=row.paid_until if due else None,
        next_price_atoms=next_price(row),
        grace_until=standing.grace_end,
        synced_at=row.synced_at,
        sync_failed=row.sync_failed,
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
        changes=_changes(connection, row.id) if connection else (),
        orders=_orders(connection, row.id) if connection else (),
        requests=_requests(connection, row.id) if connection else (),
    )


def _changes(connection: Connection, subscription_id: str) -> tuple[ChangeView, ...]:
    columns = [col(getattr(BoughtChange, name)) for name in ChangeView.__slots__]
    statement = select(*columns).where(col(BoughtChange.subscription_id) == subscription_id)
    rows = connection.execute(statement.order_by(col(BoughtChange.id).desc()))
    return tuple(ChangeView(*row) for row in rows)


def _orders(connection: Connection, subscription_id: str) -> tuple[OrderView, ...]:
    columns = [col(getattr(BoughtOrder, name)) for name in OrderView.__slots__]
    statement = select(*columns).where(col(BoughtOrder.subscription_id) == subscription_id)
    rows = connection.execute(statement.order_by(col(BoughtOrder.created_at).desc())).mappings()
    return tuple(
        OrderView(**{**row, "kind": OrderKind(row["kind"]), "state": OrderState(row["state"])})
        for row in rows
    )


def _requests(connection: Connection, subscription_id: str) -> tuple[RequestView, ...]:
    names = [name for name in RequestView.__slots__ if name != "sent"]
    columns = [col(getattr(BoughtRequest, name)) for name in names]
    statement = (
        select(*columns, (col(BoughtRequest.seller_id) != "").label("sent"))
        .where(col(BoughtRequest.subscription_id) == subscription_id)
        .order_by(col(BoughtRequest.asked_at).desc(), col(BoughtRequest.id))
    )
    return tuple(RequestView(**row) for row in connection.execute(statement).mappings())
