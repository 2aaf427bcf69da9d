"""Reading the trail of changes: newest first, filtered, by page or whole for a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, and_, func, or_, select, true
from sqlmodel import col

from finance.chunks import CHUNK, in_chunks
from node.accounts.models import AuditEntry

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class TrailFilter:
    """What to show; empty fields allow everything. `since` and `until` in Unix seconds."""

    area: str = ""
    actor: str = ""
    text: str = ""
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class TrailEntry:
    """One change; `before` and `after` are JSON text, empty: there was, or is, nothing."""

    id: int
    at: int
    actor_id: str
    actor_name: str
    address: str
    action: str
    subject: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class TrailPage:
    """One page of `total` entries; `page` from 1."""

    items: tuple[TrailEntry, ...]
    total: int
    page: int
    pages: int


def read_trail(engine: Engine, wanted: TrailFilter, page: int = 1) -> TrailPage:
    """A page of entries (blocking); a page behind the last one is the last."""
    condition = _condition(wanted)
    with engine.connect() as connection:
        total = connection.scalar(select(func.count(col(AuditEntry.id))).where(condition)) or 0
        pages = max(-(-total // PAGE_SIZE), 1)
        page = min(max(page, 1), pages)
        statement = _SELECT.where(condition).order_by(col(AuditEntry.id).desc())
        rows = connection.execute(statement.limit(PAGE_SIZE).offset((page - 1) * PAGE_SIZE))
        items = tuple(TrailEntry(**row) for row in rows.mappings())
    return TrailPage(items, total, page, pages)


def all_entries(engine: Engine, wanted: TrailFilter) -> Iterator[TrailEntry]:
    """Every entry, newest first, read as they are taken (blocking)."""
    newest = _SELECT.where(_condition(wanted)).order_by(col(AuditEntry.id).desc()).limit(CHUNK)

    def read(last: TrailEntry | None) -> list[TrailEntry]:
        older = newest if last is None else newest.where(col(AuditEntry.id) < last.id)
        with engine.connect() as connection:
            return [TrailEntry(**row) for row in connection.execute(older).mappings()]

    return in_chunks(read)


def areas(engine: Engine) -> tuple[str, ...]:
    """What entries are about: the words before the dot of their actions (blocking)."""
    with engine.connect() as connection:
        actions = connection.scalars(select(col(AuditEntry.action)).distinct())
        return tuple(sorted({action.split(".")[0] for action in actions}))


def _condition(wanted: TrailFilter) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = []
    if wanted.area:
        parts.append(col(AuditEntry.action).startswith(f"{wanted.area}.", autoescape=True))
    if wanted.actor:
        name = wanted.actor.strip()
        parts.append(or_(col(AuditEntry.actor_name) == name, col(AuditEntry.actor_id) == name))
    if wanted.text:
        parts.append(_mentions(wanted.text.strip()))
    if wanted.since is not None:
        parts.append(col(AuditEntry.at) >= wanted.since)
    if wanted.until is not None:
        parts.append(col(AuditEntry.at) < wanted.until)
    return and_(true(), *parts)


def _mentions(text: str) -> ColumnElement[bool]:
    """Capitals of ASCII aside, on either database. JSON has other letters as escapes."""
    escaped = json.dumps(text)[1:-1]
    plain = (col(getattr(AuditEntry, c)) for c in ("action", "subject", "address", "actor_name"))
    changed = (col(AuditEntry.before), col(AuditEntry.after))
    found = [column.icontains(text, autoescape=True) for column in plain]
    return or_(*found, *(column.icontains(escaped, autoescape=True) for column in changed))


_SELECT: Any = select(*(col(getattr(AuditEntry, name)) for name in TrailEntry.__slots__))
