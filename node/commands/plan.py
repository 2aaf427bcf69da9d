"""`farebox plan`: what this node offers by the month, its customers; and what it subscribes to."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from sqlalchemy import Engine

from catalog.drafts import parse_price
from catalog.editing import find_listings, read_listings
from catalog.errors import ListingUnknown
from catalog.models import Listing, ListingOrigin
from finance.money import Usdc
from node.accounts.audit import COMMAND
from node.commands.frame import open_database, read_settings, require_wallet
from node.commands.output import Json, format_time, show_facts, show_rows
from node.commands.plan_buying import add_to
from node.durations import HOUR
from node.plans.customers import Customer, list_customers, read_customer
from node.plans.ending import When, end_subscription
from node.plans.errors import PlanUnknown
from node.plans.offered import PlanChoices, add_plan, change_plan, choices, retire_plan
from node.plans.subscribers import Offered, read_plan, read_plans
from node.plans.terms import Beyond, Deal, terms_of

app = typer.Typer(help="Plans: offered by this node, and bought by it.", no_args_is_help=True)

_NEW = Deal(0, None, None, None, Beyond.STOP, 3)

PlanId = Annotated[str, typer.Argument(help="Id of the plan.")]
Price = Annotated[str | None, typer.Option(help="USDC a month, e.g. 5; 0 for a free plan.")]
Calls = Annotated[int | None, typer.Option(help="API calls a month; 0 for no end.")]
Hours = Annotated[int | None, typer.Option(help="Stream hours a month; 0 for no end.")]
PerMinute = Annotated[int | None, typer.Option(help="Calls in any 60 seconds; 0 for no limit.")]
BeyondOption = Annotated[
    Beyond | None, typer.Option(help="Beyond the quota: pay call by call, or stop.")
]
Grace = Annotated[int | None, typer.Option(help="Days an unpaid month is served; 0 to 14.")]
About = Annotated[str | None, typer.Option(help="At most 500 characters.")]


@app.command("list")
def list_(
    context: typer.Context,
    listing: Annotated[str | None, typer.Argument(help="Name, address part or id.")] = None,
    retired: Annotated[bool, typer.Option("--retired", help="Also those not offered.")] = False,
    as_json: Json = False,
) -> None:
    """The plans this node offers, of one API or of all."""
    engine = _open(context)
    wanted = None if listing is None else _listing(engine, listing).id
    found = read_plans(engine, wanted, retired=retired)
    own = read_listings(engine, ListingOrigin.OWN)
    names = {each.id: each.name for each, _ in own}
    rows = [_row(plan, names.get(plan.listing_id, plan.listing_id)) for plan in found]
    show_rows("Plans", rows, as_json, "No plans yet. Offer one with: farebox plan add API NAME")


@app.command()
def add(
    context: typer.Context,
    listing: Annotated[str, typer.Argument(help="Name, address part or id of the API.")],
    name: Annotated[str, typer.Argument(help="Name of the plan.")],
    price: Price = None,
    calls: Calls = None,
    stream_hours: Hours = None,
    per_minute: PerMinute = None,
    beyond: BeyondOption = None,
    grace_days: Grace = None,
    description: About = None,
    as_json: Json = False,
) -> None:
    """Offer a plan of an API."""
    engine = _open(context)
    found = _listing(engine, listing)
    terms = (price, calls, stream_hours, per_minute, beyond, grace_days)
    chosen = _chosen(name, description or "", _NEW, *terms)
    plan = add_plan(engine, found.id, chosen, int(time.time()), COMMAND)
    show_facts(_row(plan, found.name), as_json)


@app.command()
def change(
    context: typer.Context,
    plan: PlanId,
    name: Annotated[str | None, typer.Option(help="Name of the plan.")] = None,
    price: Price = None,
    calls: Calls = None,
    stream_hours: Hours = None,
    per_minute: PerMinute = None,
    beyond: BeyondOption = None,
    grace_days: Grace = None,
    description: About = None,
    as_json: Json = False,
) -> None:
    """Change a plan for what is paid from now on; what is not named stays."""
    engine = _open(context)
    before = _plan(engine, plan)
    name = before.name if name is None else name
    description = before.description if description is None else description
    terms = (price, calls, stream_hours, per_minute, beyond, grace_days)
    chosen = _chosen(name, description, before.deal, *terms)
    changed = change_plan(engine, plan, chosen, int(time.time()), COMMAND)
    show_facts(_row(changed, changed.listing_id), as_json)


@app.command()
def retire(context: typer.Context, plan: PlanId, as_json: Json = False) -> None:
    """Offer a plan no more; who has it keeps and renews it."""
    engine = _open(context)
    found = _plan(engine, plan)
    retire_plan(engine, plan, int(time.time()), COMMAND)
    show_facts({"id": plan, "retired": found.name}, as_json)


@app.command()
def customers(
    context: typer.Context,
    listing: Annotated[str | None, typer.Argument(help="Name, address part or id.")] = None,
    as_json: Json = False,
) -> None:
    """Who uses what this node sells, this month: subscribers, then who pays call by call."""
    engine = _open(context)
    wanted = "" if listing is None else _listing(engine, listing).id
    found = list_customers(engine, int(time.time()), wanted)
    rows = [_customer(each) for each in found]
    show_rows("Customers", rows, as_json, "Nobody has subscribed or called this month.")


@app.command()
def end(
    context: typer.Context,
    customer: Annotated[str, typer.Argument(help="Id of the subscription, of plan customers.")],
    reason: Annotated[str, typer.Option(help="Why; the customer reads it.")],
    now: Annotated[bool, typer.Option("--now", help="At once; only what is free.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """End a customer's subscription: what is paid stays served, nothing is renewed."""
    engine = _open(context)
    found = read_customer(engine, customer, int(time.time())).customer
    if not yes:
        question = f"End {found.plan_name} of {found.name or found.payer}?"
        typer.confirm(question, abort=True, err=True)
    when = When.NOW if now else When.PERIOD_END
    until = end_subscription(engine, customer, reason, when, int(time.time()), COMMAND)
    show_facts({"id": customer, "plan": found.plan_name, "ends": format_time(until)}, as_json)


