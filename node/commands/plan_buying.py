"""`farebox plan`, buying: subscribing and what follows. The running node pays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from sqlalchemy import Engine

from catalog.editing import find_listings, read_listings
from catalog.errors import ListingUnknown
from catalog.models import ListingOrigin
from finance.money import Usdc
from node.accounts.audit import COMMAND
from node.alerts.alerts import Alerts
from node.commands.frame import open_database, read_settings, unlock
from node.commands.output import Json, format_time, show_facts, show_rows
from node.egress import EgressPolicy
from node.errors import NodeNotRunning
from node.lock import running_node
from node.market.network import NetworkChoices
from node.plans.buying.giving_up import wish
from node.plans.buying.models import OrderState
from node.plans.buying.ordering import Agreed
from node.plans.buying.ports import Asked, PlacedOrder, Told
from node.plans.buying.read import (
    OrderView,
    SubscriptionView,
    list_subscriptions,
    read_subscription,
)
from node.plans.buying.service import Subscriptions
from node.plans.terms import Beyond
from node.preferences import read_preference
from node.proxy.plan_line import ASK_SECONDS, ask
from node.proxy.seller import SellerClient
from node.settings import Settings
from node.subscriptions import open_vault

WAIT_SECONDS = 120.0
_LOOK_SECONDS = 0.5
T = TypeVar("T")
Bought = Annotated[
    str, typer.Argument(help="Name, address part or id of a listing this node buys from.")
]
SubscriptionId = Annotated[str, typer.Argument(help="Id of the subscription.")]


def add_to(app: typer.Typer) -> None:
    """The commands of who buys, beside those of who sells."""
    app.command("offers")(offers)
    app.command("subscribe")(subscribe)
    app.command("subscriptions")(subscriptions)
    app.command("renew")(renew)
    app.command("cancel")(cancel)
    app.command("give-up")(give_up)


def offers(
    context: typer.Context,
    listing: Bought,
    as_json: Json = False,
) -> None:
    """The plans that a listing's seller offers."""
    settings = read_settings(context)
    wanted = _bought(settings, listing)
    offer = _run(settings, lambda bought: bought.offers.ask(wanted))
    rows = [
        {
            "plan": plan.id,
            "name": plan.name,
            "now_usdc": str(Usdc(plan.now.price_atoms)) if plan.now else None,
            "month_usdc": str(Usdc(plan.monthly_price_atoms)),
            "calls": plan.calls,
            "stream_seconds": plan.stream_seconds,
            "per_minute": plan.per_minute,
            "beyond": plan.beyond,
        }
        for plan in offer.plans
    ]
    show_rows("Plans", rows, as_json, "The seller offers no plans.")


