"""What is over, told and old leaves the notifications, their deliveries and the mailbox."""

from __future__ import annotations

from sqlalchemy import Engine, or_, select
from sqlmodel import col

from node.alerts.models import Delivery, DeliveryState, Mail, Notification
from node.db.sweep import sweep

_ENDED = (DeliveryState.SENT.value, DeliveryState.KEPT.value, DeliveryState.GIVEN_UP.value)


def forget_alerts(engine: Engine, before: int) -> int:
    """Delete what ended before `before` (Unix seconds); how many rows (blocking). An incident
    that is still open keeps its deliveries: they say whom to tell when it ends."""
    over = col(Notification.resolved_at) < before
    about = col(Delivery.notification_id)
    done = or_(about.is_(None), about.in_(select(col(Notification.id)).where(over)))
    told = (col(Delivery.created_at) < before) & col(Delivery.state).in_(_ENDED) & done
    return (
        sweep(engine, col(Delivery.id), told)
        + sweep(engine, col(Notification.id), over)
        + sweep(engine, col(Mail.id), col(Mail.at) < before)
    )
