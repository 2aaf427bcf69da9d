"""The event log: what happened to the node, one line each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from sqlalchemy import Engine, insert, select
from sqlmodel import col

from finance.store import Write
from node.db.sweep import sweep
from node.usage.models import Event

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
CSV_ROWS = 500

INSERT_EVENT = insert(Event)


@dataclass(frozen=True, slots=True)
class EventView:
    """One line of the log; `at` in Unix seconds, `severity` is info, warning or error."""

    id: int
    at: int
    type: str
    severity: str
    message: str


@dataclass(frozen=True, slots=True)
class EventPage:
    """Some lines, newest first; `older` is the line to go on before, None at the end."""

    events: tuple[EventView, ...]
    older: int | None


def event(type_: str, severity: Severity, message: str, at: int) -> Write:
    """One line to write, as part of a batch."""
    row = {"at": at, "type": type_, "severity": severity, "message": message}
    return Write(INSERT_EVENT, row)


def read_events(
    engine: Engine, severity: Severity | None, before: int | None, count: int
) -> EventPage:
    """The last `count` lines before line `before`, of one severity or all (blocking)."""
    columns = [col(getattr(Event, name)) for name in EventView.__slots__]
    statement = select(*columns).order_by(col(Event.id).desc()).limit(count + 1)
    if severity is not None:
        statement = statement.where(col(Event.severity) == severity)
    if before is not None:
        statement = statement.where(col(Event.id) < before)
    with engine.connect() as connection:
        found = [EventView(**row) for row in connection.execute(statement).mappings()]
    events = tuple(found[:count])
    return EventPage(events, events[-1].id if len(found) > count else None)


def every_event(engine: Engine, severity: Severity | None) -> Iterator[EventView]:
    """All lines of one severity or all, newest first, read as they are taken (blocking)."""
    before: int | None = None
    while True:
        page = read_events(engine, severity, before, CSV_ROWS)
        yield from page.events
        if page.older is None:
            return
        before = page.older


def forget_events(engine: Engine, before: int) -> int:
    """Delete lines from before `before` (Unix seconds); how many (blocking)."""
    return sweep(engine, col(Event.id), col(Event.at) < before)
