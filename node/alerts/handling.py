"""What people do with notifications: acknowledge them, call them resolved."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Engine, update
from sqlmodel import col

from node.accounts.audit import Actor, record
from node.alerts.choices import AlertRules
from node.alerts.incidents import end_incidents
from node.alerts.models import Notification, NotificationState
from node.db.engine import writer
from node.preferences import read_preference


def acknowledge(engine: Engine, ids: Iterable[int], actor: Actor, now: int) -> int:
    """Mark those of `ids` that are new as seen by `actor`; how many were (blocking)."""
    done = 0
    with writer(engine).begin() as connection:
        for each in ids:
            statement = (
                update(Notification)
                .where(
                    col(Notification.id) == each,
                    col(Notification.state) == NotificationState.NEW.value,
                )
                .values(
                    state=NotificationState.ACKNOWLEDGED,
                    acknowledged_at=now,
                    acknowledged_by=actor.name,
                )
            )
            if connection.execute(statement).rowcount:
                record(connection, actor, "notification.acknowledge", str(each), now)
                done += 1
    return done


def resolve_by_hand(engine: Engine, ids: Iterable[int], actor: Actor, now: int) -> int:
    """End those of `ids` that are open; how many were (blocking)."""
    with writer(engine).begin() as connection:
        notify = read_preference(connection, AlertRules).notify_resolved
        ended = end_incidents(connection, ids, notify, actor.name, now)
        for each in ended:
            record(connection, actor, "notification.resolve", str(each), now)
    return len(ended)
