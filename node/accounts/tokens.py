"""Bearer tokens of the JSON API: `fbt_…`, shown once, with a role within their maker's."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, insert, select, update
from sqlmodel import col

from catalog.characters import is_readable
from node.accounts.access import GRANTS, Identity, Role
from node.accounts.audit import Actor, record
from node.accounts.errors import AccountInvalid, AccountUnknown, Forbidden
from node.accounts.models import ApiToken, User
from node.accounts.sessions import hash_token
from node.accounts.users import parse_role
from node.db.engine import writer
from node.durations import DAY

PREFIX = "fbt_"
MAX_NAME = 60
MAX_DAYS = 3650
USED_SECONDS = 60  # how exact `last_used_at` is


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; `secret` is kept nowhere."""

    id: str
    name: str
    role: Role
    secret: str


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token as people see it; times in Unix seconds."""

    id: str
    name: str
    role: Role
    user_id: str
    user_name: str
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    """What a bearer token stands for."""

    id: str
    name: str
    role: Role
    user_id: str
    user_name: str
    last_used_at: int
    expires_at: int | None


def within(role: Role, maker: Role) -> bool:
    """Whether a token of `role` may do nothing that its maker may not."""
    return GRANTS[role] <= GRANTS[maker]


def roles_within(maker: Role) -> tuple[Role, ...]:
    """The roles a user may give to a token."""
    return tuple(role for role in Role if within(role, maker))


def create_token(
    engine: Engine,
    maker: Identity,
    name: str,
    role: str,
    now: int,
    days: int | str | None = None,
) -> NewToken:
    """Make a token that ends after `days`, never without them (blocking).

    Takes role and days as they were typed. Raises AccountInvalid or Forbidden.
    """
    if maker.restricted:
        raise Forbidden("Choose your own password first.")
    token = NewToken(
        id=f"tok_{secrets.token_hex(6)}",
        name=_clean_name(name),
        role=_role_within(role, maker.role),
        secret=PREFIX + secrets.token_urlsafe(32),
    )
    lifetime = _parse_days(days)
    expires_at = None if lifetime is None else now + lifetime * DAY
    if maker.ends_at is not None and (expires_at is None or expires_at > maker.ends_at):
        left = (maker.ends_at - now) // DAY
        sentence = f"A token cannot make one that outlives it: give at most {left} days."
        raise AccountInvalid("days", sentence if left else "This token ends too soon for that.")
    row = {
        "id": token.id,
        "token_hash": hash_token(token.secret),
        "user_id": maker.user_id,
        "name": token.name,
        "role": token.role,
        "created_at": now,
        "expires_at": expires_at,
    }
    shown = {"name": token.name, "role": token.role, "expires_at": row["expires_at"]}
    with writer(engine).begin() as connection:
        connection.execute(insert(ApiToken), row)
        record(connection, Actor.of(maker), "token.create", token.id, now, after=shown)
    return token


def _clean_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= MAX_NAME or not is_readable(name):
        raise AccountInvalid("name", f"Name what uses the token, in at most {MAX_NAME} characters.")
    return name


def _role_within(text: str, maker: Role) -> Role:
    role = parse_role(text)
    if not within(role, maker):
        raise AccountInvalid("role", f"A token of yours cannot have the role {role.label}.")
    return role


def _parse_days(days: int | str | None) -> int | None:
    text = "" if days is None else str(days).strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MAX_DAYS):
        raise AccountInvalid("days", f"Give between 1 and {MAX_DAYS} days, or leave it empty.")
    return int(text)


def find_token(engine: Engine, token_hash: str, now: int) -> TokenRow | None:
    """The token with this hash while it is worth something (blocking).

    A maker who was disabled, locked into a temporary password, or given a lesser role
    takes the token along.
    """
    columns: tuple[Any, ...] = (*_COLUMNS, col(User.role).label("maker_role"))
    condition = (
        (col(ApiToken.token_hash) == token_hash)
        & col(ApiToken.revoked_at).is_(None)
        & col(User.disabled).is_(False)
        & col(User.temporary_password).is_(False)
    )
    statement = select(*columns).join_from(ApiToken, User, _BY_USER).where(condition)
    with engine.connect() as connection:
        row = connection.execute(statement).mappings().first()
    if row is None or (row["expires_at"] is not None and row["expires_at"] <= now):
        return None
    role = Role(row["role"])
    if not within(role, Role(row["maker_role"])):
        return None
    return TokenRow(
        row["id"],
        row["name"],
        role,
        row["user_id"],
        row["user_name"],
        row["last_used_at"] or 0,
        row["expires_at"],
    )


def touch_token(engine: Engine, token_id: str, now: int) -> None:
    """Note that it was used (blocking)."""
    with writer(engine).begin() as connection:
        connection.execute(
            update(ApiToken).where(col(ApiToken.id) == token_id).values(last_used_at=now)
        )


def list_tokens(engine: Engine, user_id: str | None = None) -> list[TokenView]:
    """Tokens of one user or of all, newest first (blocking)."""
    statement = select(*_COLUMNS).join_from(ApiToken, User, _BY_USER)
    if user_id is not None:
        statement = statement.where(col(ApiToken.user_id) == user_id)
    order = (col(ApiToken.created_at).desc(), col(ApiToken.id))
    with engine.connect() as connection:
        rows = connection.execute(statement.order_by(*order)).mappings()
        return [TokenView(**{**row, "role": Role(row["role"])}) for row in rows]


def revoke_token(
    engine: Engine, token_id: str, actor: Actor, now: int, user_id: str | None = None
) -> None:
    """End a token at once, of `user_id` only when given (blocking). Raises AccountUnknown."""
    condition = (col(ApiToken.id) == token_id) & col(ApiToken.revoked_at).is_(None)
    if user_id is not None:
        condition &= col(ApiToken.user_id) == user_id
    with writer(engine).begin() as connection:
        changed = connection.execute(update(ApiToken).where(condition).values(revoked_at=now))
        if not changed.rowcount:
            raise AccountUnknown("There is no such token that is still valid.")
        record(connection, actor, "token.revoke", token_id, now)


_BY_USER = col(User.id) == col(ApiToken.user_id)
_COLUMNS: Final[tuple[Any, ...]] = (
    col(ApiToken.id),
    col(ApiToken.name),
    col(ApiToken.role),
    col(ApiToken.user_id),
    col(User.name).label("user_name"),
    col(ApiToken.created_at),
    col(ApiToken.last_used_at),
    col(ApiToken.expires_at),
    col(ApiToken.revoked_at),
)