def _open(context: typer.Context) -> Engine:
    settings = read_settings(context)
    require_wallet(settings)
    return open_database(settings)


def _listing(engine: Engine, name: str) -> Listing:
    """The one API of this node that is called so. Raises ListingUnknown."""
    with engine.connect() as connection:
        ids = find_listings(connection, name)
    found = [each for each, _ in read_listings(engine, ListingOrigin.OWN) if each.id in ids]
    if len(found) != 1:
        sentence = "This node sells no API" if not found else "This node sells more than one API"
        raise ListingUnknown(f"{sentence} {name[:200]!r}. See: farebox listing list")
    return found[0]


def _plan(engine: Engine, plan_id: str) -> Offered:
    plan = read_plan(engine, plan_id)
    if plan is None:
        raise PlanUnknown(f"There is no plan {plan_id[:80]!r}. See: farebox plan list")
    return plan


def _chosen(
    name: str,
    description: str,
    before: Deal,
    price: str | None,
    calls: int | None,
    stream_hours: int | None,
    per_minute: int | None,
    beyond: Beyond | None,
    grace_days: int | None,
) -> PlanChoices:
    """What is not named stays as `before`; 0 is no end. Raises PlanInvalid, CatalogError."""

    def quota(given: int | None, was: int | None) -> int | None:
        return was if given is None else given or None

    return choices(
        name,
        description,
        before.price_atoms if price is None else parse_price(price),
        quota(calls, before.calls),
        quota(None if stream_hours is None else stream_hours * HOUR, before.stream_seconds),
        quota(per_minute, before.per_minute),
        (beyond or before.beyond).value,
        before.grace_days if grace_days is None else grace_days,
    )


def _row(plan: Offered, listing: str) -> dict[str, Any]:
    terms = terms_of(plan.deal)
    price = {"usdc_a_month": str(Usdc(terms.pop("price_atoms")))}
    retired = format_time(plan.retired_at) if plan.retired_at else None
    named = {"id": plan.id, "api": listing, "name": plan.name}
    return named | price | terms | {"retired": retired}


def _customer(each: Customer) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "payer": each.payer,
        "api": each.listing,
        "plan": each.plan_name or None,
        "state": each.state.value if each.state else None,
        "calls": each.calls,
        "usdc_paid_per_call": str(Usdc(each.amount_atoms)),
        "quota_calls_used": each.used_calls,
        "quota_calls": each.calls_limit,
        "quota_stream_seconds_used": each.used_stream_seconds,
        "quota_stream_seconds": each.stream_seconds_limit,
        "asks": each.open_requests,
    }


add_to(app)
