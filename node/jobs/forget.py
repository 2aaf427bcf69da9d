"""Forgets what nobody looks at any more. The trail of changes and all books are kept for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from sqlalchemy import Engine

from node.accounts.sessions import forget_sessions
from node.alerts.forgetting import forget_alerts
from node.jobs.runner import Job
from node.usage.answers import forget_answers
from node.usage.events import forget_events

EVERY_SECONDS = 3600.0
KEPT_SECONDS = 180 * 86_400
ANSWERS_KEPT_SECONDS = 30 * 86_400


def forget_job(engine: Engine, clock: Callable[[], float] = time.time) -> Job:
    """A run deletes events, resolved notifications, their deliveries and mail older than 180
    days, answers kept for 30, and sessions that have ended."""

    async def run() -> None:
        now = int(clock())
        await asyncio.to_thread(forget_events, engine, now - KEPT_SECONDS)
        await asyncio.to_thread(forget_alerts, engine, now - KEPT_SECONDS)
        await asyncio.to_thread(forget_answers, engine, now - ANSWERS_KEPT_SECONDS)
        await asyncio.to_thread(forget_sessions, engine, now)

    return run
