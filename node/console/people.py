"""Sessions and tokens as rows of a table; the account page and Settings > Security share them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from node.accounts.access import Role
from node.accounts.sessions import SessionRow
from node.accounts.tokens import TokenView
from node.console.format import Moment, moment
from node.console.visit import Visit

_BROWSERS: Final = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS", "macOS"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True, slots=True)
class SessionLine:
    """A signed-in browser; `current`: the one that asks."""

    id: str
    user: str
    browser: str
    agent: str
    address: str
    begun: Moment
    seen: Moment
    current: bool


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token of the JSON API; `state` is a word and its tone."""

    id: str
    name: str
    user: str
    role: str
    created: Moment
    used: Moment | None
    expires: Moment | None
    state: tuple[str, str]
    valid: bool


def session_lines(visit: Visit, rows: Iterable[SessionRow]) -> tuple[SessionLine, ...]:
    return tuple(
        SessionLine(
            id=row.id,
            user=row.name,
            browser=browser_name(row.user_agent),
            agent=row.user_agent,
            address=row.address,
            begun=moment(row.created_at, visit.now, visit.zone),
            seen=moment(row.last_seen_at, visit.now, visit.zone),
            current=row.id == visit.session.id,
        )
        for row in rows
    )


def token_lines(visit: Visit, rows: Iterable[TokenView]) -> tuple[TokenLine, ...]:
    return tuple(_token_line(visit, row) for row in rows)


SESSIONS_CSV: Final = ("user", "browser", "address", "created_at", "last_seen_at", "expires_at")
TOKENS_CSV: Final = (
    "id",
    "name",
    "user",
    "role",
    "created_at",
    "last_used_at",
    "expires_at",
    "revoked_at",
)


def session_cells(rows: Iterable[SessionRow]) -> Iterator[tuple[object, ...]]:
    """Lines of SESSIONS_CSV; times in Unix seconds."""
    for row in rows:
        times = (row.created_at, row.last_seen_at, row.expires_at)
        yield row.name, row.user_agent, row.address, *times


def token_cells(rows: Iterable[TokenView]) -> Iterator[tuple[object, ...]]:
    """Lines of TOKENS_CSV; times in Unix seconds, never the secret."""
    for row in rows:
        ends = (row.last_used_at or "", row.expires_at or "", row.revoked_at or "")
        yield row.id, row.name, row.user_name, row.role.label, row.created_at, *ends


def role_options(roles: Iterable[Role]) -> tuple[tuple[str, str], ...]:
    """Roles to choose from: value and label."""
    return tuple((role.value, role.label) for role in roles)


def browser_name(agent: str) -> str:
    """`Firefox on Linux`, as well as it can be told."""
    browser = next((name for mark, name in _BROWSERS if mark in agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    return " on ".join(part for part in (browser, system) if part) or agent[:40] or "unknown"


def _token_line(visit: Visit, row: TokenView) -> TokenLine:
    expired = row.expires_at is not None and row.expires_at <= visit.now
    state = ("revoked", "plain") if row.revoked_at else ("valid", "good")
    if expired and not row.revoked_at:
        state = ("expired", "loud")
    return TokenLine(
        id=row.id,
        name=row.name,
        user=row.user_name,
        role=row.role.label,
        created=moment(row.created_at, visit.now, visit.zone),
        used=moment(row.last_used_at, visit.now, visit.zone) if row.last_used_at else None,
        expires=moment(row.expires_at, visit.now, visit.zone) if row.expires_at else None,
        state=state,
        valid=state[0] == "valid",
    )
