"""Subscriptions with their periods, as the database has them (blocking)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, func, select
from sqlmodel import col

from finance.models import OnchainPayment, PaymentState
from node.plans.models import Plan, Subscription, SubscriptionPeriod
from node.plans.terms import Beyond, Deal, Kind, Period, Standing, Stretch, standing_at
from node.usage.set_aside import of_shown_network

SUBJECT: Final = "sub:"
_ON_ITS_WAY: Final = (PaymentState.RESERVED, PaymentState.OWED, PaymentState.SENT)


@dataclass(frozen=True, slots=True)
class Offered:
    """A plan of a listing. `retired_at`: not offered any more."""

    id: str
    listing_id: str
    name: str
    description: str
    deal: Deal
    created_at: int
    changed_at: int
    retired_at: int | None


@dataclass(frozen=True, slots=True)
class Ordered:
    """A period with what is known of its order; `number` counts them."""

    number: int
    kind: Kind
    plan_name: str
    period: Period
    payment_id: str | None
    tx_hash: str | None
    ordered_at: int


@dataclass(frozen=True, slots=True)
class Ended:
    """That the seller ended it: which user, and the reason the customer is told."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription. `orders` oldest first, without those whose payment failed. `cancelled_at`:
    not renewed; by its seller where there is `ended`. `served_until`: earlier than its month's
    end. `changes` counts, so that a change can be guarded."""

    id: str
    listing_id: str
    key_hash: str
    payer: str
    name: str
    email: str
    next_plan_id: str | None
    next_plan_after: int
    created_at: int
    cancelled_at: int | None
    orders: tuple[Ordered, ...]
    changes: int = 0
    ended: Ended | None = None
    served_until: int | None = None

    @property
    def subject(self) -> str:
        """Whom its calls are counted on."""
        return SUBJECT + self.id

    @property
    def periods(self) -> list[Period]:
        return [order.period for order in self.orders]

    @property
    def settled(self) -> list[Ordered]:
        return [order for order in self.orders if order.period.settled]

    @property
    def pending(self) -> bool:
        """Whether the money of an order is still on its way."""
        return len(self.settled) < len(self.orders)

    @property
    def last_number(self) -> int:
        """Of the newest period that is paid."""
        return max((order.number for order in self.settled), default=0)

    @property
    def chosen_plan_id(self) -> str | None:
        """The other plan it is to go on with, unless a later period has made that void."""
        return self.next_plan_id if self.next_plan_after == self.last_number else None

    @property
    def goes_on_with(self) -> str:
        """Id of the plan that its next renewal buys."""
        return self.chosen_plan_id or self.settled[-1].period.plan_id

    def standing(self, now: int) -> Standing:
        return standing_at(self.periods, self.cancelled_at, now, self.served_until)


def read_plan(engine: Engine, plan_id: str) -> Offered | None:
    """One plan, also a retired one."""
    with engine.connect() as connection:
        row = connection.execute(select(_PLAN).where(_PLAN.c.id == plan_id)).one_or_none()
    return None if row is None else offered(row)


def read_plans(
    engine: Engine, listing_id: str | None = None, *, retired: bool = False
) -> list[Offered]:
    """Plans of one listing or of all, cheapest first; those not offered any more on wish."""
    statement = select(_PLAN).order_by(_PLAN.c.price_atoms, _PLAN.c.created_at, _PLAN.c.id)
    if listing_id is not None:
        statement = statement.where(_PLAN.c.listing_id == listing_id)
    if not retired:
        statement = statement.where(_PLAN.c.retired_at.is_(None))
    with engine.connect() as connection:
        return [offered(row) for row in connection.execute(statement)]


def read_subscribers(engine: Engine, ids: Iterable[str] | None = None) -> list[Subscriber]:
    """All subscriptions that were ever paid (or free), or those of `ids`; also such whose first
    payment is still on its way."""
    with engine.connect() as connection:
        return subscribers_in(connection, ids)


def subscribers_in(connection: Connection, ids: Iterable[str] | None = None) -> list[Subscriber]:
    """The same over a connection. What was paid on another network than the node's is left out."""
    subscriptions = select(_SUBSCRIPTION).order_by(_SUBSCRIPTION.c.id)
    periods = _PERIODS.order_by(_PERIOD.c.subscription_id, _PERIOD.c.number)
    here = of_shown_network(connection, col(OnchainPayment.chain_id))
    periods = periods.where(_PERIOD.c.payment_id.is_(None) | here)
    if ids is not None:
        wanted = list(ids)
        subscriptions = subscriptions.where(_SUBSCRIPTION.c.id.in_(wanted))
        periods = periods.where(_PERIOD.c.subscription_id.in_(wanted))
    orders: defaultdict[str, list[Ordered]] = defaultdict(list)
    free = _free_deals(connection)
    for row in connection.execute(periods):
        orders[row.subscription_id].append(_ordered(row, free))
    rows = connection.execute(subscriptions).all()
    return [_subscriber(row, orders[row.id]) for row in rows if row.id in orders]


