"""Sessions in the database: 12 hours idle, 7 days in all, named by a token only the browser has.

A session is never given new rights: signing in, a second factor, a new password or a new
role begins another one under another token, so one planted beforehand is worth nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlmodel import col

from node.accounts.access import Role
from node.accounts.audit import Actor, record
from node.accounts.errors import AccountUnknown
from node.accounts.models import User, UserSession
from node.db.engine import writer
from node.db.sweep import sweep

IDLE_SECONDS = 12 * 3600
LONGEST_SECONDS = 7 * 86400
CODE_SECONDS = 600  # between the password and the code of the second factor
SEEN_SECONDS = 60  # how exact `last_seen_at` is
_AGENT_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request comes from: IP address and the browser's name for itself."""

    address: str
    user_agent: str = ""


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just begun; `token` goes into the cookie and is kept nowhere else."""

    id: str
    token: str
    csrf: str
    second_factor: bool


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session with its user, as one look-up finds them; times in Unix seconds."""

    id: str
    user_id: str
    name: str
    role: Role
    csrf: str
    zone: str
    theme: str
    temporary_password: bool
    second_factor: bool
    created_at: int
    last_seen_at: int
    expires_at: int
    address: str
    user_agent: str

    def alive(self, now: int) -> bool:
        return now < min(self.expires_at, self.last_seen_at + IDLE_SECONDS)


def cookie_name(port: int | None) -> str:
    """What a console on this port calls its cookie. Browsers keep one for a host, whatever the
    port: two nodes of a machine would sign everybody out of each other."""
    return f"farebox_session_{port}" if port else "farebox_session"


def hash_token(token: str) -> str:
    """SHA-256, hex: tokens are 256 random bits and need no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def begin_session(
    connection: Connection, user_id: str, client: Client, now: int, *, second_factor: bool = True
) -> NewSession:
    """Begin a session in the caller's transaction; those that ended are swept away."""
    connection.execute(delete(UserSession).where(_ended(now)))
    new = NewSession(
        id=f"ses_{secrets.token_hex(6)}",
        token=secrets.token_urlsafe(32),
        csrf=secrets.token_urlsafe(32),
        second_factor=second_factor,
    )
    row = {
        "id": new.id,
        "token_hash": hash_token(new.token),
        "user_id": user_id,
        "created_at": now,
        "last_seen_at": now,
        "expires_at": now + (LONGEST_SECONDS if second_factor else CODE_SECONDS),
        "address": client.address,
        "user_agent": client.user_agent[:_AGENT_LENGTH],
        "csrf": new.csrf,
        "second_factor": second_factor,
    }
    connection.execute(insert(UserSession), row)
    return new


def find_session(engine: Engine, token_hash: str, now: int) -> SessionRow | None:
    """The session behind a token, if it is alive and its user may sign in (blocking)."""
    condition = (col(UserSession.token_hash) == token_hash) & col(User.disabled).is_(False)
    with engine.connect() as connection:
        found = connection.execute(_SELECT.where(condition)).first()
    session = _session(found) if found else None
    return session if session and session.alive(now) else None


def touch_session(engine: Engine, session_id: str, now: int) -> None:
    """Note that it is in use (blocking)."""
    later = (col(UserSession.id) == session_id) & (col(UserSession.last_seen_at) < now)
    with writer(engine).begin() as connection:
        connection.execute(update(UserSession).where(later).values(last_seen_at=now))


def list_sessions(engine: Engine, now: int, user_id: str | None = None) -> list[SessionRow]:
    """Sessions that are alive, the last seen first; of one user or of all (blocking)."""
    statement = _SELECT.where(~_ended(now), col(UserSession.second_factor).is_(True))
    if user_id is not None:
        statement = statement.where(col(UserSession.user_id) == user_id)
    order = (col(UserSession.last_seen_at).desc(), col(UserSession.id))
    with engine.connect() as connection:
        return [_session(row) for row in connection.execute(statement.order_by(*order))]


def end_session(connection: Connection, token_hash: str) -> bool:
    """Sign out the browser with this token, in the caller's transaction; whether it was in."""
    ended = delete(UserSession).where(col(UserSession.token_hash) == token_hash)
    return bool(connection.execute(ended).rowcount)


def end_sessions_of(connection: Connection, user_id: str, except_id: str | None = None) -> int:
    """Sign a user out everywhere, or everywhere else; how many sessions ended."""
    statement = delete(UserSession).where(col(UserSession.user_id) == user_id)
    if except_id is not None:
        statement = statement.where(col(UserSession.id) != except_id)
    return connection.execute(statement).rowcount


def revoke_session(
    engine: Engine, session_id: str, actor: Actor, now: int, user_id: str | None = None
) -> None:
    """End a session by its id, of `user_id` only when given. Raises AccountUnknown."""
    condition = col(UserSession.id) == session_id
    if user_id is not None:
        condition &= col(UserSession.user_id) == user_id
    with writer(engine).begin() as connection:
        if not connection.execute(delete(UserSession).where(condition)).rowcount:
            raise AccountUnknown("This session has ended already.")
        record(connection, actor, "session.revoke", session_id, now)


def sign_out_everywhere(
    engine: Engine, user_id: str, actor: Actor, now: int, except_id: str | None = None
) -> int:
    """End the sessions of a user, but for `except_id`; how many (blocking)."""
    with writer(engine).begin() as connection:
        ended = end_sessions_of(connection, user_id, except_id)
        record(connection, actor, "session.revoke_all", user_id, now, after={"ended": ended})
    return ended


def forget_sessions(engine: Engine, now: int) -> int:
    """Delete those that have ended; how many (blocking)."""
    return sweep(engine, col(UserSession.id), _ended(now))


def _ended(now: int) -> ColumnElement[bool]:
    idle = col(UserSession.last_seen_at) <= now - IDLE_SECONDS
    return or_(idle, col(UserSession.expires_at) <= now)


_SELECT: Final[Any] = select(  # more columns than types of rows count
    col(UserSession.id),
    col(UserSession.user_id),
    col(User.name),
    col(User.role),
    col(UserSession.csrf),
    col(User.zone),
    col(User.theme),
    col(User.temporary_password),
    col(UserSession.second_factor),
    col(UserSession.created_at),
    col(UserSession.last_seen_at),
    col(UserSession.expires_at),
    col(UserSession.address),
    col(UserSession.user_agent),
).join_from(UserSession, User, col(User.id) == col(UserSession.user_id))


def _session(row: Row[Any]) -> SessionRow:
    values = dict(row._mapping)
    return SessionRow(**{**values, "role": Role(values["role"])})
