"""What customers ask and nobody has answered yet, as it is told to the seller (blocking)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, Row, select
from sqlmodel import col

from catalog.models import Listing
from node.alerts.incidents import open_ids
from node.alerts.models import Notification
from node.alerts.rules import Rule
from node.plans.models import RequestState, Subscription, SubscriptionRequest
from node.usage.quotas import Meter

_WHAT: Final = {Meter.CALLS.value: "more API calls", Meter.STREAM_SECONDS.value: "more stream time"}


@dataclass(frozen=True, slots=True)
class Question:
    """An open request: its id as text, a sentence, and the page where it is answered."""

    subject: str
    message: str
    link: str


@dataclass(frozen=True, slots=True)
class Questions:
    """`new`: nobody was told of them; `over`: subjects of incidents whose request is closed."""

    new: tuple[Question, ...]
    over: tuple[str, ...]


def read_questions(engine: Engine) -> Questions:
    """A request is told once: not again when its incident was marked as resolved by hand."""
    with engine.connect() as connection:
        waiting = {str(row.id): row for row in connection.execute(_OPEN)}
        told = _told(connection) if waiting else set()
        opened = open_ids(connection, Rule.CUSTOMER_ASKED)
    new = [_question(row) for subject, row in waiting.items() if subject not in told]
    return Questions(tuple(new), tuple(each for each in opened if each not in waiting))


def _told(connection: Connection) -> set[str]:
    """Also those that were ended by hand, but not those kept to the log while the rule was off."""
    seen = col(Notification.shown) | col(Notification.resolved_at).is_not(None)
    of_rule = col(Notification.rule) == Rule.CUSTOMER_ASKED.value
    return set(connection.scalars(select(col(Notification.subject)).where(of_rule, seen)))


def _question(row: Row[Any]) -> Question:
    who = row.name or row.payer
    what = _WHAT[row.meter] if row.kind == "override" else "support"
    message = f"{who}, customer of {row.listing or row.listing_id}, asks for {what}: {row.text}"
    link = f"/developers/customers/{row.subscription_id}#requests"
    return Question(str(row.id), message, link)


_OPEN: Final[Any] = (
    select(
        col(SubscriptionRequest.id),
        col(SubscriptionRequest.subscription_id),
        col(SubscriptionRequest.kind),
        col(SubscriptionRequest.meter),
        col(SubscriptionRequest.text),
        col(Subscription.name),
        col(Subscription.payer),
        col(Subscription.listing_id),
        col(Listing.name).label("listing"),
    )
    .join(Subscription, col(Subscription.id) == col(SubscriptionRequest.subscription_id))
    .outerjoin(Listing, col(Listing.id) == col(Subscription.listing_id))
    .where(col(SubscriptionRequest.state) == RequestState.OPEN)
    .order_by(col(SubscriptionRequest.id))
)
