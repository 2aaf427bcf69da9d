"""The event log, newest first."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import Engine

from node.accounts.access import Permission
from node.api.routing import Endpoints
from node.usage.events import Severity, read_events


class EventOut(BaseModel):
    """One line; `at` in Unix seconds."""

    id: int
    at: int
    type: str
    severity: Severity
    message: str


class EventsOut(BaseModel):
    """Some lines. `older` is the `before` of the next page, null at the end."""

    items: list[EventOut]
    older: int | None


def endpoints(engine: Engine) -> Endpoints:
    """`/api/events`."""
    area = Endpoints("", ["dashboard"])

    @area.get("/events", Permission.SEE_DASHBOARD)
    async def events(
        severity: Severity | None = None,
        before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
        count: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> EventsOut:
        """What happened to the node, of one severity or all."""
        page = await asyncio.to_thread(read_events, engine, severity, before, count)
        items = [
            EventOut(
                id=event.id,
                at=event.at,
                type=event.type,
                severity=event.severity,
                message=event.message,
            )
            for event in page.events
        ]
        return EventsOut(items=items, older=page.older)

    return area
