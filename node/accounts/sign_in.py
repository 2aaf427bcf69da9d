"""One attempt to sign in, as the database sees it: counted, judged, and its outcome stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, select, update
from sqlmodel import col

from node.accounts import attempts
from node.accounts.audit import Actor, record
from node.accounts.errors import SignInRefused
from node.accounts.models import User
from node.accounts.sessions import (
    Client,
    NewSession,
    begin_session,
    end_session,
    end_sessions_of,
)
from node.accounts.totp import use_code
from node.db.engine import writer


@dataclass(frozen=True, slots=True)
class Attempt:
    """A counted attempt on a user who exists and is not locked."""

    user_id: str
    name: str
    password_hash: str
    totp_secret_sealed: str


_COLUMNS: Final[tuple[Any, ...]] = (
    col(User.id).label("user_id"),
    col(User.name),
    col(User.password_hash),
    col(User.totp_secret_sealed),
)


def open_attempt(engine: Engine, now: int, *, name: str = "", user_id: str = "") -> Attempt | None:
    """Count an attempt on this user; None when unknown, disabled or locked (blocking)."""
    found = col(User.id) == user_id if user_id else col(User.name_key) == name.strip().lower()
    with writer(engine).begin() as connection:
        statement = select(*_COLUMNS).where(found, col(User.disabled).is_(False))
        row = connection.execute(statement).mappings().first()
        if row is None or attempts.begin_attempt(connection, row["user_id"], now) is None:
            return None
        return Attempt(**row)


def close_refused(engine: Engine, attempt: Attempt, action: str, address: str, now: int) -> None:
    """The attempt failed and stays counted (blocking)."""
    with writer(engine).begin() as connection:
        actor = Actor(attempt.user_id, attempt.name, address)
        record(connection, actor, action, attempt.user_id, now)


def close_confirmed(engine: Engine, attempt: Attempt) -> None:
    """A password asked for again was right (blocking)."""
    with writer(engine).begin() as connection:
        attempts.forgive(connection, attempt.user_id)


def close_signed_in(
    engine: Engine,
    attempt: Attempt,
    client: Client,
    now: int,
    *,
    new_hash: str | None,
    old_token_hash: str | None,
) -> NewSession:
    """The password was right: a session, or half of one where a code is due (blocking).
    Raises SignInRefused when it is not any more."""
    complete = not attempt.totp_secret_sealed
    with writer(engine).begin() as connection:
        _require_unchanged(connection, attempt)
        if new_hash is not None:
            _store(connection, attempt.user_id, password_hash=new_hash)
        if old_token_hash is not None:
            end_session(connection, old_token_hash)
        session = begin_session(connection, attempt.user_id, client, now, second_factor=complete)
        if complete:
            _signed_in(connection, attempt, client, now)
        else:
            attempts.take_back(connection, attempt.user_id)
    return session


def close_with_code(
    engine: Engine,
    attempt: Attempt,
    secret: str,
    code: str,
    half_hash: str,
    client: Client,
    now: int,
) -> NewSession | None:
    """Spend the code and trade the half session for a whole one; None: not valid, or the half
    was ended meanwhile (blocking)."""
    with writer(engine).begin() as connection:
        used = use_code(connection, attempt.user_id, secret, code, now)
        if used is None or not end_session(connection, half_hash):
            return None
        session = begin_session(connection, attempt.user_id, client, now)
        _signed_in(connection, attempt, client, now, used)
        return session


def close_new_password(
    engine: Engine, attempt: Attempt, new_hash: str, client: Client, now: int
) -> NewSession:
    """Store the user's own new password: every session ends, a new one begins (blocking).
    Raises SignInRefused when the old one is not theirs any more."""
    actor = Actor(attempt.user_id, attempt.name, client.address)
    with writer(engine).begin() as connection:
        _require_unchanged(connection, attempt)
        _store(connection, attempt.user_id, password_hash=new_hash, temporary_password=False)
        attempts.forgive(connection, attempt.user_id)
        end_sessions_of(connection, attempt.user_id)
        record(connection, actor, "password.change", attempt.user_id, now)
        return begin_session(connection, attempt.user_id, client, now)


def _require_unchanged(connection: Connection, attempt: Attempt) -> None:
    """Checking a password takes a while, in which it may be changed and its sessions ended: one
    begun with the old password would outlive that. Holds the user's row until the commit."""
    same = (
        (col(User.id) == attempt.user_id)
        & (col(User.password_hash) == attempt.password_hash)
        & (col(User.totp_secret_sealed) == attempt.totp_secret_sealed)
        & col(User.disabled).is_(False)
    )
    hold = update(User).where(same).values(password_hash=attempt.password_hash)
    if not connection.execute(hold).rowcount:
        raise SignInRefused("The account was changed at this moment. Sign in again.")


def _signed_in(
    connection: Connection, attempt: Attempt, client: Client, now: int, factor: str = ""
) -> None:
    attempts.forgive(connection, attempt.user_id)
    _store(connection, attempt.user_id, last_sign_in_at=now)
    actor = Actor(attempt.user_id, attempt.name, client.address)
    after = {"second_factor": factor} if factor else None
    record(connection, actor, "session.sign_in", attempt.user_id, now, after=after)


def _store(connection: Connection, user_id: str, **values: object) -> None:
    connection.execute(update(User).where(col(User.id) == user_id).values(**values))
