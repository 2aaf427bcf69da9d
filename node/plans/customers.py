"""Who uses what this node sells, this month: subscribers, and those who pay call by call
(blocking)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Engine, select
from sqlmodel import col

from catalog.models import Listing
from finance.snapshot import snapshot
from node.plans.errors import PlanUnknown
from node.plans.invoices import InvoiceView, invoices_of
from node.plans.models import InvoiceSide
from node.plans.requests import Request, open_by_subscription, read_requests
from node.plans.subscribers import SUBJECT, Offered, Subscriber, read_plans, read_subscribers
from node.plans.terms import State
from node.usage.endpoints import Apart, EndpointUse, read_endpoints, read_sums
from node.usage.models import Side
from node.usage.overrides import Override, lifted, list_overrides, live_overrides
from node.usage.quotas import Meter, used_by_subject
from node.usage.windows import NOTHING, Sums, add_up, window_of

_APART: Final[Apart] = ("key_id", "listing_id")
# What plans cost is no call.
_ORDERS: Final = ("%/.farebox/plans%", "%/.farebox/subscriptions%")


@dataclass(frozen=True, slots=True)
class Customer:
    """A subscriber, or (`plan_name` empty) somebody who pays call by call. Of this month:
    `calls` delivered and refused, `amount_atoms` paid singly, `used_*` of the quotas `*_limit`
    (None: no end). `id`: of the subscription, or the payer's address."""

    id: str
    name: str
    payer: str
    listing: str
    plan_name: str
    state: State | None
    calls: int
    amount_atoms: int
    used_calls: int
    calls_limit: int | None
    used_stream_seconds: int
    stream_seconds_limit: int | None
    open_requests: int
    since: int | None

    @property
    def subscribed(self) -> bool:
        return self.state is not None


@dataclass(frozen=True, slots=True)
class CustomerDetail:
    """One subscriber with everything there is. `plans` by id."""

    customer: Customer
    subscriber: Subscriber
    plans: dict[str, Offered]
    endpoints: tuple[EndpointUse, ...]
    overrides: tuple[Override, ...]
    requests: tuple[Request, ...]
    invoices: tuple[InvoiceView, ...]


@dataclass(frozen=True, slots=True)
class PayerDetail:
    """Somebody who pays call by call, and what it subscribes to."""

    customer: Customer
    endpoints: tuple[EndpointUse, ...]
    subscriptions: tuple[Customer, ...]


def list_customers(engine: Engine, now: int, listing_id: str = "") -> list[Customer]:
    """Subscribers first, those who wait for an answer before the others, then payers, by what
    they paid this month."""
    names = _names(engine)
    found = [each for each in read_subscribers(engine) if listing_id in ("", each.listing_id)]
    subscribers = _customers(engine, found, names, now)
    subscribers.sort(key=lambda each: (-each.open_requests, -(each.since or 0), each.id))
    payers = _payers(engine, names, now, listing_id)
    return [*subscribers, *payers]


def read_customer(engine: Engine, subscription_id: str, now: int) -> CustomerDetail:
    """One subscriber. Raises PlanUnknown."""
    found = [each for each in read_subscribers(engine, [subscription_id]) if each.settled]
    if not found:
        raise PlanUnknown("There is no such customer.")
    subscriber = found[0]
    customer = _customers(engine, found, _names(engine), now)[0]
    plans = read_plans(engine, subscriber.listing_id, retired=True)
    return CustomerDetail(
        customer,
        subscriber,
        {plan.id: plan for plan in plans},
        _endpoints(engine, subscriber.subject, now),
        tuple(list_overrides(engine, subscriber.subject)),
        tuple(read_requests(engine, subscription_id)),
        tuple(invoices_of(engine, subscription_id, InvoiceSide.SOLD)),
    )


def read_payer(engine: Engine, address: str, now: int) -> PayerDetail:
    """One address that pays. Raises PlanUnknown."""
    names = _names(engine)
    own = [each for each in read_subscribers(engine) if each.payer == address and each.settled]
    found = [each for each in _payers(engine, names, now) if each.id == address]
    if not own and not found:
        raise PlanUnknown("There is no such customer this month.")
    customer = found[0] if found else _payer(address, "", NOTHING)
    subscriptions = _customers(engine, own, names, now)
    return PayerDetail(customer, _endpoints(engine, address, now), tuple(subscriptions))


