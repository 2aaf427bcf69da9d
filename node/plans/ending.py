"""The seller ends a subscription: no renewal any more, and what is paid stays served (blocking)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, Engine, text

from catalog.characters import is_readable
from node.accounts.audit import Actor, record
from node.db.engine import writer
from node.plans.errors import EndRefused, PlanInvalid, PlanUnknown
from node.plans.subscribers import Subscriber, subscribers_in
from node.plans.terms import paid_after, served_to

MOST_REASON: Final = 500

# An order, or the customer's own cancelling, between the look and this leaves nothing to write.
_END: Final = text(
    "UPDATE subscription SET cancelled_at = :at, ended_by = :by, end_reason = :reason,"
    " served_until = :served_until, free_for = NULL, changed_at = :at, changes = changes + 1"
    " WHERE id = :id AND cancelled_at IS NULL AND changes = :seen"
)


class When(StrEnum):
    """When a subscription stops being served."""

    PERIOD_END = "period_end"  # of what is paid; of the month, where it is free
    NOW = "now"  # only where nothing is paid


def may_end_now(subscriber: Subscriber, now: int) -> bool:
    """Whether nothing that is paid would be cut short."""
    return not paid_after(subscriber.periods, now)


def end_subscription(
    engine: Engine, subscription_id: str, reason: str, when: When, now: int, actor: Actor
) -> int:
    """End it, and when it is served no more (Unix seconds). Its customer's node is told the
    reason. Raises PlanUnknown, PlanInvalid, EndRefused."""
    words = _words(reason)
    with writer(engine).begin() as connection:
        subscriber = _read(connection, subscription_id)
        if subscriber.cancelled_at is not None:
            raise EndRefused("already_ended", "It was ended before: it is not renewed.")
        if when is When.NOW and not may_end_now(subscriber, now):
            sentence = "What is paid stays served: end it at the end of its period."
            raise EndRefused("paid_until_end", sentence)
        return _write(connection, subscriber, words, when, now, actor)


def _write(
    connection: Connection, subscriber: Subscriber, words: str, when: When, now: int, actor: Actor
) -> int:
    served_until = now if when is When.NOW else None
    values = {"id": subscriber.id, "at": now, "by": actor.name, "reason": words}
    values |= {"served_until": served_until, "seen": subscriber.changes}
    if connection.execute(_END, values).rowcount != 1:
        raise EndRefused("subscription_changed", "It was changed meanwhile. Look at it again.")
    until = max(served_to(subscriber.periods, now, served_until), now)
    told = {"reason": words, "served_until": until}
    record(connection, actor, "customer.end", f"subscription {subscriber.id}", now, after=told)
    return until


def _read(connection: Connection, subscription_id: str) -> Subscriber:
    found = [each for each in subscribers_in(connection, [subscription_id]) if each.settled]
    if not found:
        raise PlanUnknown("There is no such customer.")
    return found[0]


def _words(reason: str) -> str:
    words = " ".join(reason.split())
    if not words or len(words) > MOST_REASON or not is_readable(words):
        sentence = f"Say why in at most {MOST_REASON} characters; the customer reads it."
        raise PlanInvalid("reason", sentence)
    return words
