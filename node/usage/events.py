"""The event log: what happened to the node, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, insert, select
from sqlmodel import col

from finance.store import Write
from node.usage.models import Event

Severity = Literal["info", "warning", "error"]

INSERT_EVENT = insert(Event)


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of the log; `at` in Unix seconds."""

    at: int
    type: str
    severity: str
    message: str


def event(type_: str, severity: Severity, message: str, at: int) -> Write:
    """One line to write, as part of a batch."""
    row = {"at": at, "type": type_, "severity": severity, "message": message}
    return Write(INSERT_EVENT, row)


def recent_events(engine: Engine, count: int) -> list[EventView]:
    """The last `count` lines, newest first."""
    columns = [col(getattr(Event, name)) for name in EventView.__slots__]
    statement = select(*columns).order_by(col(Event.id).desc()).limit(count)
    with engine.connect() as connection:
        return [EventView(**row) for row in connection.execute(statement).mappings()]