def changed_since(engine: Engine, at: int) -> list[str]:
    """Ids of subscriptions that were changed at `at` or later."""
    statement = select(_SUBSCRIPTION.c.id).where(_SUBSCRIPTION.c.changed_at >= at)
    with engine.connect() as connection:
        return list(connection.execute(statement).scalars())


def plans_version(connection: Connection) -> tuple[int, ...]:
    """Differs whenever a plan does. Subscriptions are followed by the gateway's gate."""
    return tuple(connection.execute(select(func.max(_PLAN.c.changed_at), func.count())).one())


def offered(row: Row[Any]) -> Offered:
    """A plan from its row."""
    return Offered(
        row.id,
        row.listing_id,
        row.name,
        row.description,
        _plan_deal(row),
        row.created_at,
        row.changed_at,
        row.retired_at,
    )


def _plan_deal(row: Row[Any]) -> Deal:
    return Deal(
        row.price_atoms,
        row.calls,
        row.stream_seconds,
        row.per_minute,
        Beyond(row.beyond),
        row.grace_days,
    )


def _free_deals(connection: Connection) -> dict[str, Deal]:
    """Free plans as they are now: nobody has paid for what they were."""
    rows = connection.execute(select(_PLAN).where(_PLAN.c.price_atoms == 0))
    return {row.id: _plan_deal(row) for row in rows}


def _ordered(row: Row[Any], free: dict[str, Deal]) -> Ordered:
    deal = Deal(
        row.month_price_atoms,
        row.month_calls,
        row.month_stream_seconds,
        row.per_minute,
        Beyond(row.beyond),
        row.grace_days,
    )
    if deal.free:
        deal = free.get(row.plan_id, deal)
    stretch = Stretch(row.starts_at, row.ends_at, row.calls, row.stream_seconds, row.price_atoms)
    settled = row.payment_id is None or row.state == PaymentState.CONFIRMED
    return Ordered(
        row.number,
        Kind(row.kind),
        row.plan_name,
        Period(row.plan_id, deal, stretch, settled),
        row.payment_id,
        row.tx_hash,
        row.ordered_at,
    )


def _subscriber(row: Row[Any], orders: Sequence[Ordered]) -> Subscriber:
    return Subscriber(
        row.id,
        row.listing_id,
        row.key_hash,
        row.payer,
        row.name,
        row.email,
        row.next_plan_id,
        row.next_plan_after,
        row.created_at,
        row.cancelled_at,
        tuple(orders),
        row.changes,
        Ended(row.ended_by, row.end_reason) if row.ended_by else None,
        row.served_until,
    )


_PLAN: Final[Any] = Plan.__table__  # type: ignore[attr-defined]
_SUBSCRIPTION: Final[Any] = Subscription.__table__  # type: ignore[attr-defined]
_PERIOD: Final[Any] = SubscriptionPeriod.__table__  # type: ignore[attr-defined]
_PERIODS: Final[Any] = (
    select(_PERIOD, col(OnchainPayment.state).label("state"), col(OnchainPayment.tx_hash))
    .select_from(_PERIOD.outerjoin(OnchainPayment, col(OnchainPayment.id) == _PERIOD.c.payment_id))
    .where(
        _PERIOD.c.payment_id.is_(None)
        | col(OnchainPayment.state).in_((PaymentState.CONFIRMED, *_ON_ITS_WAY))
    )
)