def subscribe(
    context: typer.Context,
    listing: Bought,
    plan: Annotated[str, typer.Argument(help="Id of the plan.")],
    most: Annotated[str, typer.Option(help="Most to pay for the rest of this month, USDC.")],
    month: Annotated[str, typer.Option(help="Most that a renewal may cost, USDC.")],
    renews: Annotated[bool, typer.Option("--renews/--once", help="Renew by itself.")] = True,
    stop: Annotated[
        bool, typer.Option("--stop", help="Refuse calls beyond the quota instead of paying them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Buy a plan through the running node. Exit code 1 when it was not bought."""
    settings = read_settings(context)
    _require_node(settings)
    beyond = Beyond.STOP if stop else Beyond.PAY
    agreed = Agreed(int(Usdc.parse(most)), int(Usdc.parse(month)), renews, beyond)
    wanted = _bought(settings, listing)
    made, order_id = _run(settings, lambda bought: bought.order(COMMAND, wanted, plan, agreed))
    _follow(open_database(settings), made, order_id, as_json)


def subscriptions(context: typer.Context, as_json: Json = False) -> None:
    """What this node holds of others' plans, the live ones first."""
    settings = read_settings(context)
    found = list_subscriptions(open_database(settings), int(time.time()))
    empty = "No subscription yet. See what a seller offers: farebox plan offers LISTING"
    show_rows("Subscriptions", [_row(each) for each in found], as_json, empty)


def renew(
    context: typer.Context,
    subscription: SubscriptionId,
    most: Annotated[str, typer.Option(help="Most that the month may cost, USDC.")],
    as_json: Json = False,
) -> None:
    """Pay the next month now, through the running node. Exit code 1 when it was not paid."""
    settings = read_settings(context)
    _require_node(settings)
    engine, atoms = open_database(settings), int(Usdc.parse(most))

    async def order(bought: Subscriptions) -> str:
        ordering, now = bought.ordering, bought.now
        month = await asyncio.to_thread(ordering.month, subscription, now)
        args = COMMAND, subscription, atoms, now, month
        return await asyncio.to_thread(ordering.renewal, *args)

    _follow(engine, subscription, _run(settings, order), as_json)


def cancel(context: typer.Context, subscription: SubscriptionId, as_json: Json = False) -> None:
    """Do not renew any more; it is good until the end of what is paid."""
    settings = read_settings(context)
    _run(settings, lambda bought: bought.cancel(COMMAND, subscription))
    found = read_subscription(open_database(settings), subscription, int(time.time()))
    show_facts(_row(found), as_json)


def give_up(context: typer.Context, subscription: SubscriptionId, as_json: Json = False) -> None:
    """Give up the order that is under way, whose answer does not come. Exit code 1 while what
    was signed for it may still be charged; the running node ends it then."""
    settings = read_settings(context)
    _require_node(settings)
    engine = open_database(settings)
    order_id = wish(engine, COMMAND, subscription, int(time.time()))

    def waits(order: OrderView) -> bool:
        return order.state is OrderState.GIVING_UP and not order.detail

    view, order = _watch(engine, subscription, order_id, waits)
    show_facts({**_row(view), "order": order.state.value, "why": order.detail}, as_json)
    if order.state is OrderState.GIVING_UP:
        raise typer.Exit(1)


def _bought(settings: Settings, name: str) -> str:
    """The id of the one listing of others that is called so. Raises ListingUnknown."""
    engine = open_database(settings)
    with engine.connect() as connection:
        ids = find_listings(connection, name)
    found = [each.id for each, _ in read_listings(engine, ListingOrigin.REMOTE) if each.id in ids]
    if len(found) != 1:
        sentence = "buys from no listing" if not found else "buys from more than one listing"
        raise ListingUnknown(f"This node {sentence} {name[:200]!r}. See: farebox listing list")
    return found[0]


class _CommandLine:
    """Asks sellers; what is paid, the running node pays."""

    def __init__(self, client: SellerClient) -> None:
        self._client = client

    async def ask_seller(self, asked: Asked) -> Told:
        return await ask(self._client, asked)

    async def place(self, order: PlacedOrder) -> Told:
        raise NodeNotRunning("Only the running node pays. Start it: farebox up")

    def take_doubted(self) -> set[str]:
        return set()


def _run(settings: Settings, work: Callable[[Subscriptions], Awaitable[T]]) -> T:
    """Do something that costs nothing with the node's keys; asks for the passphrase."""
    engine, vault = open_database(settings), open_vault(unlock(settings))

    async def run() -> T:
        hosts = read_preference(engine, NetworkChoices).extra_hosts
        egress = EgressPolicy((*settings.allowed_hosts, *hosts))
        client = SellerClient(egress, answer_seconds=ASK_SECONDS)
        await client.start()
        try:
            line, alarm = _CommandLine(client), Alerts(engine)
            chain_id = settings.chain.chain_id
            return await work(Subscriptions(engine, line, vault, alarm, chain_id, _nobody_runs))
        finally:
            await client.stop()

    return asyncio.run(run())


async def _nobody_runs() -> None:
    """A running node notices by itself."""


def _require_node(settings: Settings) -> None:
    if not running_node(settings.data_dir).get("console_url"):
        raise NodeNotRunning(
            f"No node is running on {settings.data_dir}, and it is the node that pays, or gives up"
            " what it cannot. Start it: farebox up"
        )


def _follow(engine: Engine, subscription_id: str, order_id: str, as_json: bool) -> None:
    """Wait until the node has carried the order out."""
    view, order = _watch(
        engine, subscription_id, order_id, lambda order: order.state is OrderState.OPEN
    )
    facts = {**_row(view), "order": order.state.value, "paid_usdc": str(Usdc(order.charged_atoms))}
    if order.state is not OrderState.DONE:
        facts["why"] = order.detail or order.error or "The node still works on it."
    show_facts(facts, as_json)
    if order.state is not OrderState.DONE:
        raise typer.Exit(1)


def _watch(
    engine: Engine, subscription_id: str, order_id: str, waits: Callable[[OrderView], bool]
) -> tuple[SubscriptionView, OrderView]:
    """The order, once there is nothing to wait for, or after a while."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        view = read_subscription(engine, subscription_id, int(time.time()))
        order = next(each for each in view.orders if each.id == order_id)
        if not waits(order) or time.monotonic() > deadline:
            return view, order
        time.sleep(_LOOK_SECONDS)


def _row(view: SubscriptionView) -> dict[str, Any]:
    due = view.next_billing_at
    return {
        "id": view.id,
        "listing": view.listing_id,
        "plan": view.plan_name,
        "state": view.state.value,
        "renews": view.renews,
        "calls_used": view.used_calls,
        "calls": view.calls,
        "paid_until": format_time(view.paid_until) if view.paid_until else None,
        "next_billing": format_time(due) if due is not None else None,
        "next_usdc": str(Usdc(view.next_price_atoms)) if due is not None else None,
    }
