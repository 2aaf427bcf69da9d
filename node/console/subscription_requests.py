"""Asking a plan's seller: a message, or more calls or hours for a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from starlette.responses import Response

from node.accounts.access import Permission
from node.console.forms import FieldError, Form, read_whole
from node.console.pages import Pages
from node.console.plan_view import PATH
from node.console.visit import Visit
from node.durations import HOUR
from node.plans.buying.changing import Wanted
from node.plans.buying.errors import SubscriptionError
from node.plans.buying.read import SubscriptionView
from node.plans.buying.service import Subscriptions
from node.usage.quotas import Meter
from node.usage.windows import window_of

_REQUESTS: Final = f"{PATH}/{{subscription_id}}/requests"
_SPEND: Final = Permission.SPEND
_WANTS: Final = (
    ("support", "Support: a message"),
    (Meter.CALLS.value, "More calls"),
    (Meter.STREAM_SECONDS.value, "More stream hours"),
)


@dataclass(frozen=True, slots=True)
class AskView:
    """What `developers/subscription_ask.html` shows."""

    path: str
    listing: str
    plan: str
    form: Form
    wants: tuple[tuple[str, str], ...]
    zone: str


def pages(subscriptions: Subscriptions) -> Pages:
    """The form, and what is done with it."""
    pages = Pages("developers", "subscriptions")

    @pages.get(_REQUESTS, _SPEND)
    async def show(visit: Visit) -> Response:
        end = datetime.fromtimestamp(window_of(visit.now).end, visit.zone)
        form = Form({"until": end.strftime("%Y-%m-%dT%H:%M")})
        return _ask_page(visit, await subscriptions.read(visit.path["subscription_id"]), form)

    @pages.post(_REQUESTS, _SPEND)
    async def send(visit: Visit) -> Response:
        view, form = await subscriptions.read(visit.path["subscription_id"]), Form(visit.form)
        try:
            sent = await subscriptions.ask(visit.actor, view.id, _wanted(form, visit.zone))
        except (FieldError, SubscriptionError) as error:
            return _ask_page(visit, view, form.refused(error), 422)
        note = "The seller has it; the answer will stand here, and is announced."
        if not sent:
            note = "Written down. The seller does not answer now, and gets it later."
        return visit.redirect(f"{PATH}/{view.id}", note, "good" if sent else "warn")

    return pages


def _ask_page(visit: Visit, view: SubscriptionView, form: Form, status: int = 200) -> Response:
    path, zone = f"{PATH}/{view.id}", visit.zone.key
    shown = AskView(path, view.listing, view.plan_name, form, _WANTS, zone)
    return visit.page("developers/subscription_ask.html", shown, "Ask the seller", status)


def _wanted(form: Form, zone: ZoneInfo) -> Wanted:
    """What was filled in. Raises FieldError."""
    text, kind = form.value("text").replace("\r\n", "\n").strip(), form.value("kind")
    if kind == "support":
        return Wanted(text)
    if kind not in dict(_WANTS):
        raise FieldError("kind", "Choose what to ask for.")
    meter = Meter(kind)
    cap = read_whole(form, "cap", "Write a whole number of calls or hours, or nothing.")
    if cap is not None and meter is Meter.STREAM_SECONDS:
        cap *= HOUR
    try:
        until = int(datetime.fromisoformat(form.value("until")).replace(tzinfo=zone).timestamp())
    except (ValueError, OverflowError):
        raise FieldError("until", "Write a day and a time, such as 2027-01-31T18:00.") from None
    return Wanted(text, meter, cap, until)