def plan_holders(engine: Engine, listing_id: str, now: int) -> dict[str, int]:
    """How many are served by each plan of a listing now."""
    holders: defaultdict[str, int] = defaultdict(int)
    for each in read_subscribers(engine):
        if each.listing_id == listing_id and each.settled:
            standing = each.standing(now)
            holders[standing.plan_id] += standing.served
    return dict(holders)


def _customers(
    engine: Engine, found: Iterable[Subscriber], names: dict[str, str], now: int
) -> list[Customer]:
    calls, seconds = (used_by_subject(engine, meter, now) for meter in Meter)
    waiting, sums = open_by_subscription(engine), _sums(engine, now)
    granted: defaultdict[str, list[Override]] = defaultdict(list)
    for override in live_overrides(engine, now):
        granted[override.subject].append(override)
    return [
        _customer(each, names, calls, seconds, waiting, sums, granted, now)
        for each in found
        if each.settled
    ]


def _customer(
    each: Subscriber,
    names: dict[str, str],
    calls: dict[str, int],
    seconds: dict[str, int],
    waiting: dict[str, int],
    sums: dict[tuple[str, str], Sums],
    granted: dict[str, list[Override]],
    now: int,
) -> Customer:
    standing, subject = each.standing(now), each.subject
    lifts = granted.get(subject, [])
    counted = sums.get((subject, each.listing_id), NOTHING)
    last = next(o for o in reversed(each.settled) if o.period.plan_id == standing.plan_id)
    return Customer(
        id=each.id,
        name=each.name,
        payer=each.payer,
        listing=names.get(each.listing_id, each.listing_id),
        plan_name=last.plan_name,
        state=standing.state,
        calls=counted.calls,
        amount_atoms=counted.amount_atoms,
        used_calls=calls.get(subject, 0),
        calls_limit=lifted(standing.calls, lifts, Meter.CALLS, now),
        used_stream_seconds=seconds.get(subject, 0),
        stream_seconds_limit=lifted(standing.stream_seconds, lifts, Meter.STREAM_SECONDS, now),
        open_requests=waiting.get(each.id, 0),
        since=each.created_at,
    )


def _payers(
    engine: Engine, names: dict[str, str], now: int, listing_id: str = ""
) -> list[Customer]:
    by_payer: defaultdict[str, list[tuple[str, Sums]]] = defaultdict(list)
    for (payer, listing), sums in _sums(engine, now).items():
        if not payer.startswith(SUBJECT) and payer and listing_id in ("", listing):
            by_payer[payer].append((names.get(listing, listing), sums))
    found = [
        _payer(
            payer,
            ", ".join(sorted({listing for listing, _ in parts})),
            add_up(sums for _, sums in parts),
        )
        for payer, parts in by_payer.items()
    ]
    found = [each for each in found if each.calls > 0]
    found.sort(key=lambda each: (-each.amount_atoms, -each.calls, each.id))
    return found


def _payer(address: str, listings: str, sums: Sums) -> Customer:
    counted = (sums.calls, sums.amount_atoms)
    return Customer(address, "", address, listings, "", None, *counted, 0, None, 0, None, 0, None)


def _sums(engine: Engine, now: int) -> dict[tuple[str, str], Sums]:
    """Of this month, by customer and listing."""
    month = window_of(now)
    with snapshot(engine) as connection:
        found = read_sums(connection, Side.SERVED, month.start, month.end, _APART, without=_ORDERS)
    return {(payer, listing): sums for (payer, listing), sums in found.items()}


def _endpoints(engine: Engine, whose: str, now: int) -> tuple[EndpointUse, ...]:
    month = window_of(now)
    with snapshot(engine) as connection:
        return read_endpoints(
            connection, Side.SERVED, month.start, month.end, whose=whose, without=_ORDERS
        )


def _names(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(select(col(Listing.id), col(Listing.name)))
        return {row[0]: row[1] for row in rows}
