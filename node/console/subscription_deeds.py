"""What is done with a subscription: another plan, renewal, cancelling, a new key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from finance.money import Usdc
from node.accounts.access import Permission
from node.accounts.audit import Actor
from node.console.finance_confirm import TEMPLATE, Deed, DeedView, ask
from node.console.format import Amount, cell_amount, moment
from node.console.forms import FieldError, Form
from node.console.pages import Pages
from node.console.plan_limits import check_limits
from node.console.plan_view import PATH, quotas_of
from node.console.visit import Visit
from node.plans.buying.errors import SubscriptionError
from node.plans.buying.models import UNDER_WAY, OrderState
from node.plans.buying.orders import Outcome
from node.plans.buying.read import SubscriptionView
from node.plans.buying.service import Subscriptions
from node.plans.buying.shapes import Plan
from node.plans.buying.states import renewed_month

ONE: Final = f"{PATH}/{{subscription_id}}"
_SPEND: Final = Permission.SPEND


@dataclass(frozen=True, slots=True)
class OtherPlan:
    """A plan one may change to; `dearer`: at once, else with the next renewal."""

    id: str
    name: str
    month: Amount
    quotas: str
    dearer: bool
    chosen: bool
    path: str


@dataclass(frozen=True, slots=True)
class PlansView:
    """What `developers/subscription_plans.html` shows."""

    path: str
    listing: str
    plan: str
    month: Amount
    quotas: str
    next_plan: str
    others: tuple[OtherPlan, ...]
    free: bool
    problem: str


def pages(subscriptions: Subscriptions) -> Pages:
    """Each deed with its page; what costs or cannot be undone asks for the password."""
    pages = Pages("developers", "subscriptions")
    _add_plans(pages, subscriptions)
    _add_upgrade(pages, subscriptions)
    _add_renewal(pages, subscriptions)
    _add(pages, subscriptions, "cancel", _cancel_deed, subscriptions.cancel, "Cancelled.")
    _add(
        pages, subscriptions, "give-up", _give_up_deed, subscriptions.give_up, "It is done already."
    )
    _add(pages, subscriptions, "key", _key_deed, subscriptions.rotate, "The key was replaced.")
    return pages


def _add_plans(pages: Pages, subscriptions: Subscriptions) -> None:
    @pages.get(f"{ONE}/plans", _SPEND)
    async def plans(visit: Visit) -> Response:
        return await _plans_page(subscriptions, visit, "")

    @pages.post(f"{ONE}/plans", _SPEND)
    async def choose(visit: Visit) -> Response:
        view = await subscriptions.read(visit.path["subscription_id"])
        try:
            plan_id = visit.form.get("plan_id") or None
            await subscriptions.choose_plan(visit.actor, view.id, plan_id)
        except SubscriptionError as error:
            return await _plans_page(subscriptions, visit, str(error))
        note = "The next renewal buys that plan." if plan_id else "The plan stays as it is."
        return visit.redirect(f"{PATH}/{view.id}", note)


async def _plans_page(subscriptions: Subscriptions, visit: Visit, problem: str) -> Response:
    view = await subscriptions.read(visit.path["subscription_id"])
    plans: tuple[Plan, ...] = ()
    try:
        plans = (await subscriptions.offers.ask(view.listing_id)).plans
    except SubscriptionError as error:
        problem = problem or str(error)
    chosen = view.next_plan.id if view.next_plan else ""
    others = tuple(
        _other(each, view.plan, chosen, view.listing_id)
        for each in plans
        if each.id != view.plan.id
    )
    shown = PlansView(
        path=f"{PATH}/{view.id}",
        listing=view.listing,
        plan=view.plan_name,
        month=cell_amount(Usdc(view.plan.monthly_price_atoms)),
        quotas=", ".join(quotas_of(view.plan)),
        next_plan=view.next_plan.name if view.next_plan else "",
        others=others,
        free=view.plan.monthly_price_atoms == 0,
        problem=problem,
    )
    # Nothing is wrong with looking; what was sent and refused is.
    status = 422 if problem and visit.request.method == "POST" else 200
    return visit.page("developers/subscription_plans.html", shown, "Change the plan", status)


def _other(plan: Plan, held: Plan, chosen: str, listing_id: str) -> OtherPlan:
    return OtherPlan(
        plan.id,
        plan.name,
        cell_amount(Usdc(plan.monthly_price_atoms)),
        ", ".join(quotas_of(plan)),
        plan.monthly_price_atoms > held.monthly_price_atoms,
        plan.id == chosen,
        f"/catalog/{listing_id}/plans/{plan.id}",
    )


def _add_upgrade(pages: Pages, subscriptions: Subscriptions) -> None:
    path = f"{ONE}/upgrade/{{plan_id}}"

    @pages.get(path, _SPEND)
    async def show(visit: Visit) -> Response:
        try:
            view, deed, price = await _upgrade_deed(subscriptions, visit)
        except SubscriptionError as error:
            return await _plans_page(subscriptions, visit, str(error))
        return await _ask_to_pay(subscriptions, visit, deed, view.listing_id, price)

    @pages.post(path, _SPEND)
    async def upgrade(visit: Visit) -> Response:
        try:
            view, deed, price = await _upgrade_deed(subscriptions, visit)
        except SubscriptionError as error:
            return await _plans_page(subscriptions, visit, str(error))

        async def work() -> Outcome:
            most = _agreed(visit, price)
            await check_limits(subscriptions.engine, view.listing_id, most, visit.now)
            return await subscriptions.upgrade(visit.actor, view.id, visit.path["plan_id"], most)

        return await _do(visit, deed, work, "Upgraded; it counts at once.")


async def _upgrade_deed(
    subscriptions: Subscriptions, visit: Visit
) -> tuple[SubscriptionView, Deed, int]:
    """What an upgrade costs now (atoms), as its page says it."""
    view = await subscriptions.read(visit.path["subscription_id"])
    quote = await subscriptions.quote_upgrade(view.id, visit.path["plan_id"])
    back, price = f"{PATH}/{view.id}", Usdc(quote.price_atoms)
    month = Usdc(quote.plan.monthly_price_atoms)
    facts = (
        ("API", view.listing),
        ("From", view.plan_name),
        ("To", quote.plan.name),
        ("Paid now", f"{price} USDC for the rest of the month"),
        ("Then", f"{month} USDC a month"),
        ("It gives", ", ".join(quotas_of(quote.plan))),
    )
    points = (
        "The wallet signs one payment over the amount above, and never more.",
        "The larger quota counts at once.",
        f"A renewal may cost {Usdc(view.agreed_atoms)} USDC at the most; raise that afterwards"
        " if the plan is to be renewed by itself."
        if month > view.agreed_atoms
        else "The next renewal buys the new plan.",
    )
    title, path = (
        f"Upgrade to {quote.plan.name}",
        f"{back}/upgrade/{quote.plan.id}?most={int(price)}",
    )
    deed = Deed(title, path, facts, points, f"Pay {price} USDC", f"{back}/plans")
    return view, deed, int(price)


def _add_renewal(pages: Pages, subscriptions: Subscriptions) -> None:
    @pages.get(f"{ONE}/renewal", _SPEND)
    async def show(visit: Visit) -> Response:
        view = await _read(subscriptions, visit)
        deed, price = _renewal_deed(view, visit), view.next_price_atoms
        return await _ask_to_pay(subscriptions, visit, deed, view.listing_id, price)

    @pages.post(f"{ONE}/renewal", _SPEND)
    async def renew(visit: Visit) -> Response:
        view = await _read(subscriptions, visit)

        async def work() -> Outcome:
            most = _agreed(visit, view.next_price_atoms)
            await check_limits(subscriptions.engine, view.listing_id, most, visit.now)
            month = renewed_month(view.paid_until, visit.now)
            if visit.query.get("month") != str(month):
                raise FieldError("", "A renewal would buy another month by now. Look at it again.")
            return await subscriptions.renew(visit.actor, view.id, most, month)

        return await _do(visit, _renewal_deed(view, visit), work, "Renewed.")


def _renewal_deed(view: SubscriptionView, visit: Visit) -> Deed:
    back, plan = f"{PATH}/{view.id}", view.next_plan or view.plan
    price = Usdc(view.next_price_atoms)
    facts = (
        ("API", view.listing),
        ("Plan", plan.name),
        ("Paid now", f"{price} USDC"),
        ("For", "the month after what is paid, or the present one if that is over"),
    )
    points = (
        "The wallet signs one payment over the amount above, and never more.",
        "A month is paid once, however often this is pressed.",
    )
    month = renewed_month(view.paid_until, visit.now)
    path = f"{back}/renewal?most={int(price)}&month={month}"
    return Deed("Renew now", path, facts, points, f"Pay {price} USDC", back)


def _add(
    pages: Pages,
    subscriptions: Subscriptions,
    name: str,
    deed_of: Callable[[SubscriptionView, Visit], Deed],
    work: Callable[[Actor, str], Awaitable[Outcome | None]],
    note: str,
) -> None:
    """A deed that costs nothing."""

    @pages.get(f"{ONE}/{name}", _SPEND)
    async def show(visit: Visit) -> Response:
        return ask(visit, deed_of(await _read(subscriptions, visit), visit))

    @pages.post(f"{ONE}/{name}", _SPEND)
    async def do(visit: Visit) -> Response:
        view = await _read(subscriptions, visit)

        async def act() -> Outcome | None:
            return await work(visit.actor, view.id)

        return await _do(visit, deed_of(view, visit), act, note)


def _cancel_deed(view: SubscriptionView, visit: Visit) -> Deed:
    back, until = f"{PATH}/{view.id}", moment(view.paid_until, visit.now, visit.zone)
    facts = (("API", view.listing), ("Plan", view.plan_name), ("Good until", until.local))
    points = (
        "It is not renewed any more, and nothing more is paid for it.",
        "What is paid is used to its end; no money comes back.",
        "This cannot be undone; afterwards one may subscribe anew.",
    )
    title = "Cancel the subscription"
    return Deed(title, f"{back}/cancel", facts, points, "Cancel it", back, danger=True)


def _give_up_deed(view: SubscriptionView, _visit: Visit) -> Deed:
    back = f"{PATH}/{view.id}"
    waiting = next((each for each in view.orders if each.state in UNDER_WAY), None)
    facts = [("API", view.listing), ("Plan", view.plan_name)]
    if waiting is not None:
        facts += [("Order", waiting.kind.value), ("At most", f"{Usdc(waiting.most_atoms)} USDC")]
        facts += [("It waits, because", waiting.detail or waiting.error or "it is being sent")]
    points = (
        "Nothing more is signed or sent for this order.",
        "What was signed may be charged until it expires: the order ends when the chain shows"
        " whether it was, and its page says until when that may take.",
        "Money that was charged does not come back; the seller is to be asked for it.",
    )
    path = f"{back}/give-up"
    return Deed("Give up the order", path, tuple(facts), points, "Give it up", back, danger=True)


def _key_deed(view: SubscriptionView, _visit: Visit) -> Deed:
    back = f"{PATH}/{view.id}"
    facts = (("API", view.listing), ("Plan", view.plan_name))
    points = (
        "The node makes a new key and tells the seller its hash; the old key ends at once.",
        "Apps notice nothing: they never see this key.",
    )
    return Deed("Replace the key", f"{back}/key", facts, points, "Replace it", back)


def _agreed(visit: Visit, price_atoms: int) -> int:
    """The price that was shown, which is the one that was agreed to. Raises FieldError when it
    is another by now: the page then shows that one."""
    shown = visit.query.get("most", "")
    if shown != str(price_atoms):
        raise FieldError("", "The price has changed. Look at it again before you agree.")
    return price_atoms


async def _read(subscriptions: Subscriptions, visit: Visit) -> SubscriptionView:
    return await subscriptions.read(visit.path["subscription_id"])


async def _ask_to_pay(
    subscriptions: Subscriptions, visit: Visit, deed: Deed, listing_id: str, price_atoms: int
) -> Response:
    """The page before a payment; a limit that forbids it is named at once."""
    try:
        await check_limits(subscriptions.engine, listing_id, price_atoms, visit.now)
    except FieldError as error:
        return ask(visit, deed, Form().refused(error))
    return ask(visit, deed)


async def _do(
    visit: Visit, deed: Deed, work: Callable[[], Awaitable[Outcome | None]], note: str
) -> Response:
    """Check the password, do it, go to the subscription; or the page again with what is wrong."""
    back = f"{PATH}/{visit.path['subscription_id']}"
    try:
        await visit.confirm_password()
        outcome = await work()
    except (FieldError, SubscriptionError) as error:
        return visit.page(TEMPLATE, DeedView(deed, Form().refused(error)), deed.title, 422)
    if outcome is None or outcome.state is OrderState.DONE:
        return visit.redirect(back, note)
    why = outcome.detail or outcome.code
    if outcome.state in (OrderState.GIVING_UP, OrderState.GIVEN_UP):
        return visit.redirect(back, why, "warn")
    if outcome.state is OrderState.OPEN:
        return visit.redirect(back, f"The payment is under way: {why}", "warn")
    form = Form().with_error("", f"Nothing was paid. {why}")
    return visit.page(TEMPLATE, DeedView(deed, form), deed.title, 422)
